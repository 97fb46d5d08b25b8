//! Machines in SQLite.

use sqlx::{SqliteConnection, query, query_as};

use super::Database;
use super::faults::OrFault;
use crate::{
    Enrolled, Fault, Machine, MachineId, MachineKey, MachineKind, MachineState, NewMachine,
    RevokeError, TokenError, UnixMillis, UserId, UserState,
};

/// A row of `machines`: id, public_key, name, user_id, state, enrolled_at, last_seen_at, kind, expires_at.
type MachineRow = (
    i64,
    Vec<u8>,
    String,
    i64,
    String,
    i64,
    Option<i64>,
    String,
    Option<i64>,
);

/// The columns of a [`MachineRow`], then those of a user's row.
type EnrolledRow = (
    i64,
    Vec<u8>,
    String,
    i64,
    String,
    i64,
    Option<i64>,
    String,
    Option<i64>,
    i64,
    String,
    String,
    String,
    i64,
);

impl Database {
    fn read_machine(&self, row: MachineRow) -> Result<Machine, Fault> {
        let (id, key, name, user, state, enrolled, last_seen, kind, expires) = row;
        Ok(Machine {
            id: MachineId(id),
            key: self.read_key(&key)?,
            name: self.read_name(&name)?,
            user: UserId(user),
            state: state.parse().map_err(|error| self.unreadable(error))?,
            enrolled: UnixMillis(enrolled),
            last_seen: last_seen.map(UnixMillis),
            kind: kind.parse().map_err(|error| self.unreadable(error))?,
            expires: expires.map(UnixMillis),
        })
    }

    pub(super) fn read_key(&self, key: &[u8]) -> Result<MachineKey, Fault> {
        let key = key.try_into();
        key.map(MachineKey)
            .map_err(|_| self.unreadable("a machine key is not 32 bytes long"))
    }

    pub(super) async fn machine(&self, id: MachineId) -> Result<Option<Machine>, Fault> {
        let row = query_as(
            "SELECT id, public_key, name, user_id, state, enrolled_at, last_seen_at, \
             kind, expires_at \
             FROM machines WHERE id = $1",
        )
        .bind(id.0)
        .fetch_optional(&self.read)
        .await
        .or_fault(self)?;
        row.map(|row| self.read_machine(row)).transpose()
    }

    pub(super) async fn machine_by_key(&self, key: &MachineKey) -> Result<Option<Enrolled>, Fault> {
        let mut connection = self.read.acquire().await.or_fault(self)?;
        self.find_enrolled(&mut connection, key).await
    }

    pub(super) async fn find_enrolled(
        &self,
        connection: &mut SqliteConnection,
        key: &MachineKey,
    ) -> Result<Option<Enrolled>, Fault> {
        let row: Option<EnrolledRow> = query_as(
            "SELECT m.id, m.public_key, m.name, m.user_id, m.state, m.enrolled_at, m.last_seen_at, \
                    m.kind, m.expires_at, \
                    u.id, u.name, u.role, u.state, u.created_at \
             FROM machines m JOIN users u ON u.id = m.user_id WHERE m.public_key = $1",
        )
        .bind(key.0.as_slice())
        .fetch_optional(connection)
        .await
        .or_fault(self)?;
        row.map(|(a, b, c, d, e, f, g, h, i, j, k, l, m, n)| {
            Ok(Enrolled {
                machine: self.read_machine((a, b, c, d, e, f, g, h, i))?,
                user: self.read_user((j, k, l, m, n))?,
            })
        })
        .transpose()
    }

    pub(super) async fn machines(&self, user: Option<UserId>) -> Result<Vec<Machine>, Fault> {
        let rows = query_as(
            "SELECT id, public_key, name, user_id, state, enrolled_at, last_seen_at, \
             kind, expires_at \
             FROM machines WHERE $1 IS NULL OR user_id = $1 ORDER BY name, id",
        )
        .bind(user.map(|user| user.0))
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        rows.into_iter().map(|row| self.read_machine(row)).collect()
    }

