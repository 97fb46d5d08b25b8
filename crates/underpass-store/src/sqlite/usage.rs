//! Usage, exceptions from limits, and ended sessions in SQLite.

use sqlx::{QueryBuilder, query, query_as};
use underpass_proto::limit::LimitKind;
use underpass_proto::packet::SessionId;

use super::Database;
use super::faults::OrFault;
use crate::{
    Day, EndedSession, Fault, LimitException, NewUsage, UnixMillis, UsageFilter, UsageKey, Used,
    UserChangeError, UserId,
};

/// Ended sessions that are kept: who ends more of them than that within days has the oldest forgotten.
const MOST_ENDED: i64 = 10_000;

impl Database {
    pub(super) async fn add_usage(&self, usage: &[NewUsage]) -> Result<(), Fault> {
        if usage.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin_write().await?;
        for NewUsage {
            day,
            user,
            service,
            used,
        } in usage
        {
            query(
                "INSERT INTO usage (day, user_id, service, sessions, sent, received) \
                 VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (day, user_id, service) DO UPDATE SET \
                 sessions = sessions + excluded.sessions, sent = sent + excluded.sent, \
                 received = received + excluded.received",
            )
            .bind(day.0)
            .bind(user.0)
            .bind(service)
            .bind(stored(used.sessions))
            .bind(stored(used.sent))
            .bind(stored(used.received))
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        }
        self.commit(transaction).await
    }

    pub(super) async fn usage(&self, filter: UsageFilter) -> Result<Vec<(String, Used)>, Fault> {
        let UsageFilter { since, user, by } = filter;
        let (key, from) = match by {
            // A name is there for as long as its user; who was forgotten has none.
            UsageKey::User => (
                "coalesce(users.name, '')",
                " FROM usage LEFT JOIN users ON users.id = usage.user_id",
            ),
            UsageKey::Day => ("CAST(day AS TEXT)", " FROM usage"),
            UsageKey::Service => ("service", " FROM usage"),
        };
        let mut list = QueryBuilder::new("SELECT ");
        list.push(key);
        list.push(", sum(sessions), sum(sent), sum(received)");
        list.push(from);
        list.push(" WHERE TRUE");
        if let Some(Day(since)) = since {
            list.push(" AND day >= ").push_bind(since);
        }
        if let Some(UserId(user)) = user {
            list.push(" AND user_id = ").push_bind(user);
        }
        list.push(" GROUP BY 1 ORDER BY 1");
        let rows: Vec<(String, i64, i64, i64)> = list
            .build_query_as()
            .fetch_all(&self.read)
            .await
            .or_fault(self)?;
        let row = |(key, sessions, sent, received): (String, i64, i64, i64)| {
            let key = match by {
                UsageKey::Day => {
                    Day(key.parse().map_err(|error| self.unreadable(error))?).to_string()
                }
                UsageKey::User | UsageKey::Service => key,
            };
            let used = Used {
                sessions: counted(sessions),
                sent: counted(sent),
                received: counted(received),
            };
            Ok((key, used))
        };
        rows.into_iter().map(row).collect()
    }

    pub(super) async fn used_since(&self, since: Day) -> Result<Vec<(UserId, u64)>, Fault> {
        let rows: Vec<(i64, i64)> = query_as(
            "SELECT user_id, sum(sent + received) FROM usage WHERE day >= $1 \
             GROUP BY user_id ORDER BY user_id",
        )
        .bind(since.0)
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        let row = |(user, bytes)| (UserId(user), counted(bytes));
        Ok(rows.into_iter().map(row).collect())
    }

    pub(super) async fn prune_usage(&self, before: Day) -> Result<u64, Fault> {
        let pruned = query("DELETE FROM usage WHERE day < $1")
            .bind(before.0)
            .execute(&self.write)
            .await
            .or_fault(self)?;
        Ok(pruned.rows_affected())
    }

    pub(super) async fn set_limit(
        &self,
        user: UserId,
        kind: LimitKind,
        exception: Option<Option<u64>>,
    ) -> Result<(), UserChangeError> {
        let mut transaction = self.begin_write().await?;
        let found = self.user_in(&mut transaction, user).await?;
        found.ok_or(UserChangeError::NoSuchUser)?;
        let changed = match exception {
            Some(value) => {
                query(
                    "INSERT INTO user_limits (user_id, kind, value) VALUES ($1, $2, $3) \
                     ON CONFLICT (user_id, kind) DO UPDATE SET value = excluded.value",
                )
                .bind(user.0)
                .bind(kind.word())
                .bind(value.map(stored))
                .execute(&mut *transaction)
                .await
            }
            None => {
                query("DELETE FROM user_limits WHERE user_id = $1 AND kind = $2")
                    .bind(user.0)
                    .bind(kind.word())
                    .execute(&mut *transaction)
                    .await
            }
        };
        changed.or_fault(self)?;
        Ok(self.commit(transaction).await?)
    }

    pub(super) async fn limit_exceptions(&self) -> Result<Vec<LimitException>, Fault> {
        let rows: Vec<(i64, String, Option<i64>)> =
            query_as("SELECT user_id, kind, value FROM user_limits ORDER BY user_id, kind")
                .fetch_all(&self.read)
                .await
                .or_fault(self)?;
        // A limit of a newer version is none of this one's.
        let row = |(user, kind, value): (i64, String, Option<i64>)| {
            Some(LimitException {
                user: UserId(user),
                kind: LimitKind::from_word(&kind)?,
                value: value.map(counted),
            })
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    pub(super) async fn end_session(
        &self,
        ended: &EndedSession,
        until: UnixMillis,
        at: UnixMillis,
    ) -> Result<(), Fault> {
        let mut transaction = self.begin_write().await?;
        query(
            "INSERT INTO ended_sessions (session, reason, until) VALUES ($1, $2, $3) \
               ON CONFLICT (session) DO NOTHING",
        )
        .bind(ended.session.0.as_slice())
        .bind(&ended.reason)
        .bind(until.0)
        .execute(&mut *transaction)
        .await
        .or_fault(self)?;
        query("DELETE FROM ended_sessions WHERE until <= $1")
            .bind(at.0)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        query(
            "DELETE FROM ended_sessions WHERE session IN \
             (SELECT session FROM ended_sessions ORDER BY until DESC LIMIT -1 OFFSET $1)",
        )
        .bind(MOST_ENDED)
        .execute(&mut *transaction)
        .await
        .or_fault(self)?;
        self.commit(transaction).await
    }

    pub(super) async fn ended_sessions(&self, at: UnixMillis) -> Result<Vec<EndedSession>, Fault> {
        let rows: Vec<(Vec<u8>, String)> =
            query_as("SELECT session, reason FROM ended_sessions WHERE until > $1 ORDER BY until")
                .bind(at.0)
                .fetch_all(&self.read)
                .await
                .or_fault(self)?;
        let row = |(session, reason): (Vec<u8>, String)| {
            let session = session.try_into();
            let session = session.map_err(|_| self.unreadable("a session of another length"))?;
            Ok(EndedSession {
                session: SessionId(session),
                reason,
            })
        };
        rows.into_iter().map(row).collect()
    }
}

/// SQLite has no unsigned numbers.
fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn counted(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}
