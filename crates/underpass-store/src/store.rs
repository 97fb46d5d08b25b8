//! The trait that a relay asks and tells.

use std::fmt;
use std::pin::Pin;

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
    SetupCodeError, TokenError, UnixMillis, UsageFilter, Used, User, UserChangeError, UserId,
    UserState, Who,
};

/// What every method of [`Store`] returns: boxed, so that a relay can hold an `Arc<dyn Store>`
/// and choose its database at run time.
///
/// Dropping the future before it is ready leaves the operation either wholly done or not done.
pub type StoreFuture<'a, T, E = Fault> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// What a relay remembers.
///
/// Each method is one transaction, visible to other processes on the same database once it has
/// returned, and safe on the disk by then. Lists come in order of name unless said otherwise.
///
/// The store decides what must hold whoever asks (single use, one owner, the last administrator,
/// access lists). Who may ask for what is the caller's to decide.
///
/// Every method can fail with a [`Fault`]; the sections on errors name the refusals only.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    // First administrator.

    /// Whether an active administrator exists: what tells a relay in use from a fresh one.
    fn has_administrator(&self) -> StoreFuture<'_, bool>;

    /// Makes `digest` the one setup code; an earlier one is worth nothing from now on.
    ///
    /// # Errors
    /// [`SetupCodeError::AdministratorExists`].
    fn set_setup_code(
        &self,
        digest: CodeDigest,
        at: UnixMillis,
    ) -> StoreFuture<'_, (), SetupCodeError>;

    /// Spends the setup code: creates `user` as administrator, with `machine`.
    ///
    /// The same machine key with the same code gets the same answer again, so that a lost answer
    /// locks nobody out.
    ///
    /// # Errors
    /// Every case of [`RedeemError`] but those about invitations.
    fn redeem_setup_code<'a>(
        &'a self,
        digest: CodeDigest,
        user: &'a Name,
        machine: &'a NewMachine,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, RedeemError>;

    // Invitations.

    /// Makes an invitation, good once, until it expires.
    ///
    /// # Errors
    /// Every case of [`InviteError`].
    fn invite<'a>(
        &'a self,
        invitation: &'a NewInvitation,
    ) -> StoreFuture<'a, Invitation, InviteError>;

    /// All invitations, used and expired ones too, the newest first.
    fn invitations(&self) -> StoreFuture<'_, Vec<Invitation>>;

    /// Withdraws an invitation that is not used yet. Returns whether there was one.
    fn cancel_invitation(&self, id: InvitationId) -> StoreFuture<'_, bool>;

    /// Spends an invitation: enrols `machine` under the invited user, who is created as
    /// [`Role::User`] if there is none of that name.
    ///
    /// The same machine key with the same code gets the same answer again, so that a lost answer
    /// locks nobody out.
    ///
    /// # Errors
    /// Every case of [`RedeemError`] but those about setup codes.
    fn redeem_invitation<'a>(
        &'a self,
        digest: CodeDigest,
        machine: &'a NewMachine,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, RedeemError>;

    /// Forgets invitations that expired before `before`, used or not. Returns how many.
    fn prune_invitations(&self, before: UnixMillis) -> StoreFuture<'_, u64>;

    // Passwords.

    /// The secret of logins by password, which all relays on this store share: the one that is kept, else `fresh`,
    /// which is kept from now on.
    fn password_secret<'a>(&'a self, fresh: &'a PasswordSecret) -> StoreFuture<'a, PasswordSecret>;

    /// The password of the user of that name, let in or not. One question, whatever the answer.
    fn password<'a>(&'a self, user: &'a Name) -> StoreFuture<'a, Option<Password>>;

    /// Creates `user`, who waits for approval, with a password and `machine`; while fewer than `most_waiting` do.
    ///
    /// The same machine key with the same name sets the password again, so that a lost answer locks nobody out.
    ///
    /// # Errors
    /// Every case of [`RegisterError`].
    fn register<'a>(
        &'a self,
        user: &'a Name,
        file: &'a PasswordFile,
        machine: &'a NewMachine,
        most_waiting: u64,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, RegisterError>;

    /// Sets or changes a user's password.
    ///
    /// # Errors
    /// [`UserChangeError::NoSuchUser`].
    fn set_password<'a>(
        &'a self,
        user: UserId,
        file: &'a PasswordFile,
        at: UnixMillis,
    ) -> StoreFuture<'a, (), UserChangeError>;

    /// Enrols a machine of an active user. That the user is meant, the caller has made sure of.
    ///
    /// The same machine key gets the same answer again, so that a lost answer locks nobody out.
    ///
    /// # Errors
    /// Every case of [`EnrolError`].
    fn enrol_machine<'a>(
        &'a self,
        user: UserId,
        machine: &'a NewMachine,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, EnrolError>;

    /// Lets in a user who waits. Returns the user as they are now. Of two who decide at once, one does.
    ///
    /// # Errors
    /// Every case of [`DecideError`].
    fn approve(&self, id: UserId) -> StoreFuture<'_, User, DecideError>;

    /// Forgets a user who waits, with machines and password; the name is free again. Returns the user as they were.
    ///
    /// # Errors
    /// Every case of [`DecideError`].
    fn deny(&self, id: UserId) -> StoreFuture<'_, User, DecideError>;

    // Certificates.

    /// Enrols a machine under the user of that name, who is created as [`Role::User`] where there is none and `make`
    /// says so, and lets it in by `certificate` from now on; of a machine that is enrolled there already, the
    /// certificate takes the place of the one before. That the user is meant, the caller has made sure of.
    ///
    /// # Errors
    /// Every case of [`EnrolError`].
    fn certify_machine<'a>(
        &'a self,
        user: &'a Name,
        make: bool,
        machine: &'a NewMachine,
        certificate: &'a NewCertificate,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, EnrolError>;

    /// What is kept of a machine's certificate, if it is let in by one.
    fn certificate(&self, machine: MachineId) -> StoreFuture<'_, Option<Vec<u8>>>;

    /// The same of all active machines that are let in by one, in no order.
    fn certificates(&self) -> StoreFuture<'_, Vec<(MachineId, Vec<u8>)>>;

    // Users.

    /// The user of that number.
    fn user(&self, id: UserId) -> StoreFuture<'_, Option<User>>;

    /// The user of that name.
    fn user_by_name<'a>(&'a self, name: &'a Name) -> StoreFuture<'a, Option<User>>;

    /// All users.
    fn users(&self) -> StoreFuture<'_, Vec<User>>;

    /// Gives a user another role. Returns the user as they are now.
    ///
    /// # Errors
    /// Every case of [`UserChangeError`].
    fn set_user_role(&self, id: UserId, role: Role) -> StoreFuture<'_, User, UserChangeError>;

    /// Disables or enables a user who does not wait for approval. Returns the user as they are now.
    ///
    /// # Errors
    /// Every case of [`UserChangeError`].
    fn set_user_state(
        &self,
        id: UserId,
        state: UserState,
    ) -> StoreFuture<'_, User, UserChangeError>;

    // Machines.

    /// The machine of that number.
    fn machine(&self, id: MachineId) -> StoreFuture<'_, Option<Machine>>;

    /// Whom a key stands for, revoked and disabled ones too: ask [`Enrolled::is_admitted`].
    fn machine_by_key<'a>(&'a self, key: &'a MachineKey) -> StoreFuture<'a, Option<Enrolled>>;

    /// The machines of one user, or of all, revoked ones too.
    fn machines(&self, user: Option<UserId>) -> StoreFuture<'_, Vec<Machine>>;

    /// Makes a token of `user` for a bare HTTP client: a machine whose key is refused from `expires` on.
    ///
    /// The same key with the same name gets the same answer again, so that a lost answer does no harm.
    ///
    /// # Errors
    /// Every case of [`TokenError`].
    fn make_token<'a>(
        &'a self,
        user: UserId,
        token: &'a NewMachine,
        expires: Option<UnixMillis>,
        at: UnixMillis,
    ) -> StoreFuture<'a, Enrolled, TokenError>;

    /// Refuses a machine's key from now on, for good. Returns the machine as it is now.
    ///
    /// # Errors
    /// [`RevokeError::NoSuchMachine`].
    fn revoke_machine(&self, id: MachineId) -> StoreFuture<'_, Machine, RevokeError>;

    /// Notes when machines were seen, all at once; none that was seen later than that already, or is not known.
    fn note_machines_seen<'a>(&'a self, seen: &'a [(MachineId, UnixMillis)])
    -> StoreFuture<'a, ()>;

    // Services.

    /// Publishes a service, or again: then it keeps its key, its access list and its age, and
    /// takes the new settings. A service of a revoked machine passes to the owner's new one. Where the owner needs
    /// approval it waits, until a manager has approved it once.
    ///
    /// # Errors
    /// Every case of [`PublishError`].
    fn publish_service<'a>(
        &'a self,
        service: &'a NewService,
    ) -> StoreFuture<'a, Published, PublishError>;

    /// Approves a service that waits; else refuses one that waits or was approved. Returns it as it is now. Whichever of
    /// the two comes first, a service that is approved and refused at once is refused.
    ///
    /// # Errors
    /// [`ServiceDecisionError::NoSuchService`], [`ServiceDecisionError::Decided`].
    fn decide_service(
        &self,
        id: ServiceId,
        approve: bool,
    ) -> StoreFuture<'_, Service, ServiceDecisionError>;

    /// Says whether what a user publishes from now on waits for approval.
    ///
    /// # Errors
    /// [`UserChangeError::NoSuchUser`].
    fn set_publishing(
        &self,
        user: UserId,
        publishing: Publishing,
    ) -> StoreFuture<'_, (), UserChangeError>;

    /// Those for whom something else holds than usual.
    fn publishing_exceptions(&self) -> StoreFuture<'_, Vec<(UserId, Publishing)>>;

    /// Forgets a service and its access list. Returns whether there was one.
    fn withdraw_service(&self, id: ServiceId) -> StoreFuture<'_, bool>;

    /// The service of that number.
    fn service(&self, id: ServiceId) -> StoreFuture<'_, Option<Service>>;

    /// The services of one owner, or of all.
    fn services(&self, owner: Option<UserId>) -> StoreFuture<'_, Vec<Service>>;

    /// The services that `caller` may use, their own included.
    fn services_for(&self, caller: Caller) -> StoreFuture<'_, Vec<Service>>;

    /// The service that `reference` means to `caller`, if they may use it.
    ///
    /// `SERVICE` alone means the caller's own service of that name, else the only one of that
    /// name that the caller may use.
    ///
    /// # Errors
    /// Every case of [`ResolveError`].
    fn resolve_service<'a>(
        &'a self,
        caller: Caller,
        reference: &'a ServiceRef,
    ) -> StoreFuture<'a, Service, ResolveError>;

    /// Whether `caller` may use a service now. The owner always may, others as the access list
    /// says; nobody may while caller or owner is disabled, the publishing machine is revoked, or the service is not
    /// approved.
    fn may_use(&self, caller: Caller, service: ServiceId) -> StoreFuture<'_, bool>;

    /// Sets the entry of `who` in a service's access list.
    ///
    /// # Errors
    /// [`AccessError::NoSuchService`], [`AccessError::NoSuchUser`], [`AccessError::NoSuchMachine`].
    fn set_access<'a>(
        &'a self,
        service: ServiceId,
        who: &'a Who,
        access: Access,
        at: UnixMillis,
    ) -> StoreFuture<'a, (), AccessError>;

    /// A service's access list: everyone and roles, users, machines; empty for an unknown service.
    fn access_list(&self, service: ServiceId) -> StoreFuture<'_, Vec<AccessEntry>>;

    // Tickets.

    /// Moves the clock of the ticket authority to `at_least`, unless it is beyond that already, and
    /// forgets the lines that have expired by then. Returns where the clock is now.
    ///
    /// It is no calendar: it goes on where it stood when the authority was last there, so that no
    /// set clock and no pause expires a ticket. Authorities that share a store move one clock.
    fn advance_ticket_clock(&self, at_least: Time) -> StoreFuture<'_, Time>;

    /// Keeps a new line.
    fn add_ticket<'a>(&'a self, line: &'a Line) -> StoreFuture<'a, ()>;

    /// The line of which a ticket with this digest is the current one or the next.
    fn ticket<'a>(&'a self, digest: &'a [u8; 32]) -> StoreFuture<'a, Option<Line>>;

    /// Puts `after` in the place of `before`. Returns false, and changes nothing, where the line is
    /// not as `before` any more.
    fn replace_ticket<'a>(&'a self, before: &'a Line, after: &'a Line) -> StoreFuture<'a, bool>;

    /// Renews the lines of these names at `now`, as [`Line::renew`] does. Returns how many there are.
    fn renew_tickets<'a>(&'a self, handles: &'a [Handle], now: Time) -> StoreFuture<'a, u64>;

    /// Forgets a line. Returns whether there was one.
    fn forget_ticket(&self, handle: Handle) -> StoreFuture<'_, bool>;

    // Other relays.

    /// A number that grows with every change of what somebody may do (roles and states, access lists, services that are
    /// withdrawn or pass to another machine), whichever process made it.
    fn rights_revision(&self) -> StoreFuture<'_, u64>;

    // Usage and limits.

    /// Adds to what was used.
    fn add_usage<'a>(&'a self, usage: &'a [NewUsage]) -> StoreFuture<'a, ()>;

    /// What was used, summed up by what the filter says, in the order of that; the key is its first word.
    fn usage(&self, filter: UsageFilter) -> StoreFuture<'_, Vec<(String, Used)>>;

    /// How many bytes each user has used on this day and later, both ways together.
    fn used_since(&self, since: Day) -> StoreFuture<'_, Vec<(UserId, u64)>>;

    /// Forgets what was used before a day. Returns how many entries.
    fn prune_usage(&self, before: Day) -> StoreFuture<'_, u64>;

    /// Makes an exception from a limit for a user (so much, or none for no limit), or takes it back.
    ///
    /// # Errors
    /// [`UserChangeError::NoSuchUser`].
    fn set_limit(
        &self,
        user: UserId,
        kind: LimitKind,
        exception: Option<Option<u64>>,
    ) -> StoreFuture<'_, (), UserChangeError>;

    /// All exceptions from limits.
    fn limit_exceptions(&self) -> StoreFuture<'_, Vec<LimitException>>;

    /// Notes until when no relay may open a path for a session, and forgets those whose time was over at `at`.
    fn end_session<'a>(
        &'a self,
        ended: &'a EndedSession,
        until: UnixMillis,
        at: UnixMillis,
    ) -> StoreFuture<'a, ()>;

    /// The sessions for which no relay may open a path at this moment.
    fn ended_sessions(&self, at: UnixMillis) -> StoreFuture<'_, Vec<EndedSession>>;

    // Events.

    /// Appends events in the order given: all of them, or none.
    ///
    /// # Errors
    /// [`AppendError::TooLong`], [`AppendError::NotJson`].
    fn append_events<'a>(&'a self, events: &'a [NewEvent]) -> StoreFuture<'a, (), AppendError>;

    /// Lists events, the newest first.
    fn events<'a>(&'a self, filter: &'a EventFilter) -> StoreFuture<'a, Vec<Event>>;

    /// Forgets old events. Returns how many. Works in steps, so that others can write meanwhile;
    /// when it fails between steps, what was forgotten stays so.
    fn prune_events(&self, keep: EventRetention) -> StoreFuture<'_, u64>;

    /// Writes out what is pending and lets go of the database. Every later call fails with
    /// [`FaultKind::Closed`](crate::FaultKind::Closed). Not needed for safety: a killed process
    /// loses nothing that a method had returned.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}
