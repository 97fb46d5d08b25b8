//! The store in one SQLite file.
//!
//! Write-ahead log, so that readers never wait; writers of this process queue for one connection
//! and start with `BEGIN IMMEDIATE`, so that a transaction that has begun to read is never told
//! too late that somebody else wrote. Other processes are waited for (`BUSY_TIMEOUT`).
//!
//! Statements use `$1` placeholders and no word that only SQLite knows, where it can be helped.

mod certificates;
mod enrolment;
mod events;
mod faults;
mod machines;
mod open;
mod passwords;
mod rights;
mod services;
mod tickets;
mod usage;
mod users;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use sqlx::{Sqlite, SqlitePool, Transaction};
use underpass_proto::Time;
use underpass_proto::limit::LimitKind;
use underpass_proto::ticket::{Handle, Line};

use crate::{
    Access, AccessEntry, AccessError, AppendError, Caller, CodeDigest, Day, DecideError,
    EndedSession, EnrolError, Enrolled, Event, EventFilter, EventRetention, Fault, Invitation,
    InvitationId, InviteError, LimitException, Machine, MachineId, MachineKey, Name,
    NewCertificate, NewEvent, NewInvitation, NewMachine, NewService, NewUsage, Password,
    PasswordFile, PasswordSecret, PublishError, Published, Publishing, RedeemError, RegisterError,
    ResolveError, RevokeError, Role, Service, ServiceDecisionError, ServiceId, ServiceRef,
    SetupCodeError, Store, StoreFuture, TokenError, UnixMillis, UsageFilter, Used, User,
    UserChangeError, UserId, UserState, Who,
};
use faults::OrFault;
pub use open::OpenError;

/// A [`Store`] in one SQLite file, which several processes of one machine may share.
///
/// The file must be on a local disk: SQLite's write-ahead log does not work over network file
/// systems.
pub struct SqliteStore(Database);

/// The connections to the file. Its methods, one file per family, are those of [`Store`].
struct Database {
    /// Connections that cannot write.
    read: SqlitePool,
    /// The one connection that writes.
    write: SqlitePool,
    /// The file, as faults name it.
    place: Arc<str>,
}

impl Database {
    /// Begins a transaction that holds the right to write from the start.
    async fn begin_write(&self) -> Result<Transaction<'static, Sqlite>, Fault> {
        self.write
            .begin_with("BEGIN IMMEDIATE")
            .await
            .or_fault(self)
    }

    /// Commits what [`Self::begin_write`] began.
    async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<(), Fault> {
        transaction.commit().await.or_fault(self)
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteStore").field(&self.0.place).finish()
    }
}

