//! The revision of what everybody may do, in SQLite. Triggers of the schema count it.

use sqlx::query_scalar;

use super::Database;
use super::faults::OrFault;
use crate::Fault;

impl Database {
    pub(super) async fn rights_revision(&self) -> Result<u64, Fault> {
        let revision: i64 = query_scalar("SELECT revision FROM rights")
            .fetch_one(&self.read)
            .await
            .or_fault(self)?;
        u64::try_from(revision).map_err(|error| self.unreadable(error))
    }
}
