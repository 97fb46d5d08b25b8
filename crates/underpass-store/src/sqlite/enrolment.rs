//! One-time codes in SQLite.

use sqlx::{SqliteConnection, query, query_as};

use super::Database;
use super::faults::OrFault;
use crate::Name;
use crate::{
    CodeDigest, Enrolled, Fault, Invitation, InvitationId, InviteError, NewInvitation, NewMachine,
    RedeemError, Role, SetupCodeError, UnixMillis, User, UserId, UserState,
};

/// Columns of `invitations`: id, user_name, made_by, made_at, expires_at, used_at.
type InvitationRow = (i64, String, i64, i64, i64, Option<i64>);

impl Database {
    fn read_invitation(&self, row: InvitationRow) -> Result<Invitation, Fault> {
        let (id, user, made_by, made_at, expires_at, used_at) = row;
        Ok(Invitation {
            id: InvitationId(id),
            user: self.read_name(&user)?,
            made_by: UserId(made_by),
            made_at: UnixMillis(made_at),
            expires_at: UnixMillis(expires_at),
            used_at: used_at.map(UnixMillis),
        })
    }

    pub(super) async fn set_setup_code(
        &self,
        digest: CodeDigest,
        at: UnixMillis,
    ) -> Result<(), SetupCodeError> {
        let mut transaction = self.begin_write().await?;
        if self.count_administrators(&mut transaction).await? > 0 {
            return Err(SetupCodeError::AdministratorExists);
        }
        query(
            "INSERT INTO setup_code (one, digest, made_at) VALUES (1, $1, $2) \
             ON CONFLICT (one) DO UPDATE SET digest = excluded.digest, made_at = excluded.made_at, \
                 used_by = NULL, used_at = NULL",
        )
        .bind(digest.0.as_slice())
        .bind(at.0)
        .execute(&mut *transaction)
        .await
        .or_fault(self)?;
        Ok(self.commit(transaction).await?)
    }

    pub(super) async fn redeem_setup_code(
        &self,
        digest: CodeDigest,
        user: &Name,
        machine: &NewMachine,
        at: UnixMillis,
    ) -> Result<Enrolled, RedeemError> {
        let mut transaction = self.begin_write().await?;
        let code: Option<(Option<i64>,)> =
            query_as("SELECT used_by FROM setup_code WHERE digest = $1")
                .bind(digest.0.as_slice())
                .fetch_optional(&mut *transaction)
                .await
                .or_fault(self)?;
        let (used_by,) = code.ok_or(RedeemError::UnknownCode)?;
        if let Some(used_by) = used_by {
            return self.answer_again(&mut transaction, used_by, machine).await;
        }
        if self.count_administrators(&mut transaction).await? > 0 {
            return Err(RedeemError::AdministratorExists);
        }
        if self.find_user(&mut transaction, user).await?.is_some() {
            return Err(RedeemError::UserNameTaken);
        }
        let user = self
            .insert_user(&mut transaction, user, Role::Administrator, at)
            .await?;
        let enrolled = self.enrol(&mut transaction, user, machine, at).await?;
        query("UPDATE setup_code SET used_by = $1, used_at = $2")
            .bind(enrolled.machine.id.0)
            .bind(at.0)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        self.commit(transaction).await?;
        Ok(enrolled)
    }

    pub(super) async fn invite(&self, new: &NewInvitation) -> Result<Invitation, InviteError> {
        let mut transaction = self.begin_write().await?;
        if !self.is_active(&mut transaction, new.made_by).await? {
            return Err(InviteError::InviterUnknown);
        }
        let invited = self.find_user(&mut transaction, &new.user).await?;
        match invited.map(|user| user.state) {
            Some(UserState::Disabled) => return Err(InviteError::UserDisabled),
            Some(UserState::Waiting) => return Err(InviteError::UserWaits),
            Some(UserState::Active) | None => {}
        }
        let row = query_as(
            "INSERT INTO invitations (digest, user_name, made_by, made_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (digest) DO NOTHING \
             RETURNING id, user_name, made_by, made_at, expires_at, used_at",
        )
        .bind(new.digest.0.as_slice())
        .bind(new.user.as_str())
        .bind(new.made_by.0)
        .bind(new.made_at.0)
        .bind(new.expires_at.0)
        .fetch_optional(&mut *transaction)
        .await
        .or_fault(self)?;
        let invitation = self.read_invitation(row.ok_or(InviteError::CodeInUse)?)?;
        self.commit(transaction).await?;
        Ok(invitation)
    }

