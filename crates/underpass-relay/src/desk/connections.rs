//! Which sessions live, and ending one of them.

use std::collections::HashMap;
use std::time::Duration;

use underpass_proto::Code;
use underpass_proto::control::{Control, Kick};
use underpass_store::{EndedSession, Enrolled};

use super::{Asked, Desk, done};
use crate::living::{LivingEnd, LivingRow};
use crate::log::{Kind, Note};
use crate::policy::Reach;
use crate::refusal::Refusal;
use crate::switch::LONGEST_KEEP;

/// For how long no relay opens a path for a session that was ended: longer than its last ticket is good for.
const ENDED_FOR: Duration = LONGEST_KEEP.saturating_add(Duration::from_secs(24 * 3600));

impl Desk {
    pub(super) fn list_connections(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        request: u64,
    ) -> Vec<Control> {
        let rows = self.living_for(asked.reach, me);
        Control::of_connections(request, rows.into_iter().map(|living| living.row).collect())
    }

    /// What lives and may be seen by this user, as they may see it.
    fn living_for(&self, reach: Reach, me: &Enrolled) -> Vec<LivingRow> {
        let me = me.user.name.as_str();
        let living = self.switch.living().into_iter();
        match reach {
            Reach::All => living.collect(),
            _ => living
                .filter(|living| living.concerns(me))
                .map(|living| living.told_to(me))
                .collect(),
        }
    }

    /// Ends a session for good. It is written to the store before anything ends, so that no relay takes it up again.
    pub(super) async fn kick(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        kick: Kick,
    ) -> Result<Vec<Control>, Refusal> {
        let mut living = self.living_for(asked.reach, me).into_iter();
        let found = living.find(|living| living.row.id == kick.id);
        let found = found.ok_or_else(|| Refusal::of(Code::NoConnection))?;
        match &found.end {
            LivingEnd::Session(session) => {
                let ended = EndedSession {
                    session: *session,
                    reason: words(me.user.name.as_str(), &kick.reason),
                };
                let until = asked.at.saturating_add(ENDED_FOR);
                self.store.end_session(&ended, until, asked.at).await?;
                let why = Refusal::new(Code::Ended, ended.reason);
                self.switch
                    .with_hub(|hub, _| hub.end_session(*session, why));
            }
            LivingEnd::Direct(direct) => direct.end(Code::Ended),
        }
        let other = found.other(me.user.name.as_str());
        self.log.write(
            Note::new(Kind::Kick)
                .by(me.user.name.as_str())
                .to(other)
                .from(asked.caller.address.as_deref())
                .with("service", found.row.service.as_str())
                .with("session", found.row.id.as_str())
                .with("reason", kick.reason),
        );
        Ok(done(kick.request))
    }

    /// Takes up what the store has about limits and ended sessions.
    ///
    /// # Errors
    /// The store cannot be asked; all stays as it was then.
    pub(crate) async fn take_up_limits(
        &self,
        at: underpass_store::UnixMillis,
    ) -> Result<(), underpass_store::Fault> {
        let ended = self.store.ended_sessions(at).await?;
        let exceptions = self.store.limit_exceptions().await?;
        let exceptions = self.limits().set_exceptions(&exceptions);
        let (usual, rates) = self.limits().rates();
        self.switch.meters().set_rates(usual, rates);
        let ended = ended.into_iter();
        let ended = ended.map(|it| (it.session, Refusal::new(Code::Ended, it.reason)));
        let ended: HashMap<_, _> = ended.collect();
        self.switch.with_hub(|hub, _| {
            hub.set_exceptions(exceptions);
            hub.set_ended(ended);
        });
        Ok(())
    }
}

/// What those at the ends of a session read.
fn words(by: &str, reason: &str) -> String {
    match reason {
        "" => format!("{by} has ended the connection"),
        reason => format!("{by} has ended the connection: {reason}"),
    }
}
