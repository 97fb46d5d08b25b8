//! Pairs that are kept connected: whenever a session ends, the next one is waited for.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use underpass_proto::code;
use underpass_proto::meeting::Peer;

use super::{Doors, Encounter, MeetError, Meeting, Rendezvous};
use crate::status::PairShown;

/// Between attempts after one that the relay refused, or that met somebody who is not who it was: from this, twice as
/// long each time, to that.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Two who meet again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The other user, or `*`.
    pub user: String,
    /// What for.
    pub application: String,
}

/// Keeps a pair connected, with what is at this side of it, until no relay is attached to any more.
pub async fn keep_pair(rendezvous: &Rendezvous, pair: &Pair, doors: &Doors, shown: &PairShown) {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match rendezvous.meet(&pair.user, &pair.application).await {
            Ok(mut meeting) => {
                pause = FIRST_PAUSE;
                let error = serve_all(&mut meeting, doors, shown, None).await;
                meeting.part().await;
                error
            }
            Err(error) => error,
        };
        if matches!(error, MeetError::Attach(_)) {
            return;
        }
        let Pair { user, application } = pair;
        tracing::warn!(
            "{application} with {user}: {error} [{}]; trying again in {pause:?}",
            error.code().up()
        );
        shown.set(&format!("{error} [{}]", error.code().up()));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Leads whoever comes to what is at this side, `first` as well, until the wish is of no use any more: why. One for a user
/// meets one at a time, one for anybody all who come.
pub async fn serve_all(
    meeting: &mut Meeting,
    doors: &Doors,
    shown: &PairShown,
    first: Option<Encounter>,
) -> MeetError {
    let mut serving = FuturesUnordered::new();
    serving.extend(first.map(|met| doors.serve(met)));
    let application = meeting.application().to_owned();
    loop {
        shown.set(match serving.len() {
            0 => "waiting",
            _ => "connected",
        });
        let more = serving.is_empty() || *meeting.peer() == Peer::Anybody;
        tokio::select! {
            met = meeting.next(None), if more => match met {
                Ok(met) => {
                    let key = met.machine.fingerprint();
                    tracing::info!("{application}: met {} by {key}", met.user);
                    serving.push(doors.serve(met));
                }
                Err(error) => return error,
            },
            Some(closed) = serving.next() => tracing::info!(
                "{application}: a session ended: {} [{}]",
                closed.reason,
                code::name(closed.code)
            ),
        }
    }
}
