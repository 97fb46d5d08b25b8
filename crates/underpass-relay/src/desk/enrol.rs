//! Attaching, enrolling, inviting.

use std::time::Duration;

use underpass_proto::Code;
use underpass_proto::control::{
    Attach, CodeKind, Control, Enrol, Identity, Invite, Invited, UserRole,
};
use underpass_proto::packet;
use underpass_store::{Enrolled, MachineKey, NewInvitation, NewMachine, Role, UserState};

use super::{Asked, Desk, LONGEST_INVITATION, new_name, new_user_name};
use crate::code::OneTimeCode;
use crate::hub::AttachmentId;
use crate::log::{Kind, Note};
use crate::policy::{Standing, extends_to};
use crate::refusal::Refusal;

/// One-time codes, passwords and certificates that are not good, after which an attachment is ended.
const MOST_FAILED_CODES: u32 = 5;

impl Desk {
    pub(super) fn attach(
        &self,
        asked: &Asked<'_>,
        standing: &Standing,
        attach: &Attach,
    ) -> Result<Vec<Control>, Refusal> {
        if attach.version != packet::VERSION {
            return Err(Refusal::of(Code::VersionUnsupported));
        }
        let member = match standing {
            Standing::Stranger => None,
            Standing::Waiting(known) | Standing::Barred(known, _) => Some(known),
            Standing::Member(member) => {
                self.seen.note(member.machine.id, asked.at);
                Some(member)
            }
        };
        Ok(vec![self.identity(attach.request, member)])
    }

    pub(super) fn identity(&self, request: u64, member: Option<&Enrolled>) -> Control {
        Identity {
            request,
            user: member.map_or_else(String::new, |it| it.user.name.to_string()),
            machine: member.map_or_else(String::new, |it| it.machine.name.to_string()),
            role: member.map_or(UserRole::User, |it| wire_role(it.user.role)),
            relay_version: concat!("underpass ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
        .into()
    }

    pub(super) async fn enrol(
        &self,
        asked: &Asked<'_>,
        enrol: Enrol,
    ) -> Result<Vec<Control>, Refusal> {
        let request = enrol.request;
        let by = match enrol.kind {
            CodeKind::Setup => "setup code",
            CodeKind::Invite => "invitation",
        };
        match self.redeem(asked, enrol).await {
            Ok(enrolled) => {
                self.note_enrolled(asked, &enrolled, by)?;
                Ok(vec![self.identity(request, Some(&enrolled))])
            }
            Err(why) => {
                self.note_refused(asked, &why, by, None);
                if why.code == Code::InvalidCode {
                    self.count_failed(asked.caller.attachment, why.code)?;
                }
                Err(why)
            }
        }
    }

    async fn redeem(&self, asked: &Asked<'_>, enrol: Enrol) -> Result<Enrolled, Refusal> {
        let code = OneTimeCode::parse(&enrol.code)
            .map_err(|error| Refusal::new(Code::InvalidCode, error.to_string()))?;
        let digest = code.digest();
        let machine = NewMachine {
            name: new_name(&enrol.machine)?,
            key: MachineKey(asked.caller.key),
        };
        let redeemed = match enrol.kind {
            CodeKind::Setup => {
                let user = new_user_name(&enrol.user)?;
                self.store
                    .redeem_setup_code(digest, &user, &machine, asked.at)
                    .await
            }
            CodeKind::Invite => {
                self.store
                    .redeem_invitation(digest, &machine, asked.at)
                    .await
            }
        };
        Ok(redeemed?)
    }

    /// Writes down that a machine was not enrolled, and as whom, where that is known.
    pub(super) fn note_refused(
        &self,
        asked: &Asked<'_>,
        why: &Refusal,
        by: &str,
        user: Option<&str>,
    ) {
        let mut note = Note::new(Kind::LoginRefused);
        if let Some(user) = user {
            note = note.to(user);
        }
        self.log.write(
            note.from(asked.caller.address.as_deref())
                .with("by", by)
                .with("code", why.code.up()),
        );
    }

    /// Strangers may try a few codes and passwords only; then they must make another attachment, of
    /// which there is a limited number too.
    ///
    /// # Errors
    /// That was the last one.
    pub(super) fn count_failed(&self, attachment: AttachmentId, code: Code) -> Result<(), Refusal> {
        if self.switch.count_failed_code(attachment) < MOST_FAILED_CODES {
            return Ok(());
        }
        let text = "too many one-time codes, passwords or certificates were not good";
        let why = Refusal::new(code, text);
        self.switch
            .with_hub(|hub, _| hub.end(attachment, why.clone()));
        Err(why)
    }

    pub(super) async fn invite(
        &self,
        asked: &Asked<'_>,
        me: &Enrolled,
        invite: Invite,
    ) -> Result<Vec<Control>, Refusal> {
        let user = new_user_name(&invite.user)?;
        if let Some(known) = self.store.user_by_name(&user).await? {
            if !extends_to(asked.reach, me, &known) {
                let text =
                    "only an administrator can invite a machine of a manager or administrator";
                return Err(Refusal::new(Code::Denied, text));
            }
            if known.state == UserState::Disabled {
                return Err(Refusal::new(
                    Code::Denied,
                    "this user is disabled; enable them first",
                ));
            }
        }
        let lifetime = match invite.lifetime_s {
            0 => self.rules.invitation,
            seconds => Duration::from_secs(seconds),
        };
        let lifetime = lifetime.min(LONGEST_INVITATION);
        let code = OneTimeCode::new((asked.draw)());
        let invitation = NewInvitation {
            digest: code.digest(),
            user,
            made_by: me.user.id,
            made_at: asked.at,
            expires_at: asked.at.saturating_add(lifetime),
        };
        self.store.invite(&invitation).await?;
        self.log.write(
            Note::new(Kind::Invite)
                .by(me.user.name.as_str())
                .to(invitation.user.as_str())
                .from(asked.caller.address.as_deref()),
        );
        Ok(vec![
            Invited {
                request: invite.request,
                code: code.to_string(),
                expires_s: lifetime.as_secs(),
            }
            .into(),
        ])
    }
}

/// A role as it travels.
pub(super) fn wire_role(role: Role) -> UserRole {
    match role {
        Role::User => UserRole::User,
        Role::Manager => UserRole::Manager,
        Role::Administrator => UserRole::Administrator,
    }
}
