//! Meeting by user and application.

use underpass_proto::Code;
use underpass_proto::control::{Control, Meet, Met, Part};
use underpass_proto::meeting::{self, Peer, Place};
use underpass_seal::PublicKey;
use underpass_store::{
    Enrolled, Machine, MachineKind, MachineState, Name, ResolveError, ServiceId, ServiceRef,
    UserId, UserState,
};

use super::{Asked, Desk, done, new_name};
use crate::hub::Asked as AskedFor;
use crate::refusal::Refusal;
use crate::rendezvous::{Meeting, Whom, Wish, is_place, number_of};

impl Desk {
    /// Somebody wishes to meet somebody. What that user publishes under this name is there for whom its access list names;
    /// else it takes a wish on the other side.
    pub(super) async fn meet(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        meet: Meet,
    ) -> Result<Vec<Control>, Refusal> {
        check_agent(&me.machine)?;
        let application = new_name(&meet.application)?;
        let whom = match parse_peer(&meet.peer)? {
            Peer::Anybody => Whom::Anybody,
            Peer::User(name) => {
                let name = new_name(&name)?;
                let id = self.peer(asked, me, &name).await?;
                if let Some(met) = self.publisher(me, &application, &name).await? {
                    let request = meet.request;
                    return Ok(vec![Met { request, ..met }.into()]);
                }
                let name = name.to_string();
                Whom::User { id, name }
            }
        };
        let wish = Wish {
            attachment: asked.caller.attachment,
            holder: meet.holder,
            user: me.user.id,
            user_name: me.user.name.to_string(),
            machine: me.machine.key.0,
            application: application.to_string(),
            whom,
            only: (meet.only != [0; 32]).then_some(meet.only),
        };
        let met = self.switch.with_hub(|hub, now| hub.meet(wish, now))?;
        let Some(met) = met else {
            return Ok(done(meet.request));
        };
        let Meeting {
            user,
            machine,
            place,
            opens,
        } = met;
        Ok(vec![
            Met {
                request: meet.request,
                user,
                machine,
                service: place.to_string(),
                opens,
                compression: true,
            }
            .into(),
        ])
    }

    /// Somebody takes such a wish back; whether it still stood makes no difference.
    pub(super) fn part(&self, me: &Enrolled, part: &Part) -> Result<Vec<Control>, Refusal> {
        let place = Place {
            application: new_name(&part.application)?.to_string(),
            waiting: *PublicKey(me.machine.key.0).fingerprint().as_bytes(),
            peer: parse_peer(&part.peer)?,
        };
        self.switch.with_hub(|hub, _| hub.part(&place, part.holder));
        Ok(done(part.request))
    }

    /// The user of this name, who is to be met from this machine.
    async fn peer(&self, asked: &Asked<'_>, me: &Enrolled, name: &Name) -> Result<UserId, Refusal> {
        let user = self.store.user_by_name(name).await?;
        let user = user.filter(|user| user.state == UserState::Active);
        let user = user.ok_or_else(|| Refusal::of(Code::NoUser))?;
        if user.id != me.user.id {
            return Ok(user.id);
        }
        let machines = self.store.machines(Some(user.id)).await?;
        let is_another = |it: &Machine| {
            it.id != me.machine.id
                && it.kind == MachineKind::Agent
                && it.state == MachineState::Active
                && it.expires.is_none_or(|expires| asked.at < expires)
        };
        match machines.iter().any(is_another) {
            true => Ok(user.id),
            false => Err(Refusal::of(Code::Oneself)),
        }
    }

    /// Who publishes a service of this name and owner that the caller may use, if anybody does at the moment.
    async fn publisher(
        &self,
        me: &Enrolled,
        service: &Name,
        owner: &Name,
    ) -> Result<Option<Met>, Refusal> {
        let reference = ServiceRef {
            service: service.clone(),
            owner: Some(owner.clone()),
        };
        let service = match self.store.resolve_service(me.caller(), &reference).await {
            Ok(service) => service,
            Err(ResolveError::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if service.machine == me.machine.id {
            return Err(Refusal::of(Code::Oneself));
        }
        let machine = self.store.machine(service.machine).await?;
        let machine = machine.ok_or_else(|| Refusal::of(Code::NoService))?;
        let present = self.switch.with_hub(|hub, _| hub.is_present(service.id));
        Ok(present.then(|| Met {
            request: 0,
            user: owner.to_string(),
            machine: machine.key.0,
            service: self.full_name(&service.name, owner.as_str()),
            opens: true,
            compression: service.compression,
        }))
    }
}

fn parse_peer(text: &str) -> Result<Peer, Refusal> {
    let parsed = text.parse::<Peer>();
    parsed.map_err(|error| Refusal::new(Code::NameInvalid, error.to_string()))
}

/// The place that a question of the hub is about, where it is about one.
///
/// # Errors
/// It has the form of one and is none.
pub(super) fn place_of(asked: &AskedFor) -> Result<Option<ServiceId>, Refusal> {
    match asked {
        AskedFor::Id(id) => Ok(is_place(*id).then_some(*id)),
        AskedFor::Name(text) if text.starts_with(meeting::PREFIX) => {
            let place = text.parse::<Place>();
            let place =
                place.map_err(|error| Refusal::new(Code::NameInvalid, error.to_string()))?;
            Ok(Some(number_of(&place)))
        }
        AskedFor::Name(_) => Ok(None),
    }
}

/// Whoever meets somebody holds a key of their own: of a token the relay would be the endpoint.
///
/// # Errors
/// The machine is a token.
pub(super) fn check_agent(machine: &Machine) -> Result<(), Refusal> {
    match machine.kind {
        MachineKind::Agent => Ok(()),
        MachineKind::Token => Err(Refusal::new(
            Code::Denied,
            "who meets somebody needs an agent: the relay could read what a bare HTTP client exchanges",
        )),
    }
}
