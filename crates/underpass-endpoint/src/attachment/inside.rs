//! An attachment over one carrier that somebody else has made, and that is never made anew: how a
//! relay acts as an endpoint at itself, for clients that have no agent.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use underpass_carrier::{Carrier, ClientSettings, RelayUrl};
use underpass_proto::Code;
use underpass_proto::session::Config;
use underpass_seal::{PublicKey, StaticKey};

use super::{AttachError, AttachSettings, Attachment, Inner};
use crate::ascent::{AscentSettings, SharedLadder};
use crate::attempt::{self, Failed, NewHop};
use crate::clock;
use crate::packets::PacketCarrier;
use crate::routes::Routes;
use crate::session::Session;
use crate::story::{Story, words_of};

impl Attachment {
    /// Attaches over `carrier` to the relay that has `relay_key`. The attachment ends with the carrier,
    /// with its session, or with [`Attachment::detach`], whichever comes first.
    ///
    /// # Errors
    /// [`AttachError::Unreachable`] when the carrier ends before the handshake does, `RelayKey` and
    /// `Refused` as with any other attachment.
    ///
    /// # Panics
    /// Never: the address it shows in place of a relay's is a sound one.
    pub async fn over(
        carrier: Carrier,
        relay_key: PublicKey,
        identity: Arc<StaticKey>,
        session: Config,
    ) -> Result<Attachment, AttachError> {
        let relay: RelayUrl = "http://inside"
            .parse()
            .expect("the text is a sound address of a relay");
        let settings = AttachSettings {
            relay,
            relay_key: Some(relay_key.fingerprint()),
            carriers: Vec::new(),
            ascent: AscentSettings::default(),
            client: ClientSettings::default(),
            session,
        };
        let routes = Arc::new(Routes::default());
        let packets = PacketCarrier::new(carrier);
        let pin = settings.relay_key;
        let made = async {
            let begun = attempt::begin(packets, &settings, &identity, pin, || ()).await?;
            attempt::finish(begun, &routes).await
        };
        let unreachable = |reason| AttachError::Unreachable {
            relay: settings.relay.to_string(),
            tried: vec![reason],
        };
        let NewHop { session, link, .. } = made.await.map_err(|failed| match failed {
            Failed::Final(error) | Failed::Stale(error) | Failed::Busy(error) => error,
            Failed::Path(reason) | Failed::Cut(reason) => unreachable(reason),
            Failed::Carrier(error) => unreachable(error.to_string()),
        })?;
        let inner = Arc::new(Inner {
            settings,
            identity,
            routes,
            relay_key,
            link: watch::Sender::new(Some(Arc::clone(&link))),
            session: watch::Sender::new(session),
            story: Mutex::new(Story::begin(clock::now(), words_of(link.info()))),
            ladder: SharedLadder::without_rungs(),
            going: watch::Sender::new(None),
            ended: watch::Sender::new(None),
        });
        tokio::spawn(end_with_its_link(Arc::clone(&inner)));
        Ok(Attachment { inner })
    }

    /// Whether all channels of all sessions of this attachment are over, and what was written to them has
    /// arrived or never will.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let arrived = |session: &Session| {
            let status = session.status();
            status.closed.is_some() || (status.channels == 0 && status.unacknowledged == 0)
        };
        let sessions = self.inner.routes.sessions.living();
        arrived(&self.session()) && sessions.iter().all(arrived)
    }
}

/// Ends the attachment when its session ends or its one link does.
async fn end_with_its_link(inner: Arc<Inner>) {
    let session = inner.session.borrow().clone();
    let link = inner.link.borrow().clone();
    let Some(link) = link else { return };
    let closed = tokio::select! {
        closed = session.closed() => closed,
        end = link.ended() => {
            session.close(Code::GoingAway, &end.to_string());
            session.closed().await
        }
    };
    // Nobody is left to keep the link for, once the last word is out.
    link.close();
    inner.link.send_replace(None);
    let (code, text) = (closed.code, closed.reason);
    inner.ended.send_if_modified(|ended| {
        let first = ended.is_none();
        if first {
            *ended = Some(AttachError::Refused { code, text });
        }
        first
    });
}
