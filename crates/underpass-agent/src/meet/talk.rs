//! Two who talk through one channel, as by standard input and output.

use std::convert::Infallible;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use underpass_endpoint::{Channel, ChannelError, Incoming, OpenOptions, Session};
use underpass_proto::Code;
use underpass_proto::frame::{ChannelKind, Class};

use super::Encounter;
use crate::connect::{NcError, drained, nc};

/// What a channel is opened to by who is done: it is answered once the other side is done as well. No application can
/// have this name.
const OVER: &str = "@over";

/// How long the last bytes may take to arrive at who does not say when it is done.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

impl Encounter {
    /// Opens a channel to the other side.
    ///
    /// # Errors
    /// The other side refuses it, or the session has ended.
    pub async fn open(&self, class: Class) -> Result<Channel, ChannelError> {
        let options = OpenOptions {
            kind: ChannelKind::Stream,
            class,
            compress: self.compression,
        };
        let mut channel = self.session.open(&self.service, options).await?;
        channel.accepted().await?;
        Ok(channel)
    }

    /// Whether this is what the two have met for.
    pub(super) fn is_meant(&self, incoming: &Incoming) -> bool {
        incoming.service() == self.service && incoming.kind() == ChannelKind::Stream
    }

    /// Moves bytes between one channel, and an input and output, until both directions have ended and both sides have
    /// read all; then ends the session. `ready` is called once the other side is there.
    ///
    /// # Errors
    /// The other side has no use for a channel, or either side broke off.
    pub async fn talk(
        &self,
        class: Class,
        ready: impl FnOnce(),
        input: impl AsyncRead + Unpin,
        output: impl AsyncWrite + Unpin,
    ) -> Result<(), NcError> {
        let channel = self.one_channel(class).await?;
        ready();
        let mut others = Others::default();
        let done = tokio::select! {
            done = nc(channel, input, output) => done,
            never = others.turn_away(&self.session) => match never {},
        };
        if done.is_ok() {
            others.wait(self).await;
        }
        let code = if done.is_ok() {
            Code::NoError
        } else {
            Code::Aborted
        };
        self.session.close(code, "the program ended");
        done
    }

    /// Of the channels that both sides open the one that is of who opened the session, so that there is one whichever
    /// of the two opens none.
    async fn one_channel(&self, class: Class) -> Result<Channel, ChannelError> {
        let opening = self.open(class);
        tokio::pin!(opening);
        let mut refused = false;
        loop {
            tokio::select! {
                opened = &mut opening, if !refused => match opened {
                    Err(error) if self.published || self.session.is_closed() => return Err(error),
                    // The other side may open one yet.
                    Err(_) => refused = true,
                    opened => return opened,
                },
                incoming = self.session.accept() => match incoming {
                    Some(incoming) if !self.is_meant(&incoming) => incoming.refuse(Code::NoService),
                    Some(incoming) if self.opened && !refused => incoming.refuse(Code::Connected),
                    Some(incoming) => return Ok(incoming.accept()),
                    None => {
                        let closed = self.session.closed().await;
                        return Err(ChannelError::SessionClosed(closed));
                    }
                },
            }
        }
    }
}

/// Channels beside the one.
#[derive(Default)]
struct Others {
    /// By which the other side has said that it is done.
    over: Option<Incoming>,
}

impl Others {
    /// Refuses all but the other side's word that it is done. Cancel safe.
    async fn turn_away(&mut self, session: &Session) -> Infallible {
        while let Some(incoming) = session.accept().await {
            match incoming.service() {
                OVER => self.over = Some(incoming),
                _ => incoming.refuse(Code::Connected),
            }
        }
        std::future::pending().await
    }

    /// Waits until the other side is done too: what it has acknowledged its program may not have read. A session that
    /// ends takes that with it.
    async fn wait(self, met: &Encounter) {
        // An answer lasts as long as its channel.
        let mut answers: Vec<Channel> = self.over.map(Incoming::accept).into_iter().collect();
        let asking = async {
            let options = OpenOptions::default();
            let mut channel = met.session.open(OVER, options).await?;
            channel.accepted().await.map(|()| channel)
        };
        tokio::pin!(asking);
        let done = loop {
            tokio::select! {
                done = &mut asking, if !met.published => break done.is_ok(),
                incoming = met.session.accept() => match incoming {
                    Some(incoming) if incoming.service() == OVER => answers.push(incoming.accept()),
                    Some(incoming) => incoming.refuse(Code::Connected),
                    None => return,
                },
                () = drained(&met.session, 0), if met.published => break true,
            }
        };
        if !done {
            // Programs of its own are at that end, and know when they have read all.
            let _ = tokio::time::timeout(FINISH_LIMIT, drained(&met.session, 0)).await;
        }
    }
}
