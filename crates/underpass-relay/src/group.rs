//! What changes around a relay while agents are attached: relays of one group share a store, and what another one changes
//! there (rights, limits, sessions that were ended) holds here as well; keys and certificates come to their end; and
//! authorities revoke certificates.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use underpass_store::{Fault, Store, UnixMillis};

use crate::certificates::Certificates;
use crate::clock;
use crate::desk::Desk;

/// Between looks at the store; whoever was shut out at another relay is out here that much later.
const LOOK_AFTER: Duration = Duration::from_millis(250);

/// What attachments were last checked against.
#[derive(Debug, Default)]
struct Seen {
    rights: Option<u64>,
    /// When the next key ends.
    next_end: Option<UnixMillis>,
    certificates: Option<u64>,
}

/// Ends what somebody may not do any more, because another relay, a date or an authority says so, until `stop`. While the
/// store cannot be asked, all goes on and is looked at once it can.
pub(crate) async fn watch(
    store: Arc<dyn Store>,
    desk: Arc<Desk>,
    certificates: Arc<Certificates>,
    stop: CancellationToken,
) {
    let mut seen = Seen::default();
    let mut failing = false;
    while stop
        .run_until_cancelled(tokio::time::sleep(LOOK_AFTER))
        .await
        .is_some()
    {
        if certificates.trusted().is_some() {
            let following = Arc::clone(&certificates);
            // Where it cannot be run, the program is ending.
            let _ = tokio::task::spawn_blocking(move || following.follow()).await;
        }
        match look(store.as_ref(), &desk, &certificates, &mut seen).await {
            Ok(()) => failing = false,
            Err(fault) => {
                if !failing {
                    tracing::warn!("cannot see what other relays have changed: {fault}");
                }
                failing = true;
            }
        }
    }
}

/// Checks what has changed since it was seen.
async fn look(
    store: &dyn Store,
    desk: &Desk,
    certificates: &Certificates,
    seen: &mut Seen,
) -> Result<(), Fault> {
    let now = clock::calendar();
    let rights = Some(store.rights_revision().await?);
    if seen.rights != rights || seen.next_end.is_some_and(|end| end <= now) {
        seen.next_end = desk.check_all(now).await?;
        seen.rights = rights;
    }
    let generation = Some(certificates.generation());
    if seen.certificates != generation {
        desk.check_certificates(now).await?;
        seen.certificates = generation;
    }
    Ok(())
}
