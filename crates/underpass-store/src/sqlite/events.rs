//! The log of events in SQLite.

use sqlx::{query, query_as, query_scalar};

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
        let EventFilter {
            since,
            user,
            kind,
            before,
            limit,
        } = filter;
        let rows = query_as(
            "SELECT id, at, kind, actor, peer, address, details FROM events \
             WHERE ($1 IS NULL OR at >= $1) AND ($2 IS NULL OR actor = $2 OR peer = $2) \
               AND ($3 IS NULL OR kind = $3) AND ($4 IS NULL OR id < $4) \
             ORDER BY id DESC LIMIT $5",
        )
        .bind(since.map(|since| since.0))
        .bind(user)
        .bind(kind)
        .bind(before.map(|before| before.0))
        .bind(i64::from(*limit))
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
