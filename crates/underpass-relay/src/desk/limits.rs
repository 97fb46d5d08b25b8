//! What users may take up: exceptions for some, and how much is taken up.

use underpass_proto::Code;
use underpass_proto::control::{Control, LimitRow, LimitRows, LimitRule, Limits, SetLimit};
use underpass_proto::limit::LimitKind;
use underpass_store::{Day, Enrolled, Name, User};

use super::{Asked, Desk, done};
use crate::log::{Kind, Note};
use crate::policy::{Reach, extends_to};
use crate::refusal::Refusal;

impl Desk {
    pub(super) async fn set_limit(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        set: SetLimit,
    ) -> Result<Vec<Control>, Refusal> {
        let user = self.store.user_by_name(&Name::new(&set.user)?).await?;
        let user = user.ok_or_else(|| Refusal::of(Code::NoUser))?;
        if !extends_to(asked.reach, me, &user) {
            let text =
                "managers may limit users with a lesser role; only administrators may limit all";
            return Err(Refusal::new(Code::Denied, text));
        }
        let (exception, value) = match set.rule {
            LimitRule::Usual => (None, "usual".to_owned()),
            LimitRule::Value => (Some(Some(set.value)), set.value.to_string()),
            LimitRule::Unlimited => (Some(None), "unlimited".to_owned()),
        };
        self.store.set_limit(user.id, set.limit, exception).await?;
        self.take_up_limits(asked.at).await?;
        self.log.write(
            Note::new(Kind::LimitSet)
                .by(me.user.name.as_str())
                .to(user.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("limit", set.limit.word())
                .with("value", value),
        );
        Ok(done(set.request))
    }

    pub(super) async fn list_limits(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        limits: Limits,
    ) -> Result<Vec<Control>, Refusal> {
        let user = match limits.user.as_str() {
            "" => me.user.clone(),
            user if user == me.user.name.as_str() => me.user.clone(),
            _ if asked.reach != Reach::All => {
                let text = "you may only see limits of your own; managers see all";
                return Err(Refusal::new(Code::Denied, text));
            }
            user => {
                let found = self.store.user_by_name(&Name::new(user)?).await?;
                found.ok_or_else(|| Refusal::of(Code::NoUser))?
            }
        };
        let mut rows = Vec::new();
        for kind in LimitKind::ALL {
            let (most, exception) = self.limits().allowed(user.id, kind);
            rows.push(LimitRow {
                limit: kind,
                exception,
                limited: most.is_some(),
                value: most.unwrap_or(0),
                used: self.taken_up(asked, &user, kind).await?,
            });
        }
        let request = limits.request;
        Ok(vec![LimitRows { request, rows }.into()])
    }

    /// How much of something a user has taken up. Of a rate that is not known.
    async fn taken_up(
        &self,
        asked: &Asked<'_>,
        user: &User,
        kind: LimitKind,
    ) -> Result<u64, Refusal> {
        let (attachments, sessions) = self.switch.with_hub(|hub, _| hub.taken_up(user.id));
        Ok(match kind {
            LimitKind::Attachments => attachments as u64,
            LimitKind::Sessions => sessions as u64,
            LimitKind::Channels => self.limits().channels(user.id) as u64,
            LimitKind::BytesPerSecond => 0,
            LimitKind::BytesPerMonth => {
                let month = Day::of(asked.at).first_of_month();
                let used = self.store.used_since(month).await?;
                let found = used.into_iter().find(|(of, _)| *of == user.id);
                found.map_or(0, |(_, used)| used)
            }
        })
    }
}
