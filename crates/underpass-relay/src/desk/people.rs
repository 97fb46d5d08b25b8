//! Users and their machines.

use std::collections::HashMap;
use std::time::Duration;

use underpass_proto::Code;
use underpass_proto::control::{self, Control, MachineRow, MakeToken, Revoke, Standing, UserRow};
use underpass_store::{
    Enrolled, Machine, MachineKey, MachineKind, MachineState, Name, NewMachine, Publishing, User,
    UserId, UserState,
};

use super::enrol::wire_role;
use super::{Asked, Desk, done, new_name};
use crate::log::{Kind, Note};
use crate::policy::{Reach, extends_to};
use crate::refusal::Refusal;

impl Desk {
    pub(super) async fn list_users(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        request: u64,
    ) -> Result<Vec<Control>, Refusal> {
        let users = match asked.reach {
            Reach::All => self.store.users().await?,
            _ => vec![me.user.clone()],
        };
        let machines = self.store.machines(None).await?;
        let mut counts: HashMap<UserId, u64> = HashMap::new();
        for machine in machines
            .iter()
            .filter(|it| it.state == MachineState::Active && it.kind == MachineKind::Agent)
        {
            *counts.entry(machine.user).or_default() += 1;
        }
        let exceptions = self.store.publishing_exceptions().await?;
        let exceptions: HashMap<UserId, Publishing> = exceptions.into_iter().collect();
        let publishing = |user: &User| match exceptions.get(&user.id) {
            None | Some(Publishing::Usual) => control::Publishing::Usual,
            Some(Publishing::Free) => control::Publishing::Free,
            Some(Publishing::Approval) => control::Publishing::Approval,
        };
        let row = |user: User| UserRow {
            publishing: publishing(&user),
            name: user.name.to_string(),
            role: wire_role(user.role),
            state: match user.state {
                UserState::Active => Standing::Active,
                UserState::Disabled => Standing::Disabled,
                UserState::Waiting => Standing::Waiting,
            },
            machines: counts.get(&user.id).copied().unwrap_or(0),
        };
        Ok(Control::of_users(
            request,
            users.into_iter().map(row).collect(),
        ))
    }

    pub(super) async fn list_machines(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        request: u64,
    ) -> Result<Vec<Control>, Refusal> {
        let (machines, users) = match asked.reach {
            Reach::All => (self.store.machines(None).await?, self.store.users().await?),
            _ => {
                let own = self.store.machines(Some(me.user.id)).await?;
                (own, vec![me.user.clone()])
            }
        };
        let names: HashMap<UserId, Name> =
            users.into_iter().map(|user| (user.id, user.name)).collect();
        let row = |machine: Machine| {
            let present = self
                .switch
                .with_hub(|hub, _| hub.is_machine_attached(machine.id));
            let seen = machine.last_seen.map_or(0, |at| at.0 / 1000);
            let expires = machine.expires.map_or(0, |at| at.0 / 1000);
            MachineRow {
                name: machine.name.to_string(),
                user: names
                    .get(&machine.user)
                    .map_or_else(String::new, Name::to_string),
                key: machine.key.0,
                state: match machine.state {
                    MachineState::Active => Standing::Active,
                    MachineState::Revoked => Standing::Disabled,
                },
                present,
                last_seen_s: u64::try_from(seen).unwrap_or(0),
                token: machine.kind == MachineKind::Token,
                expires_s: u64::try_from(expires).unwrap_or(0),
            }
        };
        Ok(Control::of_machines(
            request,
            machines.into_iter().map(row).collect(),
        ))
    }

    pub(super) async fn revoke(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        revoke: Revoke,
    ) -> Result<Vec<Control>, Refusal> {
        let (machine, owner) = match revoke.machine.split_once('.') {
            None => (Name::new(&revoke.machine)?, me.user.clone()),
            Some((machine, owner)) => (
                Name::new(machine)?,
                self.user_in_reach(asked.reach, me, owner, "revoke machines")
                    .await?,
            ),
        };
        let machines = self.store.machines(Some(owner.id)).await?;
        let found = machines
            .into_iter()
            .find(|it| it.name == machine && it.state == MachineState::Active)
            .ok_or_else(|| Refusal::of(Code::NoMachine))?;
        if found.id == me.machine.id {
            let text = "a machine cannot revoke itself; do it from another one, so that somebody can still log in";
            return Err(Refusal::new(Code::Denied, text));
        }
        let revoked = self.store.revoke_machine(found.id).await?;
        let why = Refusal::new(
            Code::Ended,
            "this machine was revoked; ask the relay's manager",
        );
        self.switch
            .with_hub(|hub, _| hub.shut_out(revoked.id, &why));
        self.log.write(
            Note::new(Kind::Revoke)
                .by(me.user.name.as_str())
                .to(owner.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("machine", revoked.name.as_str()),
        );
        Ok(done(revoke.request))
    }

    pub(super) async fn make_token(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        make: MakeToken,
    ) -> Result<Vec<Control>, Refusal> {
        let owner = match make.user.as_str() {
            "" => me.user.clone(),
            user => {
                self.user_in_reach(asked.reach, me, user, "make tokens")
                    .await?
            }
        };
        let token = NewMachine {
            name: new_name(&make.name)?,
            key: MachineKey(make.key),
        };
        let lifetime = Duration::from_secs(make.lifetime_s);
        let expires = (make.lifetime_s != 0).then(|| asked.at.saturating_add(lifetime));
        self.store
            .make_token(owner.id, &token, expires, asked.at)
            .await?;
        self.log.write(
            Note::new(Kind::Token)
                .by(me.user.name.as_str())
                .to(owner.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("token", token.name.as_str()),
        );
        Ok(done(make.request))
    }

    /// A user whose machines the caller may manage. Who may not is told nothing about who exists.
    async fn user_in_reach(
        &self,
        reach: Reach,
        me: &Enrolled,
        name: &str,
        what: &str,
    ) -> Result<User, Refusal> {
        let name = Name::new(name)?;
        let denied = || {
            let text = format!("you may only {what} of your own, or of users with a lesser role");
            Refusal::new(Code::Denied, text)
        };
        if reach == Reach::Own && name != me.user.name {
            return Err(denied());
        }
        let user = self.store.user_by_name(&name).await?;
        let user = user.ok_or_else(|| Refusal::of(Code::NoUser))?;
        if extends_to(reach, me, &user) {
            Ok(user)
        } else {
            Err(denied())
        }
    }
}
