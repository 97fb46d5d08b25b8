//! Services and access lists in SQLite.

use sqlx::{FromRow, SqliteConnection, query, query_as};

use super::Database;
use super::faults::OrFault;
use crate::services::choose;
use crate::{
    Access, AccessEntry, AccessError, Caller, Fault, MachineId, MachineKey, Name, NewService,
    PublishError, Published, Publishing, ResolveError, Role, Service, ServiceDecisionError,
    ServiceId, ServiceKey, ServiceRef, ServiceState, UnixMillis, UserChangeError, UserId, Who,
};

/// A service as it stands in its table, and its owner's name.
#[derive(FromRow)]
struct ServiceRow {
    id: i64,
    name: String,
    owner_id: i64,
    owner_name: String,
    machine_id: i64,
    service_key: Vec<u8>,
    compression: bool,
    created_at: i64,
    plain_http: bool,
    state: String,
}

/// A service, and whether a certain user may use it.
#[derive(FromRow)]
struct JudgedRow {
    #[sqlx(flatten)]
    service: ServiceRow,
    allowed: bool,
}

/// The columns of a [`ServiceRow`].
macro_rules! columns {
    () => {
        "s.id, s.name, s.owner_id, o.name AS owner_name, s.machine_id, s.service_key, \
         s.compression, s.created_at, s.plain_http, s.state"
    };
}

/// Selects services as [`ServiceRow`]; what follows may speak of `s`, the service, and `o`, its owner. The second form
/// selects [`JudgedRow`], for the user $1 and the machine $2, and may speak of `m`, the service's machine, too.
macro_rules! select_services {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM services s JOIN users o ON o.id = s.owner_id ",
            $rest
        )
    };
    (judged, $rest:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            ", ",
            allowed!(),
            " AS allowed FROM services s JOIN users o ON o.id = s.owner_id ",
            "JOIN machines m ON m.id = s.machine_id ",
            $rest
        )
    };
}

/// Whether the user $1 may use the service `s` from the machine $2: the one place where this is decided.
macro_rules! allowed {
    () => {
        "(o.state = 'active' AND m.state = 'active' AND s.state = 'active' \
          AND EXISTS (SELECT 1 FROM users c WHERE c.id = $1 AND c.state = 'active') \
          AND (s.owner_id = $1 OR coalesce( \
            (SELECT a.allowed FROM access a WHERE a.service_id = s.id AND a.machine_id = $2), \
            (SELECT a.allowed FROM access a WHERE a.service_id = s.id AND a.user_id = $1), \
            (SELECT a.allowed FROM access a JOIN users c ON c.role = a.role \
              WHERE a.service_id = s.id AND c.id = $1), \
            (SELECT a.allowed FROM access a WHERE a.service_id = s.id AND a.user_id IS NULL \
              AND a.machine_id IS NULL AND a.role IS NULL), \
            0) = 1))"
    };
}

/// An entry of an access list: user's name, machine's key, role, allowed, since.
type AccessRow = (Option<String>, Option<Vec<u8>>, Option<String>, bool, i64);

impl Database {
    fn read_service(&self, row: ServiceRow) -> Result<Service, Fault> {
        Ok(Service {
            id: ServiceId(row.id),
            name: self.read_name(&row.name)?,
            owner: UserId(row.owner_id),
            owner_name: self.read_name(&row.owner_name)?,
            machine: MachineId(row.machine_id),
            key: ServiceKey::new(&row.service_key).map_err(|error| self.unreadable(error))?,
            compression: row.compression,
            plain_http: row.plain_http,
            state: row.state.parse().map_err(|error| self.unreadable(error))?,
            created: UnixMillis(row.created_at),
        })
    }

    fn read_judged(&self, row: JudgedRow) -> Result<(Service, bool), Fault> {
        Ok((self.read_service(row.service)?, row.allowed))
    }