    /// Whether an active machine of this user has the name.
    pub(super) async fn machine_name_taken(
        &self,
        connection: &mut SqliteConnection,
        user: UserId,
        machine: &NewMachine,
    ) -> Result<bool, Fault> {
        let found =
            query("SELECT 1 FROM machines WHERE user_id = $1 AND name = $2 AND state = 'active'")
                .bind(user.0)
                .bind(machine.name.as_str())
                .fetch_optional(connection)
                .await
                .or_fault(self)?;
        Ok(found.is_some())
    }

    /// Enrols a machine whose key is free; none where another machine of the user has its name.
    pub(super) async fn add_machine(
        &self,
        connection: &mut SqliteConnection,
        user: UserId,
        machine: &NewMachine,
        at: UnixMillis,
    ) -> Result<Option<Machine>, Fault> {
        if self.machine_name_taken(connection, user, machine).await? {
            return Ok(None);
        }
        let machine = self.insert_machine(connection, user, machine, at);
        machine.await.map(Some)
    }

    /// Enrols a machine. The caller has made sure that name and key are free.
    pub(super) async fn insert_machine(
        &self,
        connection: &mut SqliteConnection,
        user: UserId,
        machine: &NewMachine,
        at: UnixMillis,
    ) -> Result<Machine, Fault> {
        let row = query_as(
            "INSERT INTO machines (public_key, name, user_id, state, enrolled_at) \
             VALUES ($1, $2, $3, $4, $5) \
             RETURNING id, public_key, name, user_id, state, enrolled_at, last_seen_at, \
             kind, expires_at",
        )
        .bind(machine.key.0.as_slice())
        .bind(machine.name.as_str())
        .bind(user.0)
        .bind(MachineState::Active.as_str())
        .bind(at.0)
        .fetch_one(connection)
        .await
        .or_fault(self)?;
        self.read_machine(row)
    }

    pub(super) async fn make_token(
        &self,
        user: UserId,
        token: &NewMachine,
        expires: Option<UnixMillis>,
        at: UnixMillis,
    ) -> Result<Enrolled, TokenError> {
        let mut transaction = self.begin_write().await?;
        let owner = self.user_in(&mut transaction, user).await?;
        let owner = owner.ok_or(TokenError::NoSuchUser)?;
        if owner.state != UserState::Active {
            return Err(TokenError::UserDisabled);
        }
        if let Some(known) = self.find_enrolled(&mut transaction, &token.key).await? {
            let again = known.is_admitted()
                && known.user.id == user
                && known.machine.kind == MachineKind::Token
                && known.machine.name == token.name;
            return if again {
                Ok(known)
            } else {
                Err(TokenError::KeyKnown)
            };
        }
        if self
            .machine_name_taken(&mut transaction, user, token)
            .await?
        {
            return Err(TokenError::NameTaken);
        }
        self.insert_machine(&mut transaction, user, token, at)
            .await?;
        query("UPDATE machines SET kind = 'token', expires_at = $2 WHERE public_key = $1")
            .bind(token.key.0.as_slice())
            .bind(expires.map(|expires| expires.0))
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        let made = self.find_enrolled(&mut transaction, &token.key).await?;
        let missing = || self.unreadable("a token just written cannot be read");
        let made = made.ok_or_else(missing)?;
        self.commit(transaction).await?;
        Ok(made)
    }

    pub(super) async fn revoke_machine(&self, id: MachineId) -> Result<Machine, RevokeError> {
        // A transaction, because a single statement that returns rows is committed only after it
        // has returned the last one, and nobody would hear that this failed.
        let mut transaction = self.begin_write().await?;
        let row = query_as(
            "UPDATE machines SET state = 'revoked' WHERE id = $1 \
             RETURNING id, public_key, name, user_id, state, enrolled_at, last_seen_at, \
             kind, expires_at",
        )
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await
        .or_fault(self)?;
        let machine = self.read_machine(row.ok_or(RevokeError::NoSuchMachine)?)?;
        self.commit(transaction).await?;
        Ok(machine)
    }

    pub(super) async fn note_machines_seen(
        &self,
        seen: &[(MachineId, UnixMillis)],
    ) -> Result<(), Fault> {
        let mut transaction = self.begin_write().await?;
        for (id, at) in seen {
            query(
                "UPDATE machines SET last_seen_at = $2 \
                 WHERE id = $1 AND (last_seen_at IS NULL OR last_seen_at < $2)",
            )
            .bind(id.0)
            .bind(at.0)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        }
        self.commit(transaction).await
    }
}
