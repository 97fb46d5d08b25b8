//! The relay's answers to what agents ask on their control channels.
//!
//! Each request is decided anew by what the store says at that moment about the machine that asks:
//! a revoked machine or a disabled user is nobody from the next request on. Whatever cannot be checked
//! is refused.

mod approve;
mod certificates;
mod connections;
mod decide;
mod enrol;
mod events;
mod limits;
mod meet;
mod passwords;
mod people;
mod refusals;
mod services;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use underpass_proto::control::{self, Control, Done, Failed};
use underpass_proto::{Code, names};
use underpass_seal::PublicKey;
use underpass_store::{
    Enrolled, Fault, MachineId, MachineKey, MachineKind, Name, Store, UnixMillis, User, UserId,
    UserState,
};

pub(crate) use passwords::Passwords;

use crate::announced::Announced;
use crate::certificates::Certificates;
use crate::hub::{AttachmentId, Member};
use crate::limits::UserLimits;
use crate::log::Log;
use crate::policy::{self, Reach, Standing};
use crate::refusal::Refusal;
use crate::seen::Seen;
use crate::switch::Switch;
use crate::target::{RELAY_OWNER, RelayService};

/// The longest that an invitation can be good for: 30 days.
pub(crate) const LONGEST_INVITATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Draws 16 random bytes.
pub(crate) type Draw = dyn Fn() -> [u8; 16] + Send + Sync;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) attachment: AttachmentId,
    /// The key of the machine, proven by its session.
    pub(crate) key: [u8; 32],
    /// Who attached it.
    pub(crate) origin: Origin,
    /// The handshake of its session: what a login by password is bound to.
    pub(crate) handshake_hash: [u8; 32],
    /// For the log.
    pub(crate) address: Option<String>,
}

/// Who attached a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An agent, which holds the machine's key.
    Agent,
    /// The relay itself, for a bare HTTP client whose token is the key.
    PlainHttp,
}

/// What the desk goes by.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The relay's own key.
    pub(crate) relay_key: PublicKey,
    /// The suffix of pseudo DNS names.
    pub(crate) suffix: String,
    /// How long an invitation is good for unless its maker says otherwise.
    pub(crate) invitation: Duration,
    /// Whether what a user publishes waits for a manager's approval.
    pub(crate) approval: bool,
    /// Services that the relay dials.
    pub(crate) services: Vec<RelayService>,
    /// The certificates that let machines in.
    pub(crate) certificates: Arc<Certificates>,
    /// What each user may take up.
    pub(crate) limits: UserLimits,
}

/// Answers requests. Draws no randomness and reads no clock: both are arguments.
#[derive(Debug)]
pub(crate) struct Desk {
    store: Arc<dyn Store>,
    switch: Arc<Switch>,
    log: Log,
    seen: Seen,
    rules: Rules,
    passwords: Passwords,
    announced: Arc<Announced>,
}

/// One request and what is known about it.
struct Asked<'a> {
    caller: &'a Caller,
    reach: Reach,
    at: UnixMillis,
    draw: &'a Draw,
}

