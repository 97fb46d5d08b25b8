//! Following what the relays of a group announce.
//!
//! Every relay that is attached to is asked for the list of its group, again in each hop session, and when it says
//! that the list has changed. A list counts when the key has signed it that was pinned at the login, and it is not older
//! than the one that is kept; then the relays on it are used, and no others.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use underpass_proto::control::GroupList;
use underpass_proto::group::{GroupError, RelayList};
use underpass_seal::Fingerprint;

use crate::home::{Announcement, Home, HomeError, KnownRelay};
use crate::standing::{Reach, Standing};
use crate::standings::{Seen, Standings};

/// All agents of a relay hear of a change at once, and all of them ask again when a relay was restarted: each does
/// at a random time within this.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// A request that has failed is made again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Follows what the relays announce that are used in the place of one that this machine has logged in to.
pub struct Following {
    home: Home,
    /// As it stands in the home, by its address.
    login: KnownRelay,
    standings: Standings,
    /// How the login's relay is reached; others are reached as it is.
    reach: Reach,
    /// What was told of a list that is not believed, so that it is told once.
    complaints: Mutex<HashSet<String>>,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Following").field(&self.login.url).finish()
    }
}

/// Why a list was not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Home(#[from] HomeError),
}

impl Following {
    /// For the relays of `standings`, which are those of the group of `login`; all of them are reached as `reach` says.
    #[must_use]
    pub fn new(home: Home, login: KnownRelay, standings: Standings, reach: Reach) -> Self {
        Self {
            home,
            login,
            standings,
            reach,
            complaints: Mutex::default(),
        }
    }

    /// Follows until there is no relay any more.
    pub async fn run(self) {
        let this = Arc::new(self);
        let (mut seen, mut asking) = (Seen::default(), JoinSet::new());
        loop {
            tokio::select! {
                standing = this.standings.joined(&mut seen) => {
                    asking.spawn(Arc::clone(&this).ask_as_long_as(standing));
                }
                _ = this.standings.fleet().ended() => return,
                Some(_) = asking.join_next() => {}
            }
        }
    }

    /// Asks one relay for as long as it is attached to.
    async fn ask_as_long_as(self: Arc<Self>, standing: Standing) {
        let attachment = standing.attachment().clone();
        let asking = async {
            let mut changes = standing.group_changes();
            loop {
                let session = attachment.session();
                changes.mark_unchanged();
                let again = match standing.group().await {
                    Ok(list) => {
                        if let Some(list) = list {
                            self.announced(&standing, list);
                        }
                        None
                    }
                    Err(error) => {
                        tracing::debug!("cannot ask for the relays of the group: {error}");
                        error.code().retry_helps().then_some(ASK_AGAIN)
                    }
                };
                tokio::select! {
                    // The sender lives as long as the standing.
                    _ = changes.changed() => {}
                    true = attachment.session_changed(&session) => {}
                    () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
                }
                tokio::time::sleep(ASK_WITHIN.mul_f64(rand::random())).await;
            }
        };
        tokio::select! {
            () = asking => {}
            _ = attachment.ended() => {}
        }
    }

    /// A relay has said which relays its group has.
    fn announced(&self, standing: &Standing, list: GroupList) {
        let relay = standing.attachment().status().relay;
        let key = standing.attachment().relay_key().fingerprint();
        match self.take(key, list) {
            Ok(Announcement::Known) => {}
            Ok(Announcement::Pinned) => tracing::info!(
                "{relay} announces the relays of its group; the group's key is pinned from now on"
            ),
            Ok(Announcement::Taken) => {
                tracing::info!("{relay} announces a new list of relays");
            }
            Err(error) => {
                let text = format!(
                    "{relay} announces what is not believed: {}",
                    described(&error)
                );
                let complaints = self.complaints.lock();
                let mut complaints = complaints.unwrap_or_else(PoisonError::into_inner);
                if complaints.len() < 100 && complaints.insert(text.clone()) {
                    match error {
                        // Relays are given a new list one after the other.
                        NotTaken::Group(GroupError::Older { .. }) => tracing::warn!("{text}"),
                        _ => tracing::error!("{text}"),
                    }
                }
            }
        }
    }

    /// Takes a list by the relay with this key, if it is to be believed, and uses the newest that there is.
    fn take(&self, key: Fingerprint, list: GroupList) -> Result<Announcement, NotTaken> {
        let list = RelayList::try_from(list)?;
        // A relay that was only announced is believed in nothing but what the group's key has signed.
        let may_pin = key == self.login.key;
        let taken = self.home.take_group(&self.login.url, &list, may_pin)?;
        // Another process may have heard of a newer one, whatever this relay says.
        let relays = self.home.relays()?;
        if let Some(login) = relays.find(&self.login.url)
            && let Some(newest) = self.home.group_of(login)?
        {
            self.use_all(login, &newest);
        }
        Ok(taken?)
    }

    fn use_all(&self, login: &KnownRelay, list: &RelayList) {
        let reaches = login.with_group(list).into_iter().filter_map(|relay| {
            let url = relay.url.parse();
            let url = url.inspect_err(|error| {
                tracing::warn!("{} is no address of a relay: {error}", relay.url);
            });
            let mut reach = self.reach.clone();
            if relay.announced_by.is_none() {
                return Some(reach);
            }
            reach.relay = url.ok()?;
            reach.relay_key = Some(relay.key);
            reach.client.tls = relay.tls.into();
            reach.announced_by = relay.announced_by;
            Some(reach)
        });
        let reaches: Vec<Reach> = reaches.collect();
        if !reaches.is_empty() {
            self.standings.use_only(&reaches);
        }
    }
}

/// With the code and the next step, where there is one.
fn described(error: &NotTaken) -> String {
    match error {
        NotTaken::Group(error) => {
            let code = error.code().explain();
            format!("{error}; {} [{}]", code.next, code.up)
        }
        NotTaken::Home(error) => error.to_string(),
    }
}