impl Store for SqliteStore {
    fn has_administrator(&self) -> StoreFuture<'_, bool> {
        Box::pin(self.0.has_administrator())
    }

    fn set_setup_code(
        &self,
        digest: CodeDigest,
        at: UnixMillis,
    ) -> StoreFuture<'_, (), SetupCodeError> {
        Box::pin(self.0.set_setup_code(digest, at))
    }

    fn redeem_setup_code<'a>(
        &'a self,
        digest: CodeDigest,
        user: &'a Name,
        machine: &'a NewMachine,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, RedeemError> {
        Box::pin(self.0.redeem_setup_code(digest, user, machine, at))
    }

    fn invite<'a>(
        &'a self,
        invitation: &'a NewInvitation,
    ) -> StoreFuture<'a, Invitation, InviteError> {
        Box::pin(self.0.invite(invitation))
    }

    fn invitations(&self) -> StoreFuture<'_, Vec<Invitation>> {
        Box::pin(self.0.invitations())
    }

    fn cancel_invitation(&self, id: InvitationId) -> StoreFuture<'_, bool> {
        Box::pin(self.0.cancel_invitation(id))
    }

    fn redeem_invitation<'a>(
        &'a self,
        digest: CodeDigest,
        machine: &'a NewMachine,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, RedeemError> {
        Box::pin(self.0.redeem_invitation(digest, machine, at))
    }

    fn prune_invitations(&self, before: UnixMillis) -> StoreFuture<'_, u64> {
        Box::pin(self.0.prune_invitations(before))
    }

    fn password_secret<'a>(&'a self, fresh: &'a PasswordSecret) -> StoreFuture<'a, PasswordSecret> {
        Box::pin(self.0.password_secret(fresh))
    }

    fn password<'a>(&'a self, user: &'a Name) -> StoreFuture<'a, Option<Password>> {
        Box::pin(self.0.password(user))
    }

    fn register<'a>(
        &'a self,
        user: &'a Name,
        file: &'a PasswordFile,
        machine: &'a NewMachine,
        most_waiting: u64,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, RegisterError> {
        Box::pin(self.0.register(user, file, machine, most_waiting, at))
    }

    fn set_password<'a>(
        &'a self,
        user: UserId,
        file: &'a PasswordFile,
        at: UnixMillis,
    ) -> StoreFuture<'a, (), UserChangeError> {
        Box::pin(self.0.set_password(user, file, at))
    }

    fn enrol_machine<'a>(
        &'a self,
        user: UserId,
        machine: &'a NewMachine,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, EnrolError> {
        Box::pin(self.0.enrol_machine(user, machine, at))
    }

    fn certify_machine<'a>(
        &'a self,
        user: &'a Name,
        make: bool,
        machine: &'a NewMachine,
        certificate: &'a NewCertificate,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, EnrolError> {
        Box::pin(self.0.certify_machine(user, make, machine, certificate, at))
    }

    fn certificate(&self, machine: MachineId) -> StoreFuture<'_, Option<Vec<u8>>> {
        Box::pin(self.0.certificate(machine))
    }

    fn certificates(&self) -> StoreFuture<'_, Vec<(MachineId, Vec<u8>)>> {
        Box::pin(self.0.certificates())
    }

    fn approve(&self, id: UserId) -> StoreFuture<'_, User, DecideError> {
        Box::pin(self.0.approve(id))
    }

    fn deny(&self, id: UserId) -> StoreFuture<'_, User, DecideError> {
        Box::pin(self.0.deny(id))
    }

    fn user(&self, id: UserId) -> StoreFuture<'_, Option<User>> {
        Box::pin(self.0.user(id))
    }

    fn user_by_name<'a>(&'a self, name: &'a Name) -> StoreFuture<'a, Option<User>> {
        Box::pin(self.0.user_by_name(name))
    }

    fn users(&self) -> StoreFuture<'_, Vec<User>> {
        Box::pin(self.0.users())
    }

    fn set_user_role(&self, id: UserId, role: Role) -> StoreFuture<'_, User, UserChangeError> {
        Box::pin(self.0.set_user_role(id, role))
    }

    fn set_user_state(
        &self,
        id: UserId,
        state: UserState,
    ) -> StoreFuture<'_, User, UserChangeError> {
        Box::pin(self.0.set_user_state(id, state))
    }

    fn machine(&self, id: MachineId) -> StoreFuture<'_, Option<Machine>> {
        Box::pin(self.0.machine(id))
    }

    fn machine_by_key<'a>(&'a self, key: &'a MachineKey) -> StoreFuture<'a, Option<Enrolled>> {
        Box::pin(self.0.machine_by_key(key))
    }

    fn machines(&self, user: Option<UserId>) -> StoreFuture<'_, Vec<Machine>> {
        Box::pin(self.0.machines(user))
    }

    fn make_token<'a>(
        &'a self,
        user: UserId,
        token: &'a NewMachine,
        expires: Option<UnixMillis>,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, TokenError> {
        Box::pin(self.0.make_token(user, token, expires, at))
    }

    fn revoke_machine(&self, id: MachineId) -> StoreFuture<'_, Machine, RevokeError> {
        Box::pin(self.0.revoke_machine(id))
    }

    fn note_machines_seen<'a>(
        &'a self,
        seen: &'a [(MachineId, UnixMillis)],
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.0.note_machines_seen(seen))
    }

    fn publish_service<'a>(
        &'a self,
        service: &'a NewService,
    ) -> StoreFuture<'a, Published, PublishError> {
        Box::pin(self.0.publish_service(service))
    }

    fn decide_service(
        &self,
        id: ServiceId,
        approve: bool,
    ) -> StoreFuture<'_, Service, ServiceDecisionError> {
        Box::pin(self.0.decide_service(id, approve))
    }

    fn set_publishing(
        &self,
        user: UserId,
        publishing: Publishing,
    ) -> StoreFuture<'_, (), UserChangeError> {
        Box::pin(self.0.set_publishing(user, publishing))
    }

    fn publishing_exceptions(&self) -> StoreFuture<'_, Vec<(UserId, Publishing)>> {
        Box::pin(self.0.publishing_exceptions())
    }

    fn withdraw_service(&self, id: ServiceId) -> StoreFuture<'_, bool> {
        Box::pin(self.0.withdraw_service(id))
    }

    fn service(&self, id: ServiceId) -> StoreFuture<'_, Option<Service>> {
        Box::pin(self.0.service(id))
    }

    fn services(&self, owner: Option<UserId>) -> StoreFuture<'_, Vec<Service>> {
        Box::pin(self.0.services(owner))
    }

    fn services_for(&self, caller: Caller) -> StoreFuture<'_, Vec<Service>> {
        Box::pin(self.0.services_for(caller))
    }

    fn resolve_service<'a>(
        &'a self,
        caller: Caller,
        reference: &'a ServiceRef,
    ) -> StoreFuture<'a, Service, ResolveError> {
        Box::pin(self.0.resolve_service(caller, reference))
    }

    fn may_use(&self, caller: Caller, service: ServiceId) -> StoreFuture<'_, bool> {
        Box::pin(self.0.may_use(caller, service))
    }

    fn set_access<'a>(
        &'a self,
        service: ServiceId,
        who: &'a Who,
        access: Access,
        at: UnixMillis,
    ) -> StoreFuture<'a, (), AccessError> {
        Box::pin(self.0.set_access(service, who, access, at))
    }

    fn access_list(&self, service: ServiceId) -> StoreFuture<'_, Vec<AccessEntry>> {
        Box::pin(self.0.access_list(service))
    }

    fn advance_ticket_clock(&self, at_least: Time) -> StoreFuture<'_, Time> {
        Box::pin(self.0.advance_ticket_clock(at_least))
    }

    fn add_ticket<'a>(&'a self, line: &'a Line) -> StoreFuture<'a, ()> {
        Box::pin(self.0.add_ticket(line))
    }

    fn ticket<'a>(&'a self, digest: &'a [u8; 32]) -> StoreFuture<'a, Option<Line>> {
        Box::pin(self.0.ticket(digest))
    }

    fn replace_ticket<'a>(&'a self, before: &'a Line, after: &'a Line) -> StoreFuture<'a, bool> {
        Box::pin(self.0.replace_ticket(before, after))
    }

    fn renew_tickets<'a>(&'a self, handles: &'a [Handle], now: Time) -> StoreFuture<'a, u64> {
        Box::pin(self.0.renew_tickets(handles, now))
    }

    fn forget_ticket(&self, handle: Handle) -> StoreFuture<'_, bool> {
        Box::pin(self.0.forget_ticket(handle))
    }

    fn rights_revision(&self) -> StoreFuture<'_, u64> {
        Box::pin(self.0.rights_revision())
    }

    fn add_usage<'a>(&'a self, usage: &'a [NewUsage]) -> StoreFuture<'a, ()> {
        Box::pin(self.0.add_usage(usage))
    }

    fn usage(&self, filter: UsageFilter) -> StoreFuture<'_, Vec<(String, Used)>> {
        Box::pin(self.0.usage(filter))
    }

    fn used_since(&self, since: Day) -> StoreFuture<'_, Vec<(UserId, u64)>> {
        Box::pin(self.0.used_since(since))
    }

    fn prune_usage(&self, before: Day) -> StoreFuture<'_, u64> {
        Box::pin(self.0.prune_usage(before))
    }

    fn set_limit(
        &self,
        user: UserId,
        kind: LimitKind,
        exception: Option<Option<u64>>,
    ) -> StoreFuture<'_, (), UserChangeError> {
        Box::pin(self.0.set_limit(user, kind, exception))
    }

    fn limit_exceptions(&self) -> StoreFuture<'_, Vec<LimitException>> {
        Box::pin(self.0.limit_exceptions())
    }

    fn end_session<'a>(
        &'a self,
        ended: &'a EndedSession,
        until: UnixMillis,
        at: UnixMillis,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.0.end_session(ended, until, at))
    }

    fn ended_sessions(&self, at: UnixMillis) -> StoreFuture<'_, Vec<EndedSession>> {
        Box::pin(self.0.ended_sessions(at))
    }

    fn append_events<'a>(&'a self, events: &'a [NewEvent]) -> StoreFuture<'a, (), AppendError> {
        Box::pin(self.0.append_events(events))
    }

    fn events<'a>(&'a self, filter: &'a EventFilter) -> StoreFuture<'a, Vec<Event>> {
        Box::pin(self.0.events(filter))
    }

    fn prune_events(&self, keep: EventRetention) -> StoreFuture<'_, u64> {
        Box::pin(self.0.prune_events(keep))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // Readers first: the last connection to close is the one that can fold the log in.
        Box::pin(async {
            self.0.read.close().await;
            self.0.write.close().await;
        })
    }
}