    pub(super) async fn publish_service(
        &self,
        new: &NewService,
    ) -> Result<Published, PublishError> {
        let mut transaction = self.begin_write().await?;
        self.check_publisher(&mut transaction, new).await?;
        let fresh = self.first_state(&mut transaction, new).await?;
        let published = match self.service_named(&mut transaction, new).await? {
            Some(old) => {
                self.check_moves(&mut transaction, &old, new).await?;
                let state = match old.state {
                    ServiceState::Refused => return Err(PublishError::Refused),
                    // What was approved stays so, and who needs no approval any more does not wait.
                    ServiceState::Active => ServiceState::Active,
                    ServiceState::Waiting => fresh,
                };
                query(
                    "UPDATE services SET machine_id = $2, compression = $3, plain_http = $4, \
                     state = $5 WHERE id = $1",
                )
                .bind(old.id.0)
                .bind(new.machine.0)
                .bind(new.compression)
                .bind(new.plain_http)
                .bind(state.as_str())
                .execute(&mut *transaction)
                .await
                .or_fault(self)?;
                Published::Again(Service {
                    machine: new.machine,
                    compression: new.compression,
                    plain_http: new.plain_http,
                    state,
                    ..old
                })
            }
            None => {
                self.insert_service(&mut transaction, new, fresh).await?;
                let service = self.service_named(&mut transaction, new).await?;
                let missing = || self.unreadable("a service just written cannot be read");
                Published::New(service.ok_or_else(missing)?)
            }
        };
        self.commit(transaction).await?;
        Ok(published)
    }

    /// Whether a service that is new waits for approval.
    async fn first_state(
        &self,
        connection: &mut SqliteConnection,
        new: &NewService,
    ) -> Result<ServiceState, Fault> {
        let (role, publishing): (String, String) =
            query_as("SELECT role, publishing FROM users WHERE id = $1")
                .bind(new.owner.0)
                .fetch_one(connection)
                .await
                .or_fault(self)?;
        let role: Role = role.parse().map_err(|error| self.unreadable(error))?;
        let publishing = publishing.parse().map_err(|error| self.unreadable(error))?;
        let waits = match publishing {
            Publishing::Usual => new.approval && role == Role::User,
            Publishing::Free => false,
            Publishing::Approval => true,
        };
        Ok(match waits {
            true => ServiceState::Waiting,
            false => ServiceState::Active,
        })
    }

    /// Refuses machines that are not the owner's, or not let in.
    async fn check_publisher(
        &self,
        connection: &mut SqliteConnection,
        new: &NewService,
    ) -> Result<(), PublishError> {
        let admitted = query(
            "SELECT 1 FROM machines m JOIN users u ON u.id = m.user_id \
             WHERE m.id = $1 AND u.id = $2 AND m.state = 'active' AND m.kind = 'agent' \
             AND u.state = 'active'",
        )
        .bind(new.machine.0)
        .bind(new.owner.0)
        .fetch_optional(connection)
        .await
        .or_fault(self)?;
        admitted.map(drop).ok_or(PublishError::MachineNotAdmitted)
    }

    /// Refuses to take a service away from another active machine.
    async fn check_moves(
        &self,
        connection: &mut SqliteConnection,
        old: &Service,
        new: &NewService,
    ) -> Result<(), PublishError> {
        if old.machine == new.machine {
            return Ok(());
        }
        let other: Option<(String,)> =
            query_as("SELECT name FROM machines WHERE id = $1 AND state = 'active'")
                .bind(old.machine.0)
                .fetch_optional(connection)
                .await
                .or_fault(self)?;
        match other {
            None => Ok(()),
            Some((name,)) => Err(PublishError::OnOtherMachine {
                machine: self.read_name(&name)?,
            }),
        }
    }

    async fn insert_service(
        &self,
        connection: &mut SqliteConnection,
        new: &NewService,
        state: ServiceState,
    ) -> Result<(), PublishError> {
        let done = query(
            "INSERT INTO services (name, owner_id, machine_id, service_key, compression, plain_http, \
             created_at, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
             ON CONFLICT (service_key) DO NOTHING",
        )
        .bind(new.name.as_str())
        .bind(new.owner.0)
        .bind(new.machine.0)
        .bind(new.key.as_bytes())
        .bind(new.compression)
        .bind(new.plain_http)
        .bind(new.at.0)
        .bind(state.as_str())
        .execute(connection)
        .await
        .or_fault(self)?;
        match done.rows_affected() {
            0 => Err(PublishError::KeyInUse),
            _ => Ok(()),
        }
    }

