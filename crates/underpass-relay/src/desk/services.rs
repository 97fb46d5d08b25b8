//! Publishing services, allowing and finding them.

use std::collections::HashMap;

use underpass_proto::Code;
use underpass_proto::control::{
    self, Control, FarEnd, MAX_ALLOWED, Publish, Published, Resolve, Resolved, ServiceRow, Withdraw,
};
use underpass_seal::{Fingerprint, PublicKey};
use underpass_store::{
    Access, Caller, Enrolled, Machine, MachineId, MachineKind, NewService, Service, ServiceKey,
    ServiceRef, ServiceState, UnixMillis, Who,
};

use super::meet::{check_agent, place_of};
use super::{Asked, Desk, done, new_name};
use crate::hub::{Asked as AskedFor, Check, Grant, Hub, Publication};
use crate::log::{Kind, Note};
use crate::policy::Reach;
use crate::refusal::Refusal;
use crate::target::{self, RELAY_OWNER, RelayService};

impl Desk {
    pub(super) async fn publish(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        publish: Publish,
    ) -> Result<Vec<Control>, Refusal> {
        let key = ServiceKey::new(&(asked.draw)());
        let service = NewService {
            name: new_name(&publish.name)?,
            owner: me.user.id,
            machine: me.machine.id,
            key: key.map_err(|_| Refusal::of(Code::Internal))?,
            compression: publish.compression,
            plain_http: publish.plain_http,
            approval: self.rules.approval,
            at: asked.at,
        };
        let published = self.store.publish_service(&service).await?;
        let service = published.service();
        let service_key = service.key.as_bytes().first_chunk().copied();
        let service_key = service_key.ok_or_else(|| Refusal::of(Code::Internal))?;
        let publication = Publication {
            name: service.name.to_string(),
            description: publish.description,
        };
        let attachment = asked.caller.attachment;
        self.switch
            .with_hub(|hub, now| hub.publish(attachment, service.id, publication, now))?;
        if !service.plain_http {
            // Bare HTTP clients may have been let in before.
            self.switch.with_hub(|hub, _| hub.recheck(service.id));
        }
        self.log.write(
            Note::new(Kind::Publish)
                .by(me.user.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("machine", me.machine.name.as_str())
                .with("service", service.name.as_str())
                .with("state", service.state.as_str()),
        );
        Ok(vec![
            Published {
                request: publish.request,
                service_key,
                full_name: self.full_name(&service.name, me.user.name.as_str()),
                waiting: service.state == ServiceState::Waiting,
            }
            .into(),
        ])
    }

    pub(super) async fn withdraw(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        withdraw: Withdraw,
    ) -> Result<Vec<Control>, Refusal> {
        let service = self.managed(asked.reach, me, &withdraw.name).await?;
        if !self.store.withdraw_service(service.id).await? {
            return Err(Refusal::of(Code::NoService));
        }
        self.switch.with_hub(|hub, _| hub.withdraw(service.id));
        self.log.write(
            Note::new(Kind::Withdraw)
                .by(me.user.name.as_str())
                .to(service.owner_name.as_str())
                .from(asked.caller.address.as_deref())
                .with("service", service.name.as_str()),
        );
        Ok(done(withdraw.request))
    }

    pub(super) async fn set_access(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        who: &str,
        service: &str,
        access: Access,
    ) -> Result<(), Refusal> {
        let service = self.managed(asked.reach, me, service).await?;
        let written = who;
        let who = self.who(written).await?;
        self.store
            .set_access(service.id, &who, access, asked.at)
            .await?;
        // Whoever may not use it any more must not go on using it.
        self.switch.with_hub(|hub, _| hub.recheck(service.id));
        self.log.write(
            Note::new(Kind::Access)
                .by(me.user.name.as_str())
                .to(written)
                .from(asked.caller.address.as_deref())
                .with("service", service.name.as_str())
                .with("owner", service.owner_name.as_str())
                .with("access", access.as_str()),
        );
        Ok(())
    }

    /// Whom somebody means who writes this for an entry of an access list.
    async fn who(&self, text: &str) -> Result<Who, Refusal> {
        // Nobody has a name that reads like one: 52 characters of its alphabet.
        if let Ok(fingerprint) = text.parse::<Fingerprint>() {
            let machines = self.store.machines(None).await?;
            let mut keys = machines.into_iter().map(|machine| machine.key);
            if let Some(key) = keys.find(|key| PublicKey(key.0).fingerprint() == fingerprint) {
                return Ok(Who::Machine(key));
            }
            let text = format!("no machine is enrolled here whose key has the fingerprint {text}");
            return Err(Refusal::new(Code::NoMachine, text));
        }
        Ok(text.parse()?)
    }

    /// The service that somebody wants to manage: their own; with more reach, anybody's.
    pub(super) async fn managed(
        &self,
        reach: Reach,
        me: &Enrolled,
        text: &str,
    ) -> Result<Service, Refusal> {
        let reference: ServiceRef = self.without_suffix(text).parse()?;
        let foreign = reference
            .owner
            .as_ref()
            .is_some_and(|owner| *owner != me.user.name);
        if foreign && reach != Reach::All {
            let text = "only the owner of a service or an administrator can do this";
            return Err(Refusal::new(Code::Denied, text));
        }
        let named = |service: &Service| service.name == reference.service;
        if !foreign {
            let own = self.store.services(Some(me.user.id)).await?;
            if let Some(service) = own.into_iter().find(named) {
                return Ok(service);
            }
        }
        if reach != Reach::All || (reference.owner.is_some() && !foreign) {
            return Err(Refusal::of(Code::NoService));
        }
        let mut all = self.store.services(None).await?;
        all.retain(|service| {
            let owner = reference.owner.as_ref();
            named(service) && owner.is_none_or(|owner| service.owner_name == *owner)
        });
        match all.len() {
            0 => Err(Refusal::of(Code::NoService)),
            1 => Ok(all.swap_remove(0)),
            _ => Err(Refusal::of(Code::NameAmbiguous)),
        }
    }

    pub(super) async fn list_services(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        request: u64,
    ) -> Result<Vec<Control>, Refusal> {
        let services = match asked.reach {
            Reach::All => self.store.services(None).await?,
            _ => {
                let mut usable = self.store.services_for(me.caller()).await?;
                // What nobody may use is shown to its owner, who waits for it.
                let own = self.store.services(Some(me.user.id)).await?;
                usable.extend(
                    own.into_iter()
                        .filter(|it| it.state != ServiceState::Active),
                );
                usable
            }
        };
        let machines = self.store.machines(None).await?;
        let keys: HashMap<MachineId, [u8; 32]> = machines
            .into_iter()
            .map(|machine| (machine.id, machine.key.0))
            .collect();
        let mut rows = Vec::with_capacity(services.len());
        for service in services {
            let managed = service.owner == me.user.id || asked.reach == Reach::All;
            let allowed = if managed {
                self.allowed(&service).await?
            } else {
                Vec::new()
            };
            rows.push(self.row(me, &service, &keys, allowed));
        }
        let relay = self
            .rules
            .services
            .iter()
            .filter(|service| asked.reach == Reach::All || service.allows(me));
        rows.extend(relay.map(|service| self.relay_row(service, asked.reach == Reach::All)));
        Ok(Control::of_services(request, rows))
    }

    async fn allowed(&self, service: &Service) -> Result<Vec<String>, Refusal> {
        let list = self.store.access_list(service.id).await?;
        let allowed = list
            .into_iter()
            .filter(|entry| entry.access == Access::Allow);
        Ok(allowed
            .map(|entry| who_text(&entry.who))
            .take(MAX_ALLOWED)
            .collect())
    }

    fn row(
        &self,
        me: &Enrolled,
        service: &Service,
        keys: &HashMap<MachineId, [u8; 32]>,
        allowed: Vec<String>,
    ) -> ServiceRow {
        let (present, description) = self.switch.with_hub(|hub, _| {
            let publication = hub.publication(service.id);
            let description = publication.map(|it| it.description.clone());
            (hub.is_present(service.id), description.unwrap_or_default())
        });
        let key = PublicKey(keys.get(&service.machine).copied().unwrap_or_default());
        ServiceRow {
            name: service.name.to_string(),
            owner: service.owner_name.to_string(),
            full_name: self.full_name(&service.name, service.owner_name.as_str()),
            description,
            present,
            mine: service.owner == me.user.id,
            publisher: *key.fingerprint().as_bytes(),
            allowed,
            plain_http: service.plain_http,
            state: match service.state {
                ServiceState::Active => control::ServiceState::Active,
                ServiceState::Waiting => control::ServiceState::Waiting,
                ServiceState::Refused => control::ServiceState::Refused,
            },
        }
    }

    fn relay_row(&self, service: &RelayService, managed: bool) -> ServiceRow {
        let allowed = service.allow.iter().filter(|_| managed);
        ServiceRow {
            name: service.name.to_string(),
            owner: RELAY_OWNER.to_owned(),
            full_name: self.full_name(&service.name, RELAY_OWNER),
            description: String::new(),
            present: true,
            mine: false,
            publisher: *self.rules.relay_key.fingerprint().as_bytes(),
            allowed: allowed.map(who_text).take(MAX_ALLOWED).collect(),
            // The relay is the endpoint of these for everybody.
            plain_http: true,
            state: control::ServiceState::Active,
        }
    }

    /// Where a service is. A user's own service comes before the relay's of the same name, and that
    /// before those of others: nobody can put a service of theirs in the place of either.
    pub(super) async fn resolve(
        &self,
        me: &Enrolled,
        resolve: Resolve,
    ) -> Result<Vec<Control>, Refusal> {
        let Resolve { request, service } = resolve;
        let text = self.without_suffix(&service);
        let by_relay = target::find(&self.rules.services, text)?;
        let published = self
            .store
            .resolve_service(me.caller(), &text.parse()?)
            .await;
        let own = published
            .as_ref()
            .is_ok_and(|service| service.owner == me.user.id);
        if let Some(service) = by_relay.filter(|_| !own) {
            return self.resolve_at_relay(me, request, service);
        }
        let service = published?;
        check_plain_http(&me.machine, &service)?;
        let machine = self.store.machine(service.machine).await?;
        let machine = machine.ok_or_else(|| Refusal::of(Code::NoService))?;
        let present = self.switch.with_hub(|hub, _| hub.is_present(service.id));
        Ok(vec![
            Resolved {
                request,
                full_name: self.full_name(&service.name, service.owner_name.as_str()),
                far_end: FarEnd::Publisher,
                present,
                publisher_key: machine.key.0,
                compression: service.compression,
            }
            .into(),
        ])
    }

    fn resolve_at_relay(
        &self,
        me: &Enrolled,
        request: u64,
        service: &RelayService,
    ) -> Result<Vec<Control>, Refusal> {
        if !service.allows(me) {
            return Err(Refusal::of(Code::Denied));
        }
        Ok(vec![
            Resolved {
                request,
                full_name: self.full_name(&service.name, RELAY_OWNER),
                far_end: FarEnd::Relay,
                present: true,
                publisher_key: self.rules.relay_key.0,
                compression: service.compression,
            }
            .into(),
        ])
    }

    /// The relay's own service of that name, if the member may use it.
    ///
    /// # Errors
    /// There is none, or it may not be used.
    pub(crate) fn relay_service(
        &self,
        member: &Enrolled,
        text: &str,
    ) -> Result<RelayService, Refusal> {
        let found = target::find(self.relay_services(), self.without_suffix(text))?;
        let service = found.ok_or_else(|| Refusal::of(Code::NoService))?;
        if !service.allows(member) {
            return Err(Refusal::of(Code::Denied));
        }
        Ok(service.clone())
    }

    /// Answers a question of the hub.
    ///
    /// # Errors
    /// The user may not use the service, or it cannot be found out.
    pub(crate) async fn examine(&self, check: &Check, at: UnixMillis) -> Result<Grant, Refusal> {
        let machine = self.store.machine(check.machine).await?;
        let admitted = machine.filter(|it| {
            it.user == check.user
                && it.state == underpass_store::MachineState::Active
                && it.expires.is_none_or(|expires| at < expires)
        });
        let machine = admitted.ok_or_else(|| Refusal::of(Code::NotEnrolled))?;
        if let Some(why) = self.certificate_fault(&machine, at).await? {
            return Err(why);
        }
        let caller = Caller {
            user: check.user,
            machine: check.machine,
        };
        if let Some(place) = place_of(&check.service)? {
            check_agent(&machine)?;
            let admits = |hub: &mut Hub, _| hub.admits(place, check.user, machine.key.0);
            return self.switch.with_hub(admits);
        }
        let service = match &check.service {
            AskedFor::Name(text) => {
                let reference = self.without_suffix(text).parse()?;
                self.store.resolve_service(caller, &reference).await?
            }
            AskedFor::Id(id) => {
                let service = self.store.service(*id).await?;
                let service = service.ok_or_else(|| Refusal::of(Code::NoService))?;
                if !self.store.may_use(caller, *id).await? {
                    return Err(Refusal::of(Code::Denied));
                }
                service
            }
        };
        check_plain_http(&machine, &service)?;
        Ok(Grant {
            service: service.id,
            name: service.name.to_string(),
            owner: service.owner_name.to_string(),
        })
    }
}

/// What somebody wrote for an entry of an access list.
fn who_text(who: &Who) -> String {
    match who {
        Who::Machine(key) => PublicKey(key.0).fingerprint().to_string(),
        who => who.to_string(),
    }
}

/// Whether a machine may use a service: where it is a token, the relay would read what passes, which
/// the service's owner must have permitted.
pub(super) fn check_plain_http(machine: &Machine, service: &Service) -> Result<(), Refusal> {
    if machine.kind == MachineKind::Agent || service.plain_http {
        return Ok(());
    }
    let text = "the owner of the service does not let clients without an agent use it, because the relay \
                can read what they exchange; ask for: underpass publish --plain-http";
    Err(Refusal::new(Code::Denied, text))
}
