//! Users in SQLite.

use sqlx::{SqliteConnection, query, query_as, query_scalar};

use super::Database;
use super::faults::OrFault;
use crate::{Fault, Name, Role, UnixMillis, User, UserChangeError, UserId, UserState};

/// A row of `users`: id, name, role, state, created_at.
pub(super) type UserRow = (i64, String, String, String, i64);

const ACTIVE_ADMINISTRATORS: &str =
    "SELECT count(*) FROM users WHERE role = 'administrator' AND state = 'active'";

impl Database {
    pub(super) fn read_user(&self, row: UserRow) -> Result<User, Fault> {
        let (id, name, role, state, created) = row;
        Ok(User {
            id: UserId(id),
            name: self.read_name(&name)?,
            role: role.parse().map_err(|error| self.unreadable(error))?,
            state: state.parse().map_err(|error| self.unreadable(error))?,
            created: UnixMillis(created),
        })
    }

    pub(super) fn read_name(&self, name: &str) -> Result<Name, Fault> {
        Name::new(name).map_err(|error| self.unreadable(error))
    }

    pub(super) async fn has_administrator(&self) -> Result<bool, Fault> {
        let count: i64 = query_scalar(ACTIVE_ADMINISTRATORS)
            .fetch_one(&self.read)
            .await
            .or_fault(self)?;
        Ok(count > 0)
    }

    pub(super) async fn count_administrators(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<i64, Fault> {
        query_scalar(ACTIVE_ADMINISTRATORS)
            .fetch_one(connection)
            .await
            .or_fault(self)
    }

    pub(super) async fn user(&self, id: UserId) -> Result<Option<User>, Fault> {
        let mut connection = self.read.acquire().await.or_fault(self)?;
        self.user_in(&mut connection, id).await
    }

    pub(super) async fn user_in(
        &self,
        connection: &mut SqliteConnection,
        id: UserId,
    ) -> Result<Option<User>, Fault> {
        let row = query_as("SELECT id, name, role, state, created_at FROM users WHERE id = $1")
            .bind(id.0)
            .fetch_optional(connection)
            .await
            .or_fault(self)?;
        row.map(|row| self.read_user(row)).transpose()
    }

    pub(super) async fn user_by_name(&self, name: &Name) -> Result<Option<User>, Fault> {
        let mut connection = self.read.acquire().await.or_fault(self)?;
        self.find_user(&mut connection, name).await
    }

    pub(super) async fn find_user(
        &self,
        connection: &mut SqliteConnection,
        name: &Name,
    ) -> Result<Option<User>, Fault> {
        let row = query_as("SELECT id, name, role, state, created_at FROM users WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(connection)
            .await
            .or_fault(self)?;
        row.map(|row| self.read_user(row)).transpose()
    }

    pub(super) async fn users(&self) -> Result<Vec<User>, Fault> {
        let rows = query_as("SELECT id, name, role, state, created_at FROM users ORDER BY name")
            .fetch_all(&self.read)
            .await
            .or_fault(self)?;
        rows.into_iter().map(|row| self.read_user(row)).collect()
    }

    /// Creates an active user. The caller has made sure that the name is free.
    pub(super) async fn insert_user(
        &self,
        connection: &mut SqliteConnection,
        name: &Name,
        role: Role,
        at: UnixMillis,
    ) -> Result<User, Fault> {
        let state = UserState::Active;
        self.insert_user_as(connection, name, role, state, at).await
    }

    /// Creates a user. The caller has made sure that the name is free.
    pub(super) async fn insert_user_as(
        &self,
        connection: &mut SqliteConnection,
        name: &Name,
        role: Role,
        state: UserState,
        at: UnixMillis,
    ) -> Result<User, Fault> {
        let row = query_as(
            "INSERT INTO users (name, role, state, created_at) VALUES ($1, $2, $3, $4) \
             RETURNING id, name, role, state, created_at",
        )
        .bind(name.as_str())
        .bind(role.as_str())
        .bind(state.as_str())
        .bind(at.0)
        .fetch_one(connection)
        .await
        .or_fault(self)?;
        self.read_user(row)
    }

    pub(super) async fn set_user_role(
        &self,
        id: UserId,
        role: Role,
    ) -> Result<User, UserChangeError> {
        self.change_user(id, Some(role), None).await
    }

    pub(super) async fn set_user_state(
        &self,
        id: UserId,
        state: UserState,
    ) -> Result<User, UserChangeError> {
        self.change_user(id, None, Some(state)).await
    }

    async fn change_user(
        &self,
        id: UserId,
        role: Option<Role>,
        state: Option<UserState>,
    ) -> Result<User, UserChangeError> {
        let mut transaction = self.begin_write().await?;
        let found = self.user_in(&mut transaction, id).await?;
        if found.ok_or(UserChangeError::NoSuchUser)?.state == UserState::Waiting {
            return Err(UserChangeError::Waits);
        }
        let before = self.count_administrators(&mut transaction).await?;
        let row = query_as(
            "UPDATE users SET role = coalesce($2, role), state = coalesce($3, state) \
             WHERE id = $1 RETURNING id, name, role, state, created_at",
        )
        .bind(id.0)
        .bind(role.map(Role::as_str))
        .bind(state.map(UserState::as_str))
        .fetch_optional(&mut *transaction)
        .await
        .or_fault(self)?;
        let user = self.read_user(row.ok_or(UserChangeError::NoSuchUser)?)?;
        // Asked after the change, so that every way to lose the last one is covered.
        if before > 0 && self.count_administrators(&mut transaction).await? == 0 {
            return Err(UserChangeError::LastAdministrator);
        }
        self.commit(transaction).await?;
        Ok(user)
    }

    /// Whether a user exists and is active.
    pub(super) async fn is_active(
        &self,
        connection: &mut SqliteConnection,
        id: UserId,
    ) -> Result<bool, Fault> {
        let found = query("SELECT 1 FROM users WHERE id = $1 AND state = 'active'")
            .bind(id.0)
            .fetch_optional(connection)
            .await
            .or_fault(self)?;
        Ok(found.is_some())
    }
}