    pub(super) async fn invitations(&self) -> Result<Vec<Invitation>, Fault> {
        let rows = query_as(
            "SELECT id, user_name, made_by, made_at, expires_at, used_at \
             FROM invitations ORDER BY id DESC",
        )
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        rows.into_iter()
            .map(|row| self.read_invitation(row))
            .collect()
    }

    pub(super) async fn cancel_invitation(&self, id: InvitationId) -> Result<bool, Fault> {
        let done = query("DELETE FROM invitations WHERE id = $1 AND used_at IS NULL")
            .bind(id.0)
            .execute(&self.write)
            .await
            .or_fault(self)?;
        Ok(done.rows_affected() > 0)
    }

    pub(super) async fn redeem_invitation(
        &self,
        digest: CodeDigest,
        machine: &NewMachine,
        at: UnixMillis,
    ) -> Result<Enrolled, RedeemError> {
        let mut transaction = self.begin_write().await?;
        let code: Option<(i64, String, i64, i64, Option<i64>)> = query_as(
            "SELECT id, user_name, made_by, expires_at, used_by FROM invitations WHERE digest = $1",
        )
        .bind(digest.0.as_slice())
        .fetch_optional(&mut *transaction)
        .await
        .or_fault(self)?;
        let (id, name, made_by, expires_at, used_by) = code.ok_or(RedeemError::UnknownCode)?;
        if let Some(used_by) = used_by {
            return self.answer_again(&mut transaction, used_by, machine).await;
        }
        if at.0 >= expires_at {
            return Err(RedeemError::Expired);
        }
        if !self.is_active(&mut transaction, UserId(made_by)).await? {
            return Err(RedeemError::InviterDisabled);
        }
        let name = self.read_name(&name)?;
        let user = match self.find_user(&mut transaction, &name).await? {
            Some(user) if user.state == UserState::Disabled => {
                return Err(RedeemError::UserDisabled);
            }
            Some(user) if user.state == UserState::Waiting => {
                return Err(RedeemError::UserWaits);
            }
            Some(user) => user,
            None => {
                self.insert_user(&mut transaction, &name, Role::User, at)
                    .await?
            }
        };
        let enrolled = self.enrol(&mut transaction, user, machine, at).await?;
        query("UPDATE invitations SET used_by = $2, used_at = $3 WHERE id = $1")
            .bind(id)
            .bind(enrolled.machine.id.0)
            .bind(at.0)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        self.commit(transaction).await?;
        Ok(enrolled)
    }

    pub(super) async fn prune_invitations(&self, before: UnixMillis) -> Result<u64, Fault> {
        let done = query("DELETE FROM invitations WHERE expires_at < $1")
            .bind(before.0)
            .execute(&self.write)
            .await
            .or_fault(self)?;
        Ok(done.rows_affected())
    }

    /// Enrols a machine under a user, if its key and its name are free.
    async fn enrol(
        &self,
        connection: &mut SqliteConnection,
        user: User,
        machine: &NewMachine,
        at: UnixMillis,
    ) -> Result<Enrolled, RedeemError> {
        if self
            .find_enrolled(connection, &machine.key)
            .await?
            .is_some()
        {
            return Err(RedeemError::KeyKnown);
        }
        let machine = self.add_machine(connection, user.id, machine, at);
        let machine = machine.await?.ok_or(RedeemError::MachineNameTaken)?;
        Ok(Enrolled { user, machine })
    }

    /// Answers a code that was used: to the machine that used it as before, to others with a
    /// refusal.
    async fn answer_again(
        &self,
        connection: &mut SqliteConnection,
        used_by: i64,
        machine: &NewMachine,
    ) -> Result<Enrolled, RedeemError> {
        match self.find_enrolled(connection, &machine.key).await? {
            Some(known) if known.machine.id.0 == used_by && known.is_admitted() => Ok(known),
            _ => Err(RedeemError::Used),
        }
    }
}
