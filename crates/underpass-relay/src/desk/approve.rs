//! Whether a service may be used: what managers decide, and what its publisher asks at each channel.

use underpass_proto::Code;
use underpass_proto::control::{
    self, Control, DecideService, MayUse, ServiceDecision, SetPublishing,
};
use underpass_store::{Enrolled, MachineKey, Name, Publishing, ServiceState};

use super::refusals::not_approved;
use super::services::check_plain_http;
use super::{Asked, Desk, done};
use crate::log::{Kind, Note};
use crate::policy::{Reach, extends_to};
use crate::refusal::Refusal;

impl Desk {
    /// Answers the publisher of a service who is about to serve a machine, or wants to know whether anybody may come:
    /// then the machine is its own.
    pub(super) async fn may_use(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        question: MayUse,
    ) -> Result<Vec<Control>, Refusal> {
        let name = Name::new(&question.service)?;
        let own = self.store.services(Some(me.user.id)).await?;
        let found = own.into_iter().find(|service| service.name == name);
        let service = found.ok_or_else(|| Refusal::of(Code::NoService))?;
        if service.state != ServiceState::Active {
            return Err(not_approved(service.state));
        }
        let key = MachineKey(question.machine);
        let caller = self.store.machine_by_key(&key).await?;
        let admitted = caller.filter(|caller| caller.is_admitted_at(asked.at));
        let caller = admitted.ok_or_else(|| Refusal::of(Code::NotEnrolled))?;
        if let Some(why) = self.certificate_fault(&caller.machine, asked.at).await? {
            return Err(why);
        }
        check_plain_http(&caller.machine, &service)?;
        if !self.store.may_use(caller.caller(), service.id).await? {
            return Err(Refusal::of(Code::Denied));
        }
        Ok(done(question.request))
    }

    pub(super) async fn decide_service(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        decide: DecideService,
    ) -> Result<Vec<Control>, Refusal> {
        // Managers see all services, and decide about those of lesser users.
        let service = self.managed(Reach::All, me, &decide.service).await?;
        let owner = self.store.user(service.owner).await?;
        let owner = owner.ok_or_else(|| Refusal::of(Code::NoService))?;
        // Not about their own either: an administrator may want them to ask.
        let own = owner.id == me.user.id && asked.reach != Reach::All;
        if own || !extends_to(asked.reach, me, &owner) {
            let text =
                "only an administrator decides about a service of a manager or administrator";
            return Err(Refusal::new(Code::Denied, text));
        }
        let approve = decide.decision == ServiceDecision::Approve;
        self.store.decide_service(service.id, approve).await?;
        // Who waits to publish goes on; who uses what is refused does not.
        self.switch.with_hub(|hub, _| hub.recheck(service.id));
        let kind = match decide.decision {
            ServiceDecision::Approve => Kind::ServiceApprove,
            ServiceDecision::Refuse => Kind::ServiceRefuse,
        };
        self.log.write(
            Note::new(kind)
                .by(me.user.name.as_str())
                .to(owner.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("service", service.name.as_str()),
        );
        Ok(done(decide.request))
    }

    pub(super) async fn set_publishing(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        set: SetPublishing,
    ) -> Result<Vec<Control>, Refusal> {
        let user = self.user_to_decide_about(asked, me, &set.user).await?;
        let publishing = match set.publishing {
            control::Publishing::Usual => Publishing::Usual,
            control::Publishing::Free => Publishing::Free,
            control::Publishing::Approval => Publishing::Approval,
        };
        self.store.set_publishing(user.id, publishing).await?;
        self.log.write(
            Note::new(Kind::Publishing)
                .by(me.user.name.as_str())
                .to(user.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("publishing", publishing.as_str()),
        );
        Ok(done(set.request))
    }
}
