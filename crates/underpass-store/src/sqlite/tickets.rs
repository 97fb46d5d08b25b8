//! First tickets in SQLite.

use std::time::Duration;

use sqlx::{query, query_as};
use underpass_proto::Time;
use underpass_proto::ticket::{Handle, Line};

use super::Database;
use super::faults::OrFault;
use crate::Fault;

/// Columns of `tickets`: handle, current, next, salt, claim, far, keep, expires.
type TicketRow = (
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    i64,
    i64,
);

impl Database {
    fn read_ticket(&self, row: TicketRow) -> Result<Line, Fault> {
        let (handle, current, next, salt, claim, far, keep, expires) = row;
        Ok(Line {
            handle: Handle(self.fixed(handle)?),
            current: self.fixed(current)?,
            next: self.fixed(next)?,
            salt: self.fixed(salt)?,
            claim: self.fixed(claim)?,
            far,
            keep: Duration::from_micros(self.micros(keep)?),
            expires: Time::from_micros(self.micros(expires)?),
        })
    }

    fn fixed<const N: usize>(&self, bytes: Vec<u8>) -> Result<[u8; N], Fault> {
        let fixed = bytes.try_into();
        fixed.map_err(|_| self.unreadable("a ticket of another length"))
    }

    fn micros(&self, value: i64) -> Result<u64, Fault> {
        u64::try_from(value).map_err(|error| self.unreadable(error))
    }

    pub(super) async fn advance_ticket_clock(&self, at_least: Time) -> Result<Time, Fault> {
        let mut transaction = self.begin_write().await?;
        let (at,): (i64,) = query_as(
            "UPDATE ticket_clock SET at = CASE WHEN at < $1 THEN $1 ELSE at END WHERE one = 1 \
                 RETURNING at",
        )
        .bind(stored(at_least))
        .fetch_one(&mut *transaction)
        .await
        .or_fault(self)?;
        query("DELETE FROM tickets WHERE expires <= $1")
            .bind(at)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        self.commit(transaction).await?;
        Ok(Time::from_micros(self.micros(at)?))
    }

    pub(super) async fn add_ticket(&self, line: &Line) -> Result<(), Fault> {
        let Line {
            handle,
            current,
            next,
            salt,
            claim,
            far,
            keep,
            expires,
        } = line;
        query(
            "INSERT INTO tickets (handle, current, next, salt, claim, far, keep, expires) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(handle.0.as_slice())
        .bind(current.as_slice())
        .bind(next.as_slice())
        .bind(salt.as_slice())
        .bind(claim.as_slice())
        .bind(far.as_slice())
        .bind(stored(Time::ZERO + *keep))
        .bind(stored(*expires))
        .execute(&self.write)
        .await
        .or_fault(self)?;
        Ok(())
    }

    pub(super) async fn ticket(&self, digest: &[u8; 32]) -> Result<Option<Line>, Fault> {
        let row = query_as(
            "SELECT handle, current, next, salt, claim, far, keep, expires FROM tickets \
             WHERE current = $1 OR next = $1",
        )
        .bind(digest.as_slice())
        .fetch_optional(&self.read)
        .await
        .or_fault(self)?;
        row.map(|row| self.read_ticket(row)).transpose()
    }

    pub(super) async fn replace_ticket(&self, before: &Line, after: &Line) -> Result<bool, Fault> {
        let done = query(
            "UPDATE tickets SET current = $2, next = $3, salt = $4, expires = $5 \
             WHERE handle = $1 AND current = $6 AND next = $7 AND expires = $8",
        )
        .bind(before.handle.0.as_slice())
        .bind(after.current.as_slice())
        .bind(after.next.as_slice())
        .bind(after.salt.as_slice())
        .bind(stored(after.expires))
        .bind(before.current.as_slice())
        .bind(before.next.as_slice())
        .bind(stored(before.expires))
        .execute(&self.write)
        .await
        .or_fault(self)?;
        Ok(done.rows_affected() > 0)
    }

    pub(super) async fn renew_tickets(&self, handles: &[Handle], now: Time) -> Result<u64, Fault> {
        let mut transaction = self.begin_write().await?;
        let mut found = 0;
        for handle in handles {
            let row = query_as(
                "SELECT handle, current, next, salt, claim, far, keep, expires FROM tickets \
                 WHERE handle = $1",
            )
            .bind(handle.0.as_slice())
            .fetch_optional(&mut *transaction)
            .await
            .or_fault(self)?;
            let Some(row) = row else { continue };
            found += 1;
            let before = self.read_ticket(row)?;
            let mut line = before.clone();
            line.renew(now);
            if line == before {
                continue;
            }
            query("UPDATE tickets SET expires = $2 WHERE handle = $1")
                .bind(handle.0.as_slice())
                .bind(stored(line.expires))
                .execute(&mut *transaction)
                .await
                .or_fault(self)?;
        }
        self.commit(transaction).await?;
        Ok(found)
    }

    pub(super) async fn forget_ticket(&self, handle: Handle) -> Result<bool, Fault> {
        let done = query("DELETE FROM tickets WHERE handle = $1")
            .bind(handle.0.as_slice())
            .execute(&self.write)
            .await
            .or_fault(self)?;
        Ok(done.rows_affected() > 0)
    }
}

/// SQLite has no unsigned numbers; nothing reaches the largest signed one in 290,000 years.
fn stored(time: Time) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
