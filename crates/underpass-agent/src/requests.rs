//! What can be asked of a relay, with answers of the right type.

use underpass_proto::control::{
    Allow, ChangeUser, CodeKind, ConnectionRow, Connections, Control as Message, DecideService,
    Deny, Enrol, EventRow, Events, Group, GroupList, Identity, Invite, Invited, Kick, LimitRow,
    LimitRule, Limits, MachineRow, Machines, MakeToken, MayUse, Meet, Met, Part, Publish,
    Published, Publishing, Resolve, Resolved, Revoke, ServiceDecision, ServiceRow, Services,
    SetLimit, SetPublishing, SetRole, Usage, UsageRow, UserChange, UserRole, UserRow, Users,
    WhoAmI, Withdraw,
};
use underpass_proto::limit::LimitKind;

use underpass_proto::Code;
use underpass_seal::PublicKey;

use crate::standing::{RequestError, Standing};

/// The one message of an answer, if it is of the right type.
macro_rules! one {
    ($answer:expr, $name:ident) => {
        match $answer.pop() {
            Some(Message::$name(it)) => Ok(it),
            _ => Err(RequestError::Unexpected),
        }
    };
}

/// The rows of all messages of an answer.
macro_rules! rows {
    ($answer:expr, $name:ident) => {{
        let mut rows = Vec::new();
        for message in $answer {
            match message {
                Message::$name(part) => rows.extend(part.rows),
                _ => return Err(RequestError::Unexpected),
            }
        }
        Ok(rows)
    }};
}

/// All of these fail with the relay's refusal, or when it cannot be asked.
#[allow(clippy::missing_errors_doc, reason = "said once above")]
impl Standing {
    /// The relays of the relay's group; none where it announces none. Nothing of it has been checked.
    pub async fn group(&self) -> Result<Option<GroupList>, RequestError> {
        let asked = self.request(|request| Group { request }.into()).await;
        let mut answer = match asked {
            Err(error) if error.code() == Code::NoGroup => return Ok(None),
            asked => asked?,
        };
        one!(answer, GroupList).map(Some)
    }

    /// Enrols this machine by a one-time code.
    pub async fn enrol(
        &self,
        kind: CodeKind,
        code: &str,
        user: &str,
        machine: &str,
    ) -> Result<Identity, RequestError> {
        let make = |request| {
            let (code, user, machine) = (code.to_owned(), user.to_owned(), machine.to_owned());
            Enrol {
                request,
                kind,
                code,
                user,
                machine,
            }
            .into()
        };
        one!(self.request(make).await?, Identity)
    }

    /// Whom the relay takes this machine for.
    pub async fn who_am_i(&self) -> Result<Identity, RequestError> {
        one!(
            self.request(|request| WhoAmI { request }.into()).await?,
            Identity
        )
    }

    /// A code by which a machine can enrol under `user`; it expires after `lifetime_s` seconds, or
    /// when the relay thinks it right for 0.
    pub async fn invite(&self, user: &str, lifetime_s: u64) -> Result<Invited, RequestError> {
        let user = user.to_owned();
        let make = |request| {
            Invite {
                request,
                user,
                lifetime_s,
            }
            .into()
        };
        one!(self.request(make).await?, Invited)
    }

    /// Publishes a service of this machine.
    pub async fn publish(
        &self,
        name: &str,
        description: &str,
        compression: bool,
        plain_http: bool,
    ) -> Result<Published, RequestError> {
        let (name, description) = (name.to_owned(), description.to_owned());
        let make = |request| {
            Publish {
                request,
                name,
                description,
                compression,
                plain_http,
            }
            .into()
        };
        one!(self.request(make).await?, Published)
    }

