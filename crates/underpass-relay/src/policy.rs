//! Who may ask for what: one table.

use underpass_proto::Code;
use underpass_proto::control::ControlType;
use underpass_store::{Enrolled, Role};

use crate::refusal::Refusal;

/// Whom the relay takes an agent for, as of the moment of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its key stands for nobody, or for somebody who is not let in any more.
    Stranger,
    /// A machine of a user who has registered and waits for approval.
    Waiting(Enrolled),
    /// An enrolled machine of an active user whose certificate does not let it in any more, and why.
    Barred(Enrolled, Refusal),
    /// An enrolled machine of an active user.
    Member(Enrolled),
}

/// How far a request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// It may not be made.
    Nothing,
    /// What is the asking user's own, or meant for them.
    Own,
    /// Also what belongs to users of a lesser role.
    Lesser,
    /// Everything.
    All,
}

use Reach::{All, Lesser, Nothing, Own};

/// A request, and how far it reaches for a stranger, one who waits for approval, a user, a manager, an
/// administrator.
type Row = (ControlType, [Reach; 5]);

/// The table. A request that is not in it may not be made by anybody.
const TABLE: &[Row] = &[
    // An enrolled machine may spend its code again: its first answer may have been lost.
    (ControlType::Attach, [Own, Own, Own, Own, Own]),
    (ControlType::Enrol, [Own, Own, Own, Own, Own]),
    (ControlType::SignIn, [Own, Own, Own, Own, Own]),
    (ControlType::Prove, [Own, Own, Own, Own, Own]),
    (ControlType::Register, [Own, Own, Own, Own, Own]),
    (ControlType::SetPassword, [Own, Own, Own, Own, Own]),
    (ControlType::WhoAmI, [Nothing, Nothing, Own, Own, Own]),
    (
        ControlType::Invite,
        [Nothing, Nothing, Nothing, Lesser, All],
    ),
    (ControlType::Publish, [Nothing, Nothing, Own, Own, Own]),
    (ControlType::Withdraw, [Nothing, Nothing, Own, Own, All]),
    (ControlType::Allow, [Nothing, Nothing, Own, Own, All]),
    (ControlType::Deny, [Nothing, Nothing, Own, Own, All]),
    (ControlType::Services, [Nothing, Nothing, Own, All, All]),
    (ControlType::Resolve, [Nothing, Nothing, Own, Own, Own]),
    (ControlType::Users, [Nothing, Nothing, Own, All, All]),
    (ControlType::Machines, [Nothing, Nothing, Own, All, All]),
    (ControlType::Revoke, [Nothing, Nothing, Own, Lesser, All]),
    (ControlType::MakeToken, [Nothing, Nothing, Own, Lesser, All]),
    (
        ControlType::ChangeUser,
        [Nothing, Nothing, Nothing, Lesser, All],
    ),
    (
        ControlType::SetRole,
        [Nothing, Nothing, Nothing, Nothing, All],
    ),
    (ControlType::Certify, [Own, Own, Own, Own, Own]),
    (ControlType::Group, [Nothing, Nothing, Own, Own, Own]),
    (ControlType::Events, [Nothing, Nothing, Own, All, All]),
    (ControlType::MayUse, [Nothing, Nothing, Own, Own, Own]),
    (ControlType::Meet, [Nothing, Nothing, Own, Own, Own]),
    (ControlType::Part, [Nothing, Nothing, Own, Own, Own]),
    (
        ControlType::DecideService,
        [Nothing, Nothing, Nothing, Lesser, All],
    ),
    (
        ControlType::SetPublishing,
        [Nothing, Nothing, Nothing, Lesser, All],
    ),
    (ControlType::Connections, [Nothing, Nothing, Own, All, All]),
    (ControlType::Kick, [Nothing, Nothing, Own, All, All]),
    (ControlType::Usage, [Nothing, Nothing, Own, All, All]),
    (ControlType::Limits, [Nothing, Nothing, Own, All, All]),
    (
        ControlType::SetLimit,
        [Nothing, Nothing, Nothing, Lesser, All],
    ),
];

/// How far a request may reach.
///
/// # Errors
/// It may not be made at all: by a stranger because nobody has enrolled it, by one who waits because nobody has
/// approved, by others because their role does not allow it. A machine whose certificate is not good may show a better
/// one, and nothing else: any other way in would leave it in by that certificate.
pub(crate) fn reach(who: &Standing, request: ControlType) -> Result<Reach, Refusal> {
    let column = match who {
        Standing::Barred(..) if matches!(request, ControlType::Attach | ControlType::Certify) => 0,
        Standing::Barred(_, why) => return Err(why.clone()),
        Standing::Stranger => 0,
        Standing::Waiting(_) => 1,
        Standing::Member(member) => match member.user.role {
            Role::User => 2,
            Role::Manager => 3,
            Role::Administrator => 4,
        },
    };
    let row = TABLE.iter().find(|(kind, _)| *kind == request);
    match row.map_or(Nothing, |(_, reach)| reach[column]) {
        Nothing if *who == Standing::Stranger => Err(Refusal::of(Code::NotEnrolled)),
        Nothing if matches!(who, Standing::Waiting(_)) => Err(Refusal::of(Code::Waiting)),
        Nothing => Err(Refusal::new(
            Code::Denied,
            "only managers and administrators of the relay may do this; ask one of them",
        )),
        reach => Ok(reach),
    }
}