impl Desk {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        switch: Arc<Switch>,
        log: Log,
        seen: Seen,
        rules: Rules,
        passwords: Passwords,
        announced: Arc<Announced>,
    ) -> Self {
        Self {
            store,
            switch,
            log,
            seen,
            rules,
            passwords,
            announced,
        }
    }

    /// What each user may take up.
    pub(crate) fn limits(&self) -> &UserLimits {
        &self.rules.limits
    }

    /// The services that the relay dials.
    pub(crate) fn relay_services(&self) -> &[RelayService] {
        &self.rules.services
    }

    /// Whom a key stands for now. The key of a token is nobody's unless the relay itself uses it: a
    /// token opens the plain HTTP interface and nothing else.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(crate) async fn standing(
        &self,
        key: [u8; 32],
        origin: Origin,
        at: UnixMillis,
    ) -> Result<Standing, Refusal> {
        let kind = match origin {
            Origin::Agent => MachineKind::Agent,
            Origin::PlainHttp => MachineKind::Token,
        };
        let known = self.store.machine_by_key(&MachineKey(key)).await?;
        let Some(known) = known.filter(|it| it.machine.kind == kind) else {
            return Ok(Standing::Stranger);
        };
        if known.user.state == UserState::Waiting {
            return Ok(Standing::Waiting(known));
        }
        if !known.is_admitted() {
            return Ok(Standing::Stranger);
        }
        if let Some(why) = self.certificate_fault(&known.machine, at).await? {
            return Ok(Standing::Barred(known, why));
        }
        Ok(match known.is_admitted_at(at) {
            true => Standing::Member(known),
            false => Standing::Stranger,
        })
    }

    /// Answers one request: with one message, or with as many as a list takes.
    pub(crate) async fn answer(
        &self,
        caller: &Caller,
        request: Control,
        at: UnixMillis,
        draw: &Draw,
    ) -> Vec<Control> {
        let (number, kind) = (request.request().unwrap_or(0), request.kind());
        match self.try_answer(caller, request, at, draw).await {
            Ok(messages) => messages,
            Err(why) => {
                self.note_refused_request(caller, kind, &why);
                let Refusal { code, text } = why;
                let (request, code) = (number, code.number());
                vec![
                    Failed {
                        request,
                        code,
                        text,
                    }
                    .into(),
                ]
            }
        }
    }

    async fn try_answer(
        &self,
        caller: &Caller,
        request: Control,
        at: UnixMillis,
        draw: &Draw,
    ) -> Result<Vec<Control>, Refusal> {
        let standing = self.current_standing(caller, at).await?;
        let reach = policy::reach(&standing, request.kind())?;
        let asked = Asked {
            caller,
            reach,
            at,
            draw,
        };
        let member = match (standing, request) {
            (standing, Control::Attach(it)) => return self.attach(&asked, &standing, &it),
            (_, Control::Enrol(it)) => return self.enrol(&asked, it).await,
            (_, Control::SignIn(it)) => return self.sign_in(&asked, it).await,
            (_, Control::Prove(it)) => return self.prove(&asked, it).await,
            (standing, Control::Register(it)) => return self.register(&asked, &standing, &it),
            (standing, Control::SetPassword(it)) => {
                return self.set_password(&asked, &standing, it).await;
            }
            (_, Control::Certify(it)) => return self.certify(&asked, it).await,
            (Standing::Barred(_, why), _) => return Err(why),
            (Standing::Stranger, _) => return Err(Refusal::of(Code::NotEnrolled)),
            (Standing::Waiting(_), _) => return Err(Refusal::of(Code::Waiting)),
            (Standing::Member(member), request) => (member, request),
        };
        self.answer_member(&asked, member.0, member.1).await
    }

    async fn answer_member(
        &self,
        asked: &Asked<'_>,
        me: Enrolled,
        request: Control,
    ) -> Result<Vec<Control>, Refusal> {
        match request {
            Control::WhoAmI(it) => Ok(vec![self.identity(it.request, Some(&me))]),
            Control::Invite(it) => self.invite(asked, &me, it).await,
            Control::Publish(it) => self.publish(asked, &me, it).await,
            Control::Withdraw(it) => self.withdraw(asked, &me, it).await,
            Control::Allow(control::Allow {
                request,
                who,
                service,
            }) => {
                let access = underpass_store::Access::Allow;
                self.set_access(asked, &me, &who, &service, access).await?;
                Ok(done(request))
            }
            Control::Deny(control::Deny {
                request,
                who,
                service,
            }) => {
                let access = underpass_store::Access::Deny;
                self.set_access(asked, &me, &who, &service, access).await?;
                Ok(done(request))
            }
            Control::Services(it) => self.list_services(asked, &me, it.request).await,
            Control::Resolve(it) => self.resolve(&me, it).await,
            Control::Users(it) => self.list_users(asked, &me, it.request).await,
            Control::Machines(it) => self.list_machines(asked, &me, it.request).await,
            Control::Revoke(it) => self.revoke(asked, &me, it).await,
            Control::MakeToken(it) => self.make_token(asked, &me, it).await,
            Control::ChangeUser(it) => self.change_user(asked, &me, it).await,
            Control::SetRole(it) => self.set_role(asked, &me, it).await,
            Control::Group(it) => match self.announced.list() {
                Some(list) => Ok(vec![list.answer(it.request).into()]),
                None => Err(Refusal::of(Code::NoGroup)),
            },
            Control::Events(it) => self.list_events(asked, &me, it).await,
            Control::MayUse(it) => self.may_use(asked, &me, it).await,
            Control::Meet(it) => self.meet(asked, &me, it).await,
            Control::Part(it) => self.part(&me, &it),
            Control::DecideService(it) => self.decide_service(asked, &me, it).await,
            Control::SetPublishing(it) => self.set_publishing(asked, &me, it).await,
            Control::Connections(it) => Ok(self.list_connections(asked, &me, it.request)),
            Control::Kick(it) => self.kick(asked, &me, it).await,
            Control::Usage(it) => self.list_usage(asked, &me, it).await,
            Control::SetLimit(it) => self.set_limit(asked, &me, it).await,
            Control::Limits(it) => self.list_limits(asked, &me, it).await,
            other => {
                let text = format!("{} is no request", other.kind().name());
                Err(Refusal::new(Code::ProtocolViolation, text))
            }
        }
    }

    /// Asks the store who the caller is, and ends attachments of machines that were shut out.
    async fn current_standing(&self, caller: &Caller, at: UnixMillis) -> Result<Standing, Refusal> {
        let standing = self.standing(caller.key, caller.origin, at).await?;
        let was_member = self
            .switch
            .with_hub(|hub, _| hub.member(caller.attachment).is_some());
        if was_member && !matches!(standing, Standing::Member(_)) {
            let why = match &standing {
                Standing::Barred(_, why) => why.clone(),
                _ => shut_out(),
            };
            self.switch
                .with_hub(|hub, _| hub.end(caller.attachment, why.clone()));
            return Err(why);
        }
        if let (Standing::Member(member), false) = (&standing, was_member) {
            // Approved, or enabled again, since it attached.
            let (attachment, member) = (caller.attachment, hub_member(member));
            self.switch
                .with_hub(|hub, _| hub.enrolled(attachment, member))?;
        }
        Ok(standing)
    }

    /// Takes up the limits and the ended sessions that the store has by now; ends all attachments of machines that were
    /// shut out, whoever did it, and all routes to services that may not be used any more. When the next machine is shut out by its end, if one is.
    ///
    /// # Errors
    /// The store cannot be asked; nothing is ended then.
    pub(crate) async fn check_all(&self, at: UnixMillis) -> Result<Option<UnixMillis>, Fault> {
        self.take_up_limits(at).await?;
        let users = self.store.users().await?;
        let users: HashMap<UserId, User> = users.into_iter().map(|user| (user.id, user)).collect();
        let machines = self.store.machines(None).await?;
        // Who has come since the lists were made stands on none of them, and stays.
        let mut shut: HashMap<MachineId, Refusal> = HashMap::new();
        let mut next_end: Option<UnixMillis> = None;
        for machine in machines {
            let Some(user) = users.get(&machine.user).cloned() else {
                continue;
            };
            let enrolled = Enrolled { user, machine };
            if enrolled.is_admitted_at(at) {
                let end = enrolled.machine.expires;
                next_end = next_end.into_iter().chain(end).min();
            } else {
                shut.insert(enrolled.machine.id, why_out(&enrolled));
            }
        }
        for attached in self.switch.all_attached() {
            self.switch.with_hub(|hub, _| {
                let member = hub.member(attached.id);
                let why = member.and_then(|member| shut.get(&member.machine));
                if let Some(why) = why {
                    hub.end(attached.id, why.clone());
                }
            });
        }
        self.switch.with_hub(|hub, _| hub.recheck_all());
        Ok(next_end)
    }

    fn full_name(&self, service: &Name, owner: &str) -> String {
        format!("{service}.{owner}.{}", self.rules.suffix)
    }

    /// What a user wrote for a service, without the suffix of pseudo DNS names.
    fn without_suffix<'a>(&self, text: &'a str) -> &'a str {
        text.strip_suffix(self.rules.suffix.as_str())
            .and_then(|rest| rest.strip_suffix('.'))
            .unwrap_or(text)
    }
}

