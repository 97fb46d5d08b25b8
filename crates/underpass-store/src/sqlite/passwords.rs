//! Passwords and registrations in SQLite.

use sqlx::{query, query_as, query_scalar};

use super::Database;
use super::faults::OrFault;
use crate::{
    DecideError, EnrolError, Enrolled, Fault, Name, NewMachine, Password, PasswordFile,
    PasswordSecret, RegisterError, Role, UnixMillis, User, UserChangeError, UserId, UserState,
};

impl Database {
    pub(super) async fn password_secret(
        &self,
        fresh: &PasswordSecret,
    ) -> Result<PasswordSecret, Fault> {
        let mut transaction = self.begin_write().await?;
        query("INSERT INTO password_server (one, secret) VALUES (1, $1) ON CONFLICT DO NOTHING")
            .bind(fresh.0.as_slice())
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        let kept: Vec<u8> = query_scalar("SELECT secret FROM password_server")
            .fetch_one(&mut *transaction)
            .await
            .or_fault(self)?;
        self.commit(transaction).await?;
        let kept = zeroize::Zeroizing::new(kept);
        let wrong = |_| self.unreadable("the secret of logins by password is not 128 bytes long");
        Ok(PasswordSecret(kept.as_slice().try_into().map_err(wrong)?))
    }

    pub(super) async fn password(&self, user: &Name) -> Result<Option<Password>, Fault> {
        let row: Option<(i64, Vec<u8>)> = query_as(
            "SELECT u.id, p.file FROM users u JOIN passwords p ON p.user_id = u.id WHERE u.name = $1",
        )
        .bind(user.as_str())
        .fetch_optional(&self.read)
        .await
        .or_fault(self)?;
        row.map(|(user, file)| {
            let wrong = |_| self.unreadable("a password file is not 192 bytes long");
            Ok(Password {
                user: UserId(user),
                file: PasswordFile(file.try_into().map_err(wrong)?),
            })
        })
        .transpose()
    }

    pub(super) async fn register(
        &self,
        user: &Name,
        file: &PasswordFile,
        machine: &NewMachine,
        most_waiting: u64,
        at: UnixMillis,
    ) -> Result<Enrolled, RegisterError> {
        let mut transaction = self.begin_write().await?;
        let enrolled = match self.find_enrolled(&mut transaction, &machine.key).await? {
            // The first answer was lost, or another password was thought of.
            Some(known) if known.user.name == *user && known.user.state == UserState::Waiting => {
                known
            }
            Some(_) => return Err(RegisterError::KeyKnown),
            None => {
                if self.find_user(&mut transaction, user).await?.is_some() {
                    return Err(RegisterError::NameTaken);
                }
                let waiting: i64 =
                    query_scalar("SELECT count(*) FROM users WHERE state = 'waiting'")
                        .fetch_one(&mut *transaction)
                        .await
                        .or_fault(self)?;
                if u64::try_from(waiting).unwrap_or(0) >= most_waiting {
                    return Err(RegisterError::TooManyWait);
                }
                let state = UserState::Waiting;
                let user = self
                    .insert_user_as(&mut transaction, user, Role::User, state, at)
                    .await?;
                let machine = self
                    .insert_machine(&mut transaction, user.id, machine, at)
                    .await?;
                Enrolled { user, machine }
            }
        };
        self.put_password(&mut transaction, enrolled.user.id, file, at)
            .await?;
        self.commit(transaction).await?;
        Ok(enrolled)
    }

    pub(super) async fn set_password(
        &self,
        user: UserId,
        file: &PasswordFile,
        at: UnixMillis,
    ) -> Result<(), UserChangeError> {
        let mut transaction = self.begin_write().await?;
        if self.user_in(&mut transaction, user).await?.is_none() {
            return Err(UserChangeError::NoSuchUser);
        }
        self.put_password(&mut transaction, user, file, at).await?;
        Ok(self.commit(transaction).await?)
    }

    async fn put_password(
        &self,
        connection: &mut sqlx::SqliteConnection,
        user: UserId,
        file: &PasswordFile,
        at: UnixMillis,
    ) -> Result<(), Fault> {
        query(
            "INSERT INTO passwords (user_id, file, set_at) VALUES ($1, $2, $3) \
             ON CONFLICT (user_id) DO UPDATE SET file = excluded.file, set_at = excluded.set_at",
        )
        .bind(user.0)
        .bind(file.0.as_slice())
        .bind(at.0)
        .execute(connection)
        .await
        .or_fault(self)?;
        Ok(())
    }

    pub(super) async fn enrol_machine(
        &self,
        user: UserId,
        machine: &NewMachine,
        at: UnixMillis,
    ) -> Result<Enrolled, EnrolError> {
        let mut transaction = self.begin_write().await?;
        let user = self.user_in(&mut transaction, user).await?;
        let user = user.ok_or(EnrolError::NoSuchUser)?;
        match user.state {
            UserState::Active => {}
            UserState::Waiting => return Err(EnrolError::UserWaits),
            UserState::Disabled => return Err(EnrolError::UserDisabled),
        }
        if let Some(known) = self.find_enrolled(&mut transaction, &machine.key).await? {
            let again = known.is_admitted_at(at) && known.user.id == user.id;
            return if again {
                Ok(known)
            } else {
                Err(EnrolError::KeyKnown)
            };
        }
        let machine = self.add_machine(&mut transaction, user.id, machine, at);
        let machine = machine.await?.ok_or(EnrolError::MachineNameTaken)?;
        self.commit(transaction).await?;
        Ok(Enrolled { user, machine })
    }

    pub(super) async fn approve(&self, id: UserId) -> Result<User, DecideError> {
        let mut transaction = self.begin_write().await?;
        let mut user = self.waiting(&mut transaction, id).await?;
        user.state = UserState::Active;
        query("UPDATE users SET state = $2 WHERE id = $1")
            .bind(id.0)
            .bind(user.state.as_str())
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        self.commit(transaction).await?;
        Ok(user)
    }

    pub(super) async fn deny(&self, id: UserId) -> Result<User, DecideError> {
        let mut transaction = self.begin_write().await?;
        let user = self.waiting(&mut transaction, id).await?;
        // The password goes with the user. Whoever waits has made nothing else.
        for statement in [
            "DELETE FROM access WHERE user_id = $1",
            "DELETE FROM machines WHERE user_id = $1",
            "DELETE FROM users WHERE id = $1",
        ] {
            query(statement)
                .bind(id.0)
                .execute(&mut *transaction)
                .await
                .or_fault(self)?;
        }
        self.commit(transaction).await?;
        Ok(user)
    }

    async fn waiting(
        &self,
        connection: &mut sqlx::SqliteConnection,
        id: UserId,
    ) -> Result<User, DecideError> {
        let user = self.user_in(connection, id).await?;
        let user = user.ok_or(DecideError::NoSuchUser)?;
        match user.state {
            UserState::Waiting => Ok(user),
            UserState::Active | UserState::Disabled => Err(DecideError::Decided),
        }
    }
}