    async fn service_named(
        &self,
        connection: &mut SqliteConnection,
        new: &NewService,
    ) -> Result<Option<Service>, Fault> {
        let row = query_as(select_services!("WHERE s.name = $1 AND s.owner_id = $2"))
            .bind(new.name.as_str())
            .bind(new.owner.0)
            .fetch_optional(connection)
            .await
            .or_fault(self)?;
        row.map(|row| self.read_service(row)).transpose()
    }

    pub(super) async fn decide_service(
        &self,
        id: ServiceId,
        approve: bool,
    ) -> Result<Service, ServiceDecisionError> {
        let mut transaction = self.begin_write().await?;
        let row = query_as(select_services!("WHERE s.id = $1"))
            .bind(id.0)
            .fetch_optional(&mut *transaction)
            .await
            .or_fault(self)?;
        let row = row.ok_or(ServiceDecisionError::NoSuchService)?;
        let service = self.read_service(row)?;
        let state = match (service.state, approve) {
            (ServiceState::Waiting, true) => ServiceState::Active,
            (ServiceState::Waiting | ServiceState::Active, false) => ServiceState::Refused,
            (decided, _) => return Err(ServiceDecisionError::Decided(decided)),
        };
        query("UPDATE services SET state = $2 WHERE id = $1")
            .bind(id.0)
            .bind(state.as_str())
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        self.commit(transaction).await?;
        Ok(Service { state, ..service })
    }

    pub(super) async fn set_publishing(
        &self,
        user: UserId,
        publishing: Publishing,
    ) -> Result<(), UserChangeError> {
        let done = query("UPDATE users SET publishing = $2 WHERE id = $1")
            .bind(user.0)
            .bind(publishing.as_str())
            .execute(&self.write)
            .await
            .or_fault(self)?;
        match done.rows_affected() {
            0 => Err(UserChangeError::NoSuchUser),
            _ => Ok(()),
        }
    }

    pub(super) async fn publishing_exceptions(&self) -> Result<Vec<(UserId, Publishing)>, Fault> {
        let rows: Vec<(i64, String)> =
            query_as("SELECT id, publishing FROM users WHERE publishing <> 'usual' ORDER BY name")
                .fetch_all(&self.read)
                .await
                .or_fault(self)?;
        let read = |(id, word): (i64, String)| {
            let publishing = word.parse().map_err(|error| self.unreadable(error))?;
            Ok((UserId(id), publishing))
        };
        rows.into_iter().map(read).collect()
    }

    pub(super) async fn withdraw_service(&self, id: ServiceId) -> Result<bool, Fault> {
        let done = query("DELETE FROM services WHERE id = $1")
            .bind(id.0)
            .execute(&self.write)
            .await
            .or_fault(self)?;
        Ok(done.rows_affected() > 0)
    }

    pub(super) async fn service(&self, id: ServiceId) -> Result<Option<Service>, Fault> {
        let row = query_as(select_services!("WHERE s.id = $1"))
            .bind(id.0)
            .fetch_optional(&self.read)
            .await
            .or_fault(self)?;
        row.map(|row| self.read_service(row)).transpose()
    }

    pub(super) async fn services(&self, owner: Option<UserId>) -> Result<Vec<Service>, Fault> {
        let rows = query_as(select_services!(
            "WHERE $1 IS NULL OR s.owner_id = $1 ORDER BY s.name, o.name"
        ))
        .bind(owner.map(|owner| owner.0))
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        rows.into_iter().map(|row| self.read_service(row)).collect()
    }

    pub(super) async fn services_for(&self, caller: Caller) -> Result<Vec<Service>, Fault> {
        let rows: Vec<JudgedRow> = query_as(select_services!(judged, "ORDER BY s.name, o.name"))
            .bind(caller.user.0)
            .bind(caller.machine.0)
            .fetch_all(&self.read)
            .await
            .or_fault(self)?;
        let judged = rows.into_iter().map(|row| self.read_judged(row));
        let judged: Vec<(Service, bool)> = judged.collect::<Result<_, _>>()?;
        Ok(judged
            .into_iter()
            .filter_map(|(service, allowed)| allowed.then_some(service))
            .collect())
    }