    /// Ends the publication of a service.
    pub async fn withdraw(&self, name: &str) -> Result<(), RequestError> {
        let name = name.to_owned();
        let make = |request| Withdraw { request, name }.into();
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Whether a machine may use a service of this user's own at this moment.
    pub async fn may_use(&self, service: &str, machine: PublicKey) -> Result<(), RequestError> {
        let (service, machine) = (service.to_owned(), machine.0);
        let make = |request| {
            MayUse {
                request,
                service,
                machine,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Wishes to meet somebody; who is there, if anybody. The number of the request in `wish` does not matter.
    pub async fn meet(&self, wish: &Meet) -> Result<Option<Met>, RequestError> {
        let make = |request| {
            Meet {
                request,
                ..wish.clone()
            }
            .into()
        };
        match self.request(make).await?.pop() {
            Some(Message::Met(met)) => Ok(Some(met)),
            Some(Message::Done(_)) => Ok(None),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Takes such a wish back, whether or not it still stands.
    pub async fn part(&self, wish: &Meet) -> Result<(), RequestError> {
        let Meet {
            request: _,
            application,
            peer,
            holder,
            only: _,
        } = wish.clone();
        let make = |request| {
            Part {
                request,
                application,
                peer,
                holder,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Approves or refuses a service.
    pub async fn decide_service(
        &self,
        service: &str,
        decision: ServiceDecision,
    ) -> Result<(), RequestError> {
        let service = service.to_owned();
        let make = |request| {
            DecideService {
                request,
                service,
                decision,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Says whether what a user publishes waits for approval.
    pub async fn set_publishing(
        &self,
        user: &str,
        publishing: Publishing,
    ) -> Result<(), RequestError> {
        let user = user.to_owned();
        let make = |request| {
            SetPublishing {
                request,
                user,
                publishing,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Allows somebody to use a service: a user, the machine with a fingerprint, `@` and a role, or `*`.
    pub async fn allow(&self, who: &str, service: &str) -> Result<(), RequestError> {
        let (who, service) = (who.to_owned(), service.to_owned());
        let make = |request| {
            Allow {
                request,
                who,
                service,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Takes that back.
    pub async fn deny(&self, who: &str, service: &str) -> Result<(), RequestError> {
        let (who, service) = (who.to_owned(), service.to_owned());
        let make = |request| {
            Deny {
                request,
                who,
                service,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// The services that this user may use or manage.
    pub async fn services(&self) -> Result<Vec<ServiceRow>, RequestError> {
        rows!(
            self.request(|request| Services { request }.into()).await?,
            ServiceRows
        )
    }

    /// Where a service is.
    pub async fn resolve(&self, service: &str) -> Result<Resolved, RequestError> {
        let service = service.to_owned();
        let make = |request| Resolve { request, service }.into();
        one!(self.request(make).await?, Resolved)
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<UserRow>, RequestError> {
        rows!(
            self.request(|request| Users { request }.into()).await?,
            UserRows
        )
    }

    /// Events of this user, or of everybody where the user may see them. The number of the request in
    /// `which` does not matter.
    pub async fn events(&self, which: &Events) -> Result<Vec<EventRow>, RequestError> {
        let make = |request| {
            Events {
                request,
                ..which.clone()
            }
            .into()
        };
        rows!(self.request(make).await?, EventRows)
    }

    /// The machines of this user, or all where the user may see them.
    pub async fn machines(&self) -> Result<Vec<MachineRow>, RequestError> {
        rows!(
            self.request(|request| Machines { request }.into()).await?,
            MachineRows
        )
    }

    /// Makes a token for a bare HTTP client: of `user`, or of this one where that is empty. It stands
    /// for the key pair of `key`, and is good for `lifetime_s` seconds, or until it is revoked for 0.
    pub async fn make_token(
        &self,
        user: &str,
        name: &str,
        key: PublicKey,
        lifetime_s: u64,
    ) -> Result<(), RequestError> {
        let (user, name) = (user.to_owned(), name.to_owned());
        let make = |request| {
            MakeToken {
                request,
                user,
                name,
                key: key.0,
                lifetime_s,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Approves, denies, disables or enables a user.
    pub async fn change_user(&self, user: &str, change: UserChange) -> Result<(), RequestError> {
        let user = user.to_owned();
        let make = |request| {
            ChangeUser {
                request,
                user,
                change,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Gives a user another role.
    pub async fn set_role(&self, user: &str, role: UserRole) -> Result<(), RequestError> {
        let user = user.to_owned();
        let make = |request| {
            SetRole {
                request,
                user,
                role,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// The sessions that live at this relay: of this user, or all where the user may see them.
    pub async fn connections(&self) -> Result<Vec<ConnectionRow>, RequestError> {
        let make = |request| Connections { request }.into();
        rows!(self.request(make).await?, ConnectionRows)
    }

    /// Ends a session for good, named as [`Standing::connections`] has it; those at its ends read the reason.
    pub async fn kick(&self, id: &str, reason: &str) -> Result<(), RequestError> {
        let (id, reason) = (id.to_owned(), reason.to_owned());
        let make = |request| {
            Kick {
                request,
                id,
                reason,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// How much was used. The number of the request in `which` does not matter.
    pub async fn usage(&self, which: &Usage) -> Result<Vec<UsageRow>, RequestError> {
        let make = |request| {
            Usage {
                request,
                ..which.clone()
            }
            .into()
        };
        rows!(self.request(make).await?, UsageRows)
    }

    /// The limits of a user, or of this one where that is empty.
    pub async fn limits(&self, user: &str) -> Result<Vec<LimitRow>, RequestError> {
        let user = user.to_owned();
        let make = |request| Limits { request, user }.into();
        one!(self.request(make).await?, LimitRows).map(|it| it.rows)
    }

    /// Makes an exception from a limit for a user, or takes it back.
    pub async fn set_limit(
        &self,
        user: &str,
        limit: LimitKind,
        rule: LimitRule,
        value: u64,
    ) -> Result<(), RequestError> {
        let user = user.to_owned();
        let make = |request| {
            SetLimit {
                request,
                user,
                limit,
                rule,
                value,
            }
            .into()
        };
        one!(self.request(make).await?, Done).map(drop)
    }

    /// Shuts a machine out, named `MACHINE` or `MACHINE.USER`.
    pub async fn revoke(&self, machine: &str) -> Result<(), RequestError> {
        let machine = machine.to_owned();
        let make = |request| Revoke { request, machine }.into();
        one!(self.request(make).await?, Done).map(drop)
    }
}