/// A member as the hub knows it.
pub(crate) fn hub_member(enrolled: &Enrolled) -> Member {
    Member {
        user: enrolled.user.id,
        user_name: enrolled.user.name.to_string(),
        machine: enrolled.machine.id,
        machine_name: enrolled.machine.name.to_string(),
    }
}

/// The name of a user or machine to be made.
fn new_name(text: &str) -> Result<Name, Refusal> {
    names::check(text).map_err(|error| Refusal::new(Code::NameInvalid, error.to_string()))?;
    Ok(Name::new(text)?)
}

/// The name of a user to be made, which must not be taken for the relay itself.
fn new_user_name(text: &str) -> Result<Name, Refusal> {
    let name = new_name(text)?;
    if name.as_str() == RELAY_OWNER {
        let text = format!(
            "no user can be named {RELAY_OWNER}: services of the relay itself have that owner"
        );
        return Err(Refusal::new(Code::NameInvalid, text));
    }
    Ok(name)
}

/// What is said to a machine that is not admitted.
fn why_out(enrolled: &Enrolled) -> Refusal {
    // Of agents only those end that came by a certificate.
    match enrolled.is_admitted() && enrolled.machine.kind == MachineKind::Agent {
        true => Refusal::of(Code::CertificateExpired),
        false => shut_out(),
    }
}

fn shut_out() -> Refusal {
    let text = "this machine or its user was shut out; ask the relay's manager";
    Refusal::new(Code::Ended, text)
}

fn done(request: u64) -> Vec<Control> {
    vec![Done { request }.into()]
}
