//! Deciding about users: approving, denying, disabling, enabling, roles.
//!
//! Each is one transaction of the store, which alone knows the last administrator; of two decisions at once one comes
//! first, and the other finds what it left.

use underpass_proto::Code;
use underpass_proto::control::{ChangeUser, Control, SetRole, UserChange, UserRole};
use underpass_store::{Enrolled, Name, Role, User, UserState};

use super::{Asked, Desk, done};
use crate::log::{Kind, Note};
use crate::policy::extends_to;
use crate::refusal::Refusal;

impl Desk {
    pub(super) async fn change_user(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        change: ChangeUser,
    ) -> Result<Vec<Control>, Refusal> {
        let ChangeUser {
            request,
            user,
            change,
        } = change;
        let user = self.user_to_decide_about(asked, me, &user).await?;
        let kind = match change {
            UserChange::Approve => {
                self.store.approve(user.id).await?;
                Kind::Approve
            }
            UserChange::Deny => {
                self.store.deny(user.id).await?;
                Kind::Deny
            }
            UserChange::Disable => {
                let state = UserState::Disabled;
                self.store.set_user_state(user.id, state).await?;
                // At once, and not when the store is looked at next.
                self.check_all(asked.at).await?;
                Kind::Disable
            }
            UserChange::Enable => {
                self.store
                    .set_user_state(user.id, UserState::Active)
                    .await?;
                Kind::Enable
            }
        };
        self.log.write(
            Note::new(kind)
                .by(me.user.name.as_str())
                .to(user.name.as_str())
                .from(asked.caller.address.as_deref()),
        );
        Ok(done(request))
    }

    pub(super) async fn set_role(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        set: SetRole,
    ) -> Result<Vec<Control>, Refusal> {
        let user = self.user_to_decide_about(asked, me, &set.user).await?;
        let role = match set.role {
            UserRole::User => Role::User,
            UserRole::Manager => Role::Manager,
            UserRole::Administrator => Role::Administrator,
        };
        self.store.set_user_role(user.id, role).await?;
        self.log.write(
            Note::new(Kind::Role)
                .by(me.user.name.as_str())
                .to(user.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("role", role.as_str()),
        );
        Ok(done(set.request))
    }

    pub(super) async fn user_to_decide_about(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        name: &str,
    ) -> Result<User, Refusal> {
        let user = self.store.user_by_name(&Name::new(name)?).await?;
        let user = user.ok_or_else(|| Refusal::of(Code::NoUser))?;
        if extends_to(asked.reach, me, &user) {
            return Ok(user);
        }
        let text = "only an administrator decides about a manager or administrator";
        Err(Refusal::new(Code::Denied, text))
    }
}