    pub(super) async fn resolve_service(
        &self,
        caller: Caller,
        reference: &ServiceRef,
    ) -> Result<Service, ResolveError> {
        let rows: Vec<JudgedRow> = query_as(select_services!(
            judged,
            "WHERE s.name = $3 AND ($4 IS NULL OR o.name = $4) ORDER BY o.name"
        ))
        .bind(caller.user.0)
        .bind(caller.machine.0)
        .bind(reference.service.as_str())
        .bind(reference.owner.as_ref().map(Name::as_str))
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        let candidates = rows.into_iter().map(|row| self.read_judged(row));
        choose(
            caller.user,
            reference,
            candidates.collect::<Result<_, _>>()?,
        )
    }

    pub(super) async fn may_use(&self, caller: Caller, service: ServiceId) -> Result<bool, Fault> {
        let row: Option<JudgedRow> = query_as(select_services!(judged, "WHERE s.id = $3"))
            .bind(caller.user.0)
            .bind(caller.machine.0)
            .bind(service.0)
            .fetch_optional(&self.read)
            .await
            .or_fault(self)?;
        Ok(row.is_some_and(|row| row.allowed))
    }

    pub(super) async fn set_access(
        &self,
        service: ServiceId,
        who: &Who,
        access: Access,
        at: UnixMillis,
    ) -> Result<(), AccessError> {
        let mut transaction = self.begin_write().await?;
        let known = query("SELECT 1 FROM services WHERE id = $1")
            .bind(service.0)
            .fetch_optional(&mut *transaction)
            .await
            .or_fault(self)?;
        known.ok_or(AccessError::NoSuchService)?;
        let (mut user, mut machine, mut role) = (None, None, None);
        match who {
            Who::Everyone => {}
            Who::Role(meant) => role = Some(meant.as_str()),
            Who::User(name) => match self.find_user(&mut transaction, name).await? {
                Some(found) => user = Some(found.id.0),
                None => return Err(AccessError::NoSuchUser { name: name.clone() }),
            },
            Who::Machine(key) => machine = Some(self.machine_of(&mut transaction, key).await?.0),
        }
        query(
            "DELETE FROM access WHERE service_id = $1 AND user_id IS $2 AND machine_id IS $3 \
             AND role IS $4",
        )
        .bind(service.0)
        .bind(user)
        .bind(machine)
        .bind(role)
        .execute(&mut *transaction)
        .await
        .or_fault(self)?;
        query(
            "INSERT INTO access (service_id, user_id, machine_id, role, allowed, since) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(service.0)
        .bind(user)
        .bind(machine)
        .bind(role)
        .bind(access == Access::Allow)
        .bind(at.0)
        .execute(&mut *transaction)
        .await
        .or_fault(self)?;
        Ok(self.commit(transaction).await?)
    }

    async fn machine_of(
        &self,
        connection: &mut SqliteConnection,
        key: &MachineKey,
    ) -> Result<MachineId, AccessError> {
        let row: Option<(i64,)> = query_as("SELECT id FROM machines WHERE public_key = $1")
            .bind(&key.0[..])
            .fetch_optional(connection)
            .await
            .or_fault(self)?;
        row.map(|(id,)| MachineId(id))
            .ok_or(AccessError::NoSuchMachine)
    }

    pub(super) async fn access_list(&self, service: ServiceId) -> Result<Vec<AccessEntry>, Fault> {
        let rows: Vec<AccessRow> = query_as(
            "SELECT u.name, m.public_key, a.role, a.allowed, a.since FROM access a \
             LEFT JOIN users u ON u.id = a.user_id LEFT JOIN machines m ON m.id = a.machine_id \
             WHERE a.service_id = $1 \
             ORDER BY m.id IS NOT NULL, coalesce(u.name, ''), coalesce(a.role, ''), m.id",
        )
        .bind(service.0)
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        let entry = |(name, key, role, allowed, since): AccessRow| {
            let who = match (name, key, role) {
                (Some(name), ..) => Who::User(self.read_name(&name)?),
                (None, Some(key), _) => Who::Machine(self.read_key(&key)?),
                (None, None, Some(role)) => {
                    Who::Role(role.parse().map_err(|error| self.unreadable(error))?)
                }
                (None, None, None) => Who::Everyone,
            };
            Ok(AccessEntry {
                who,
                access: if allowed { Access::Allow } else { Access::Deny },
                since: UnixMillis(since),
            })
        };
        rows.into_iter().map(entry).collect()
    }
}
