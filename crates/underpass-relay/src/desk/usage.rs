//! How much was used.

use underpass_proto::Code;
use underpass_proto::control::{Control, Usage, UsageBy, UsageRow};
use underpass_store::{Day, Enrolled, Name, UsageFilter, UsageKey, Used, UserId};

use super::{Asked, Desk};
use crate::policy::Reach;
use crate::refusal::Refusal;

impl Desk {
    pub(super) async fn list_usage(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        usage: Usage,
    ) -> Result<Vec<Control>, Refusal> {
        let filter = UsageFilter {
            since: (usage.since_day > 0)
                .then(|| Day(i64::try_from(usage.since_day).unwrap_or(i64::MAX))),
            user: self.whose_usage(asked, me, &usage.user).await?,
            by: match usage.by {
                UsageBy::User => UsageKey::User,
                UsageBy::Day => UsageKey::Day,
                UsageBy::Service => UsageKey::Service,
            },
        };
        let listed = self.store.usage(filter).await?;
        let row = |(key, used): (String, Used)| UsageRow {
            key,
            sessions: used.sessions,
            sent: used.sent,
            received: used.received,
        };
        let rows = listed.into_iter().map(row).collect();
        Ok(Control::of_usage(usage.request, rows))
    }

    async fn whose_usage(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        user: &str,
    ) -> Result<Option<UserId>, Refusal> {
        let own = asked.reach != Reach::All;
        match user {
            "" if own => Ok(Some(me.user.id)),
            "" => Ok(None),
            user if user == me.user.name.as_str() => Ok(Some(me.user.id)),
            _ if own => {
                let text = "you may only see what you have used; managers see all";
                Err(Refusal::new(Code::Denied, text))
            }
            user => {
                let found = self.store.user_by_name(&Name::new(user)?).await?;
                Ok(Some(found.ok_or_else(|| Refusal::of(Code::NoUser))?.id))
            }
        }
    }
}