/// Whether a request of `reach` made by `caller` extends to what belongs to `owner` with that role.
pub(crate) fn extends_to(reach: Reach, caller: &Enrolled, owner: &underpass_store::User) -> bool {
    match reach {
        Nothing => false,
        Own => owner.id == caller.user.id,
        Lesser => owner.id == caller.user.id || owner.role < caller.user.role,
        All => true,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use underpass_proto::Speaker;
    use underpass_store::{
        Machine, MachineId, MachineKey, MachineKind, MachineState, Name, UnixMillis, User, UserId,
        UserState,
    };

    use super::*;

    /// Somebody with a role.
    pub(crate) fn member(role: Role) -> Enrolled {
        let user = UserId(role as i64 + 1);
        Enrolled {
            user: User {
                id: user,
                name: Name::new("somebody").unwrap(),
                role,
                state: UserState::Active,
                created: UnixMillis(0),
            },
            machine: Machine {
                id: MachineId(1),
                key: MachineKey([0; 32]),
                name: Name::new("laptop").unwrap(),
                user,
                state: MachineState::Active,
                enrolled: UnixMillis(0),
                last_seen: None,
                kind: MachineKind::Agent,
                expires: None,
            },
        }
    }

    #[test]
    fn every_request_of_an_agent_has_one_row() {
        for kind in ControlType::ALL {
            let rows = TABLE.iter().filter(|(row, _)| row == kind).count();
            let expected = usize::from(kind.allowed_in(Speaker::Agent));
            assert_eq!(rows, expected, "{}", kind.name());
        }
    }

    #[test]
    fn who_is_not_let_in_may_only_come_in() {
        let waiting = Standing::Waiting(member(Role::User));
        for (who, code) in [
            (Standing::Stranger, Code::NotEnrolled),
            (waiting, Code::Waiting),
        ] {
            for kind in ControlType::ALL {
                let allowed = reach(&who, *kind);
                let open = matches!(
                    kind,
                    ControlType::Attach
                        | ControlType::Enrol
                        | ControlType::SignIn
                        | ControlType::Prove
                        | ControlType::Register
                        | ControlType::SetPassword
                        | ControlType::Certify
                );
                assert_eq!(allowed.is_ok(), open, "{}", kind.name());
                if let Err(why) = allowed {
                    assert_eq!(why.code, code);
                    assert!(
                        why.text.contains("underpass login"),
                        "the next step is named"
                    );
                }
            }
        }
    }

    #[test]
    fn who_has_no_good_certificate_may_only_show_another() {
        let why = Refusal::of(Code::CertificateRevoked);
        let barred = Standing::Barred(member(Role::Administrator), why.clone());
        for kind in ControlType::ALL {
            let open = matches!(kind, ControlType::Attach | ControlType::Certify);
            let expected = if open { Ok(Own) } else { Err(why.clone()) };
            assert_eq!(reach(&barred, *kind), expected, "{}", kind.name());
        }
    }

    #[test]
    fn a_higher_role_reaches_at_least_as_far() {
        for (kind, [_, waiting, user, manager, administrator]) in TABLE {
            assert!(waiting <= user, "{}", kind.name());
            assert!(
                user <= manager && manager <= administrator,
                "{}",
                kind.name()
            );
        }
    }

    #[test]
    fn only_managers_invite() {
        let may = |role| reach(&Standing::Member(member(role)), ControlType::Invite);
        assert_eq!(may(Role::User).unwrap_err().code, Code::Denied);
        assert_eq!(may(Role::Manager), Ok(Lesser));
        assert_eq!(may(Role::Administrator), Ok(All));
    }

    #[test]
    fn nobody_reaches_their_equals_but_administrators() {
        let (manager, administrator) = (member(Role::Manager), member(Role::Administrator));
        let mut other = manager.user.clone();
        other.id = UserId(77);
        assert!(extends_to(Lesser, &manager, &manager.user));
        assert!(!extends_to(Lesser, &manager, &other));
        assert!(!extends_to(Lesser, &manager, &administrator.user));
        assert!(extends_to(Lesser, &manager, &member(Role::User).user));
        assert!(extends_to(All, &administrator, &other));
        assert!(!extends_to(Own, &administrator, &other));
    }
}
