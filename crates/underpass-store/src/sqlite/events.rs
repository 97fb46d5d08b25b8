//! The log of events in SQLite.

use sqlx::{QueryBuilder, Sqlite, query, query_scalar};

use super::Database;
use super::faults::OrFault;
use crate::{
    AppendError, Event, EventFilter, EventId, EventRetention, Fault, NewEvent, UnixMillis,
};

/// A row of `events`: id, at, kind, actor, peer, address, details.
type EventRow = (
    i64,
    i64,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    String,
);

/// Events forgotten in one transaction: some milliseconds of work, so that others get their turn.
const PRUNE_STEP: i64 = 2_000;

fn read_event(row: EventRow) -> Event {
    let (id, at, kind, actor, peer, address, details) = row;
    Event {
        id: EventId(id),
        event: NewEvent {
            at: UnixMillis(at),
            kind,
            actor,
            peer,
            address,
            details,
        },
    }
}

/// `select`, narrowed by the conditions that the filter sets: one that it does not set must not
/// stand in the statement, or SQLite would use no index for the others.
fn list_query(select: &'static str, filter: &EventFilter) -> QueryBuilder<Sqlite> {
    let EventFilter {
        since,
        user,
        kind,
        before,
        after,
        limit,
    } = filter;
    let mut list = QueryBuilder::new(select);
    list.push(" WHERE TRUE");
    if let Some(UnixMillis(since)) = since {
        list.push(" AND at >= ").push_bind(*since);
    }
    if let Some(user) = user {
        list.push(" AND (actor = ").push_bind(user.clone());
        list.push(" OR peer = ").push_bind(user.clone()).push(")");
    }
    if let Some(kind) = kind {
        list.push(" AND kind = ").push_bind(kind.clone());
    }
    if let Some(EventId(before)) = before {
        list.push(" AND id < ").push_bind(*before);
    }
    if let Some(EventId(after)) = after {
        list.push(" AND id > ").push_bind(*after);
    }
    let order = match after {
        Some(_) => " ORDER BY id LIMIT ",
        None => " ORDER BY id DESC LIMIT ",
    };
    list.push(order).push_bind(i64::from(*limit));
    list
}

impl Database {
    pub(super) async fn append_events(&self, events: &[NewEvent]) -> Result<(), AppendError> {
        events.iter().try_for_each(NewEvent::check_lengths)?;
        if events.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin_write().await?;
        for event in events {
            let NewEvent {
                at,
                kind,
                actor,
                peer,
                address,
                details,
            } = event;
            let appended = query(
                "INSERT INTO events (at, kind, actor, peer, address, details) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(at.0)
            .bind(kind)
            .bind(actor)
            .bind(peer)
            .bind(address)
            .bind(details)
            .execute(&mut *transaction)
            .await;
            // The table's one CHECK is that the details are JSON.
            if let Err(sqlx::Error::Database(refused)) = &appended
                && refused.is_check_violation()
            {
                return Err(AppendError::NotJson);
            }
            appended.or_fault(self)?;
        }
        Ok(self.commit(transaction).await?)
    }

    pub(super) async fn events(&self, filter: &EventFilter) -> Result<Vec<Event>, Fault> {
        let mut list = list_query(
            "SELECT id, at, kind, actor, peer, address, details FROM events",
            filter,
        );
        let rows = list
            .build_query_as()
            .fetch_all(&self.read)
            .await
            .or_fault(self)?;
        Ok(rows.into_iter().map(read_event).collect())
    }

    pub(super) async fn prune_events(&self, keep: EventRetention) -> Result<u64, Fault> {
        let EventRetention {
            not_before,
            at_most,
        } = keep;
        let mut pruned = 0;
        if let Some(not_before) = not_before {
            pruned += self.prune_before(not_before).await?;
        }
        if let Some(at_most) = at_most {
            pruned += self.prune_beyond(at_most).await?;
        }
        Ok(pruned)
    }

    async fn prune_before(&self, not_before: UnixMillis) -> Result<u64, Fault> {
        let mut pruned = 0;
        loop {
            let step = query(
                "DELETE FROM events WHERE id IN \
                 (SELECT id FROM events WHERE at < $1 ORDER BY at LIMIT $2)",
            )
            .bind(not_before.0)
            .bind(PRUNE_STEP)
            .execute(&self.write)
            .await
            .or_fault(self)?;
            pruned += step.rows_affected();
            if step.rows_affected() == 0 {
                return Ok(pruned);
            }
        }
    }

    /// Keeps the `at_most` newest events by number.
    async fn prune_beyond(&self, at_most: u64) -> Result<u64, Fault> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        // Fixed once, so that events that come in meanwhile do not push out further ones.
        let last: Option<i64> =
            query_scalar("SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET $1")
                .bind(at_most)
                .fetch_optional(&self.read)
                .await
                .or_fault(self)?;
        let Some(last) = last else { return Ok(0) };
        let mut pruned = 0;
        loop {
            let step = query(
                "DELETE FROM events WHERE id IN \
                 (SELECT id FROM events WHERE id <= $1 ORDER BY id LIMIT $2)",
            )
            .bind(last)
            .bind(PRUNE_STEP)
            .execute(&self.write)
            .await
            .or_fault(self)?;
            pruned += step.rows_affected();
            if step.rows_affected() == 0 {
                return Ok(pruned);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SqliteStore;

    /// What SQLite would do for a listing, in its own words.
    async fn plan(store: &SqliteStore, filter: &EventFilter) -> String {
        let mut explain = list_query("EXPLAIN QUERY PLAN SELECT * FROM events", filter);
        let steps: Vec<(i64, i64, i64, String)> = explain
            .build_query_as()
            .fetch_all(&store.0.read)
            .await
            .unwrap();
        let words: Vec<String> = steps.into_iter().map(|step| step.3).collect();
        words.join("; ")
    }

    #[tokio::test]
    async fn every_filter_reads_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("events.db"))
            .await
            .unwrap();
        let filter = |user: Option<&str>, kind: Option<&str>| EventFilter {
            user: user.map(str::to_owned),
            kind: kind.map(str::to_owned),
            limit: 10,
            ..EventFilter::default()
        };
        let by_user = plan(&store, &filter(Some("alice"), None)).await;
        assert!(
            by_user.contains("events_actor") && by_user.contains("events_peer"),
            "{by_user}"
        );
        let by_kind = plan(&store, &filter(None, Some("login"))).await;
        assert!(by_kind.contains("events_kind"), "{by_kind}");
        assert!(!by_kind.contains("TEMP B-TREE"), "sorts: {by_kind}");
        let next_page = EventFilter {
            before: Some(EventId(100)),
            limit: 10,
            ..EventFilter::default()
        };
        let by_page = plan(&store, &next_page).await;
        assert!(by_page.contains("PRIMARY KEY"), "{by_page}");
        let further = EventFilter {
            after: Some(EventId(100)),
            limit: 10,
            ..EventFilter::default()
        };
        let on = plan(&store, &further).await;
        assert!(
            on.contains("PRIMARY KEY") && !on.contains("TEMP B-TREE"),
            "{on}"
        );
    }
}
