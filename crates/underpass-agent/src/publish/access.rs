//! Whether a user may go on from one service of this machine to another.
//!
//! The relay lets a user through to one service. A session may then ask for others of the same
//! publisher, which the relay does not see; so the publisher asks it who is allowed.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use underpass_proto::control::ServiceRow;

use crate::standing::RequestError;
use crate::standings::Standings;

/// A list of users this old is still believed.
const FRESH: Duration = Duration::from_secs(5);

/// The relay's word on who may use what, remembered for a moment.
#[derive(Debug)]
pub(super) struct Access {
    standings: Standings,
    rows: Mutex<Option<(Instant, Vec<ServiceRow>)>>,
}

impl Access {
    pub(super) fn new(standings: Standings) -> Self {
        Self {
            standings,
            rows: Mutex::new(None),
        }
    }

    /// Whether `user` may use the service with this full name.
    ///
    /// # Errors
    /// The relay cannot be asked, which must be taken as a no.
    pub(super) async fn allows(&self, user: &str, full_name: &str) -> Result<bool, RequestError> {
        let mut rows = self.rows.lock().await;
        let fresh = rows.as_ref().filter(|(asked, _)| asked.elapsed() < FRESH);
        // A no is never remembered: whoever has just been let in need not wait.
        if fresh.is_some_and(|(_, rows)| listed(rows, user, full_name)) {
            return Ok(true);
        }
        let asked = Instant::now();
        let answer = self.standings.best().1.services().await?;
        let allowed = listed(&answer, user, full_name);
        *rows = Some((asked, answer));
        Ok(allowed)
    }
}

fn listed(rows: &[ServiceRow], user: &str, full_name: &str) -> bool {
    rows.iter().any(|row| {
        row.mine
            && row.full_name == full_name
            && (row.owner == user || row.allowed.iter().any(|who| who == user || who == "*"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(full_name: &str, mine: bool, allowed: &[&str]) -> ServiceRow {
        ServiceRow {
            name: "db".into(),
            owner: "bob".into(),
            full_name: full_name.into(),
            description: String::new(),
            present: true,
            mine,
            publisher: [0; 32],
            plain_http: false,
            allowed: allowed.iter().map(|who| (*who).to_owned()).collect(),
        }
    }

    #[test]
    fn owner_and_allowed_users_only() {
        let rows = [
            row("db.bob", true, &["alice"]),
            row("web.bob", true, &["*"]),
            row("db.carol", false, &["*", "dave"]),
        ];
        for (user, name, expected) in [
            ("bob", "db.bob", true),
            ("alice", "db.bob", true),
            ("dave", "db.bob", false),
            ("dave", "web.bob", true),
            ("dave", "db.carol", false),
            ("alice", "none.bob", false),
            ("*", "db.bob", false),
        ] {
            assert_eq!(listed(&rows, user, name), expected, "{user} {name}");
        }
    }
}
