//! Machines that are let in by a certificate, in SQLite.

use sqlx::{SqliteConnection, query, query_as, query_scalar};

use super::Database;
use super::faults::OrFault;
use crate::{
    EnrolError, Enrolled, Fault, MachineId, MachineKind, Name, NewCertificate, NewMachine, Role,
    UnixMillis, User, UserState,
};

impl Database {
    pub(super) async fn certify_machine(
        &self,
        user: &Name,
        make: bool,
        machine: &NewMachine,
        certificate: &NewCertificate,
        at: UnixMillis,
    ) -> Result<Enrolled, EnrolError> {
        let mut transaction = self.begin_write().await?;
        let user = match self.find_user(&mut transaction, user).await? {
            Some(user) => user,
            None if make => {
                let role = Role::User;
                self.insert_user(&mut transaction, user, role, at).await?
            }
            None => return Err(EnrolError::NoSuchUser),
        };
        let mut enrolled = self
            .machine_to_certify(&mut transaction, user, machine, at)
            .await?;
        enrolled.machine.expires = Some(certificate.expires);
        let id = enrolled.machine.id.0;
        query("UPDATE machines SET expires_at = $2 WHERE id = $1")
            .bind(id)
            .bind(certificate.expires.0)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        query(
            "INSERT INTO certificates (machine_id, chain, set_at) VALUES ($1, $2, $3) \
             ON CONFLICT (machine_id) DO UPDATE SET chain = excluded.chain, set_at = excluded.set_at",
        )
        .bind(id)
        .bind(certificate.chain.as_slice())
        .bind(at.0)
        .execute(&mut *transaction)
        .await
        .or_fault(self)?;
        self.commit(transaction).await?;
        Ok(enrolled)
    }

    /// The machine of that key, which must be this user's, or a new one.
    async fn machine_to_certify(
        &self,
        connection: &mut SqliteConnection,
        user: User,
        machine: &NewMachine,
        at: UnixMillis,
    ) -> Result<Enrolled, EnrolError> {
        match user.state {
            UserState::Active => {}
            UserState::Waiting => return Err(EnrolError::UserWaits),
            UserState::Disabled => return Err(EnrolError::UserDisabled),
        }
        if let Some(known) = self.find_enrolled(connection, &machine.key).await? {
            // Over or not: that is what a new certificate is for.
            let own = known.user.id == user.id && known.is_admitted();
            return match own && known.machine.kind == MachineKind::Agent {
                true => Ok(known),
                false => Err(EnrolError::KeyKnown),
            };
        }
        let machine = self.add_machine(connection, user.id, machine, at);
        let machine = machine.await?.ok_or(EnrolError::MachineNameTaken)?;
        Ok(Enrolled { user, machine })
    }

    pub(super) async fn certificate(&self, machine: MachineId) -> Result<Option<Vec<u8>>, Fault> {
        query_scalar("SELECT chain FROM certificates WHERE machine_id = $1")
            .bind(machine.0)
            .fetch_optional(&self.read)
            .await
            .or_fault(self)
    }

    pub(super) async fn certificates(&self) -> Result<Vec<(MachineId, Vec<u8>)>, Fault> {
        let rows: Vec<(i64, Vec<u8>)> = query_as(
            "SELECT c.machine_id, c.chain FROM certificates c \
             JOIN machines m ON m.id = c.machine_id WHERE m.state = 'active'",
        )
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        Ok(rows
            .into_iter()
            .map(|(id, chain)| (MachineId(id), chain))
            .collect())
    }
}
