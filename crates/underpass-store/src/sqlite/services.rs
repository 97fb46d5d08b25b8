//! Services and access lists in SQLite.

use sqlx::{SqliteConnection, query, query_as};

use super::Database;
use super::faults::OrFault;
use crate::services::choose;
use crate::{
    Access, AccessEntry, AccessError, Fault, MachineId, Name, NewService, PublishError, Published,
    ResolveError, Service, ServiceId, ServiceKey, ServiceRef, UnixMillis, UserId, Who,
};

/// A service: id, name, owner_id, owner's name, machine_id, service_key, compression, created_at,
/// plain_http.
type ServiceRow = (i64, String, i64, String, i64, Vec<u8>, bool, i64, bool);

/// Selects services as [`ServiceRow`]; what follows may speak of `s`, the service, `o`, its
/// owner, and `m`, its machine. The second form adds whether the user $1 may use the service.
macro_rules! select_services {
    ($rest:literal) => {
        concat!(
            "SELECT s.id, s.name, s.owner_id, o.name, s.machine_id, s.service_key, s.compression, ",
            "s.created_at, s.plain_http FROM services s JOIN users o ON o.id = s.owner_id ",
            $rest
        )
    };
    (with $allowed:expr, $rest:literal) => {
        concat!(
            "SELECT s.id, s.name, s.owner_id, o.name, s.machine_id, s.service_key, s.compression, ",
            "s.created_at, s.plain_http, ",
            $allowed,
            " FROM services s JOIN users o ON o.id = s.owner_id ",
            "JOIN machines m ON m.id = s.machine_id ",
            $rest
        )
    };
}

/// Whether the user $1 may use the service `s`: the one place where this is decided.
macro_rules! allowed {
    () => {
        "(o.state = 'active' AND m.state = 'active' \
          AND EXISTS (SELECT 1 FROM users c WHERE c.id = $1 AND c.state = 'active') \
          AND (s.owner_id = $1 OR coalesce( \
            (SELECT a.allowed FROM access a WHERE a.service_id = s.id AND a.user_id = $1), \
            (SELECT a.allowed FROM access a WHERE a.service_id = s.id AND a.user_id IS NULL), \
            0) = 1))"
    };
}

/// A [`ServiceRow`] and whether a certain user may use it.
type JudgedRow = (
    i64,
    String,
    i64,
    String,
    i64,
    Vec<u8>,
    bool,
    i64,
    bool,
    bool,
);

impl Database {
    fn read_service(&self, row: ServiceRow) -> Result<Service, Fault> {
        let (id, name, owner, owner_name, machine, key, compression, created, plain_http) = row;
        Ok(Service {
            id: ServiceId(id),
            name: self.read_name(&name)?,
            owner: UserId(owner),
            owner_name: self.read_name(&owner_name)?,
            machine: MachineId(machine),
            key: ServiceKey::new(&key).map_err(|error| self.unreadable(error))?,
            compression,
            plain_http,
            created: UnixMillis(created),
        })
    }

    fn read_judged(&self, row: JudgedRow) -> Result<(Service, bool), Fault> {
        let (a, b, c, d, e, f, g, h, i, allowed) = row;
        Ok((self.read_service((a, b, c, d, e, f, g, h, i))?, allowed))
    }

