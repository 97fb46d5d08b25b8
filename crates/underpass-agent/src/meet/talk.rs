//! One channel with whoever was met, as for standard input and output; and the end of a session.

use std::time::Duration;

use underpass_endpoint::{Channel, ChannelError, Incoming, OpenOptions, Session};
use underpass_proto::Code;
use underpass_proto::frame::{ChannelKind, Class};

use super::Encounter;
use crate::connect::drained;

/// How long the last bytes of a session may take to arrive.
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
}

/// The one channel of two who talk through one: of those that both sides open the one that is of who opened the session,
/// so that there is one whichever of the two opens none. All others are refused from then on.
///
/// # Errors
/// The session has ended.
pub async fn one_channel(met: &Encounter, class: Class) -> Result<Channel, ChannelError> {
    let opening = met.open(class);
    tokio::pin!(opening);
    let mut refused = None;
    let channel = loop {
        tokio::select! {
            opened = &mut opening, if refused.is_none() => match opened {
                Ok(channel) => break channel,
                Err(error) if met.published || met.session.is_closed() => return Err(error),
                // The other side may open one yet.
                Err(error) => refused = Some(error),
            },
            incoming = met.session.accept() => match incoming {
                Some(incoming) if !met.is_meant(&incoming) => incoming.refuse(Code::NoService),
                Some(incoming) if met.opened && refused.is_none() => incoming.refuse(Code::Connected),
                Some(incoming) => break incoming.accept(),
                None => return Err(ended(met).await),
            },
        }
    };
    tokio::spawn(refuse_others(met.session.clone()));
    Ok(channel)
}

async fn ended(met: &Encounter) -> ChannelError {
    ChannelError::SessionClosed(met.session.closed().await)
}

async fn refuse_others(session: Session) {
    while let Some(incoming) = session.accept().await {
        incoming.refuse(Code::Connected);
    }
}

/// Waits a little until all that was written has arrived, then ends the session in order.
pub async fn over(met: &Encounter) {
    let _ = tokio::time::timeout(FINISH_LIMIT, drained(&met.session, 0)).await;
    met.session.close(Code::NoError, "the program ended");
}
