//! Relays of one group share a store: what another one changes there holds here as well (rights, limits, sessions that
//! were ended).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use underpass_store::{Fault, Store};

use crate::clock;
use crate::desk::Desk;

/// Between looks at the store; whoever was shut out at another relay is out here that much later.
const LOOK_AFTER: Duration = Duration::from_millis(250);

/// Ends what somebody may not do any more, because another relay says so, until `stop`. While the store cannot be asked,
/// all goes on and is looked at once it can.
pub(crate) async fn watch(store: Arc<dyn Store>, desk: Arc<Desk>, stop: CancellationToken) {
    let mut seen = None;
    let mut failing = false;
    while stop
        .run_until_cancelled(tokio::time::sleep(LOOK_AFTER))
        .await
        .is_some()
    {
        match look(store.as_ref(), &desk, seen).await {
            Ok(now) => {
                seen = Some(now);
                failing = false;
            }
            Err(fault) => {
                if !failing {
                    tracing::warn!("cannot see what other relays have changed: {fault}");
                }
                failing = true;
            }
        }
    }
}

/// The revision that the store is at; what is here was checked against it, unless that was done before.
async fn look(store: &dyn Store, desk: &Desk, seen: Option<u64>) -> Result<u64, Fault> {
    let now = store.rights_revision().await?;
    if seen != Some(now) {
        desk.check_all(clock::calendar()).await?;
    }
    Ok(now)
}