    pub(super) async fn publish_service(
        &self,
        new: &NewService,
    ) -> Result<Published, PublishError> {
        let mut transaction = self.begin_write().await?;
        self.check_publisher(&mut transaction, new).await?;
        let published = match self.service_named(&mut transaction, new).await? {
            Some(old) => {
                self.check_moves(&mut transaction, &old, new).await?;
                query(
                    "UPDATE services SET machine_id = $2, compression = $3, plain_http = $4 \
                     WHERE id = $1",
                )
                .bind(old.id.0)
                .bind(new.machine.0)
                .bind(new.compression)
                .bind(new.plain_http)
                .execute(&mut *transaction)
                .await
                .or_fault(self)?;
                Published::Again(Service {
                    machine: new.machine,
                    compression: new.compression,
                    plain_http: new.plain_http,
                    ..old
                })
            }
            None => {
                self.insert_service(&mut transaction, new).await?;
                let service = self.service_named(&mut transaction, new).await?;
                let missing = || self.unreadable("a service just written cannot be read");
                Published::New(service.ok_or_else(missing)?)
            }
        };
        self.commit(transaction).await?;
        Ok(published)
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
    ) -> Result<(), PublishError> {
        let done = query(
            "INSERT INTO services (name, owner_id, machine_id, service_key, compression, plain_http, \
             created_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (service_key) DO NOTHING",
        )
        .bind(new.name.as_str())
        .bind(new.owner.0)
        .bind(new.machine.0)
        .bind(new.key.as_bytes())
        .bind(new.compression)
        .bind(new.plain_http)
        .bind(new.at.0)
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

    pub(super) async fn services_for(&self, caller: UserId) -> Result<Vec<Service>, Fault> {
        let rows: Vec<JudgedRow> =
            query_as(select_services!(with allowed!(), "ORDER BY s.name, o.name"))
                .bind(caller.0)
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
        caller: UserId,
        reference: &ServiceRef,
    ) -> Result<Service, ResolveError> {
        let rows: Vec<JudgedRow> = query_as(select_services!(with allowed!(),
            "WHERE s.name = $2 AND ($3 IS NULL OR o.name = $3) ORDER BY o.name"))
        .bind(caller.0)
        .bind(reference.service.as_str())
        .bind(reference.owner.as_ref().map(Name::as_str))
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        let candidates = rows.into_iter().map(|row| self.read_judged(row));
        choose(caller, reference, candidates.collect::<Result<_, _>>()?)
    }

    pub(super) async fn may_use(&self, caller: UserId, service: ServiceId) -> Result<bool, Fault> {
        let row: Option<JudgedRow> = query_as(select_services!(with allowed!(), "WHERE s.id = $2"))
            .bind(caller.0)
            .bind(service.0)
            .fetch_optional(&self.read)
            .await
            .or_fault(self)?;
        Ok(row.is_some_and(|row| row.9))
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
        let user = match who {
            Who::Everyone => None,
            Who::User(name) => match self.find_user(&mut transaction, name).await? {
                Some(user) => Some(user.id.0),
                None => return Err(AccessError::NoSuchUser { name: name.clone() }),
            },
        };
        query("DELETE FROM access WHERE service_id = $1 AND user_id IS $2")
            .bind(service.0)
            .bind(user)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        query("INSERT INTO access (service_id, user_id, allowed, since) VALUES ($1, $2, $3, $4)")
            .bind(service.0)
            .bind(user)
            .bind(access == Access::Allow)
            .bind(at.0)
            .execute(&mut *transaction)
            .await
            .or_fault(self)?;
        Ok(self.commit(transaction).await?)
    }

    pub(super) async fn access_list(&self, service: ServiceId) -> Result<Vec<AccessEntry>, Fault> {
        let rows: Vec<(Option<String>, bool, i64)> = query_as(
            "SELECT u.name, a.allowed, a.since FROM access a LEFT JOIN users u ON u.id = a.user_id \
             WHERE a.service_id = $1 ORDER BY coalesce(u.name, '')",
        )
        .bind(service.0)
        .fetch_all(&self.read)
        .await
        .or_fault(self)?;
        let entry = |(name, allowed, since): (Option<String>, bool, i64)| {
            Ok(AccessEntry {
                who: match name {
                    None => Who::Everyone,
                    Some(name) => Who::User(self.read_name(&name)?),
                },
                access: if allowed { Access::Allow } else { Access::Deny },
                since: UnixMillis(since),
            })
        };
        rows.into_iter().map(entry).collect()
    }
}
