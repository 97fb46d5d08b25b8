//! Services, and who may use them.

use std::fmt;
use std::str::FromStr;

use crate::users::words;
use crate::{Fault, MachineId, MachineKey, Name, NameError, Role, ServiceRef, UnixMillis, UserId};

/// Shortest service key in bytes: 128 bits, which nobody guesses.
pub const MIN_SERVICE_KEY_LEN: usize = 16;
/// Longest service key in bytes.
pub const MAX_SERVICE_KEY_LEN: usize = 32;

/// Number of a service, never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub i64);

/// Random bytes that stand for a service between relay and publisher.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServiceKey(Box<[u8]>);

/// A service key of the wrong length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a service key has 16 to 32 bytes, this one has {len}")]
pub struct ServiceKeyError {
    /// Its length in bytes.
    pub len: usize,
}

impl ServiceKey {
    /// Takes random bytes as a key.
    ///
    /// # Errors
    /// When there are fewer than [`MIN_SERVICE_KEY_LEN`] or more than [`MAX_SERVICE_KEY_LEN`].
    pub fn new(bytes: &[u8]) -> Result<Self, ServiceKeyError> {
        match bytes.len() {
            MIN_SERVICE_KEY_LEN..=MAX_SERVICE_KEY_LEN => Ok(Self(bytes.into())),
            len => Err(ServiceKeyError { len }),
        }
    }

    /// The bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceKey({} bytes)", self.0.len())
    }
}

/// Whether a service may be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceState {
    /// By whom its access list says.
    Active,
    /// By nobody yet: it waits for a manager's approval.
    Waiting,
    /// By nobody: a manager has refused it.
    Refused,
}

words!(ServiceState {
    ServiceState::Active => "active",
    ServiceState::Waiting => "waiting",
    ServiceState::Refused => "refused",
} "active, waiting, refused");

/// Whether what a user publishes waits for a manager's approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Publishing {
    /// As the relay is set; managers and administrators need no approval.
    Usual,
    /// It does not.
    Free,
    /// It does.
    Approval,
}

words!(Publishing {
    Publishing::Usual => "usual",
    Publishing::Free => "free",
    Publishing::Approval => "approval",
} "usual, free, approval");

/// A service to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewService {
    /// Its name, unique among the services of its owner.
    pub name: Name,
    /// Who publishes it.
    pub owner: UserId,
    /// The machine that publishes it, one of the owner's.
    pub machine: MachineId,
    /// The key it gets if it is new.
    pub key: ServiceKey,
    /// Whether its channels may be compressed.
    pub compression: bool,
    /// Whether bare HTTP clients may use it through the relay.
    pub plain_http: bool,
    /// Whether the relay is set to have new services wait for approval.
    pub approval: bool,
    /// When it is published.
    pub at: UnixMillis,
}

/// A published service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Number of the service.
    pub id: ServiceId,
    /// Its name, unique among the services of its owner.
    pub name: Name,
    /// Who published it.
    pub owner: UserId,
    /// The owner's name, second label of the service's pseudo DNS name.
    pub owner_name: Name,
    /// The machine that publishes it.
    pub machine: MachineId,
    /// What stands for it between relay and publisher.
    pub key: ServiceKey,
    /// Whether its channels may be compressed.
    pub compression: bool,
    /// Whether bare HTTP clients may use it through the relay, which then reads what passes.
    pub plain_http: bool,
    /// Whether it may be used at all.
    pub state: ServiceState,
    /// When it was first published.
    pub created: UnixMillis,
}

/// What publishing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The service is new; nobody but its owner may use it yet.
    New(Service),
    /// It was there before: it keeps its key and its access list.
    Again(Service),
}

impl Published {
    /// The service, new or not.
    #[must_use]
    pub fn service(&self) -> &Service {
        match self {
            Self::New(service) | Self::Again(service) => service,
        }
    }
}

/// Why a service was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The machine is unknown, revoked, of another user, or its user is disabled.
    #[error("this machine may not publish for that user; log in on it first")]
    MachineNotAdmitted,
    /// Another machine of the same owner publishes a service of that name.
    #[error(
        "your machine {machine} publishes a service of this name; withdraw it there first, or choose another name"
    )]
    OnOtherMachine {
        /// Name of that machine.
        machine: Name,
    },
    /// The key stands for another service.
    #[error("this service key is in use; make another one")]
    KeyInUse,
    /// A manager has refused the service.
    #[error("a manager has refused this service")]
    Refused,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a decision about a service was refused.
#[derive(Debug, thiserror::Error)]
pub enum ServiceDecisionError {
    /// There is no such service.
    #[error("no such service")]
    NoSuchService,
    /// Another decision was made before.
    #[error("this service is {0}: somebody has decided already")]
    Decided(ServiceState),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Who wants to use a service: a machine, and the user it is enrolled under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// The machine.
    pub machine: MachineId,
}

/// Whom an entry of an access list is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// Every active user of the relay, written `*`.
    Everyone,
    /// Every active user of a role, written `@` and the role.
    Role(Role),
    /// One user.
    User(Name),
    /// One machine. It has no text of its own: people know it by the fingerprint of its key.
    Machine(MachineKey),
}

impl FromStr for Who {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let role = text.strip_prefix('@').and_then(|role| role.parse().ok());
        match (text, role) {
            ("*", _) => Ok(Self::Everyone),
            (_, Some(role)) => Ok(Self::Role(role)),
            (name, None) => Name::new(name).map(Self::User),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.pad("*"),
            Self::Role(role) => f.pad(&format!("@{role}")),
            Self::User(name) => name.fmt(f),
            Self::Machine(_) => f.pad("a machine"),
        }
    }
}

/// What an entry of an access list says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// May use the service.
    Allow,
    /// May not, even where everyone may.
    Deny,
}

words!(Access {
    Access::Allow => "allow",
    Access::Deny => "deny",
} "allow, deny");

/// One entry of a service's access list.
///
/// The entry for a machine decides over the one for its user, that over the one for the user's role, and that over the
/// one for everyone; without any, access is denied. The owner needs none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessEntry {
    /// Whom it is about.
    pub who: Who,
    /// What it says.
    pub access: Access,
    /// When it was last set.
    pub since: UnixMillis,
}

/// Why an access list was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no such service.
    #[error("no such service")]
    NoSuchService,
    /// There is no user of that name.
    #[error("no such user: {name}")]
    NoSuchUser {
        /// The name.
        name: Name,
    },
    /// No machine has that key.
    #[error("no such machine")]
    NoSuchMachine,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a name gave no service. Each case tells the caller more or less about what exists; the
/// relay decides how much of it to show.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No service has that name.
    #[error("no such service")]
    NotFound,
    /// Such a service exists, and this user may not use it.
    #[error("you may not use this service; ask its owner to allow you")]
    Denied,
    /// It is the user's own, and not approved: nobody may use it.
    #[error("this service is {0}: no manager has approved it")]
    NotApproved(ServiceState),
    /// Several services that this user may use have that name.
    #[error("several users publish a service of this name; write SERVICE.OWNER")]
    Ambiguous {
        /// Owners of the services meant, in order of name.
        owners: Vec<Name>,
    },
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Chooses the service that `reference` means to `caller`.
///
/// `candidates` are all services that the reference could mean, each with whether the caller may
/// use it. Services that the caller may not use never make a name ambiguous, and a caller's own
/// service comes before others of the same name: otherwise anybody could break somebody's short
/// names by publishing the same ones to everyone.
pub(crate) fn choose(
    caller: UserId,
    reference: &ServiceRef,
    candidates: Vec<(Service, bool)>,
) -> Result<Service, ResolveError> {
    let meant = |service: &Service| {
        service.name == reference.service
            && reference
                .owner
                .as_ref()
                .is_none_or(|owner| *owner == service.owner_name)
    };
    let mut exists = false;
    let mut own_state = ServiceState::Active;
    let mut usable: Vec<Service> = Vec::new();
    for (service, allowed) in candidates {
        if meant(&service) {
            exists = true;
            if service.owner == caller {
                own_state = service.state;
            }
            if allowed {
                usable.push(service);
            }
        }
    }
    if let Some(own) = usable.iter().position(|service| service.owner == caller) {
        return Ok(usable.swap_remove(own));
    }
    match usable.len() {
        // Others are not told what nobody has approved.
        0 if own_state != ServiceState::Active => Err(ResolveError::NotApproved(own_state)),
        0 if exists => Err(ResolveError::Denied),
        0 => Err(ResolveError::NotFound),
        1 => Ok(usable.swap_remove(0)),
        _ => {
            let mut owners: Vec<Name> = usable.into_iter().map(|s| s.owner_name).collect();
            owners.sort();
            Err(ResolveError::Ambiguous { owners })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn service(id: i64, owner: i64) -> Service {
        Service {
            id: ServiceId(id),
            name: Name::new("db").unwrap(),
            owner: UserId(owner),
            owner_name: Name::new(&format!("user-{owner}")).unwrap(),
            machine: MachineId(owner),
            key: ServiceKey::new(&[0; 16]).unwrap(),
            compression: true,
            plain_http: false,
            state: ServiceState::Active,
            created: UnixMillis(0),
        }
    }

    proptest! {
        /// What is chosen is always allowed, and what is not allowed never changes the choice.
        #[test]
        fn denied_services_never_change_a_choice(
            allowed in proptest::collection::vec(any::<bool>(), 0..6),
            caller in 0_i64..8,
        ) {
            let reference: ServiceRef = "db".parse().unwrap();
            let all: Vec<_> = allowed.iter().enumerate()
                .map(|(n, allowed)| (service(n as i64, n as i64), *allowed)).collect();
            let usable: Vec<_> = all.iter().filter(|(_, allowed)| *allowed).cloned().collect();
            let caller = UserId(caller);
            match (choose(caller, &reference, all.clone()), usable.len()) {
                (Ok(found), 1) => prop_assert_eq!(&found, &usable[0].0),
                (Ok(found), n) => prop_assert!(n > 1 && found.owner == caller),
                (Err(ResolveError::Ambiguous { owners }), n) => prop_assert!(n > 1 && owners.len() == n),
                (Err(ResolveError::Denied), n) => prop_assert!(n == 0 && !all.is_empty()),
                (Err(ResolveError::NotFound), _) => prop_assert!(all.is_empty()),
                (Err(ResolveError::NotApproved(state)), _) => prop_assert!(false, "{}", state),
                (Err(ResolveError::Fault(fault)), _) => prop_assert!(false, "{}", fault),
            }
        }
    }

    #[test]
    fn a_reference_with_owner_means_that_owners_service_only() {
        let both = || vec![(service(1, 1), true), (service(2, 2), true)];
        let reference: ServiceRef = "db.user-2".parse().unwrap();
        assert_eq!(
            choose(UserId(1), &reference, both()).unwrap().id,
            ServiceId(2)
        );
        let absent: ServiceRef = "db.user-3".parse().unwrap();
        assert!(matches!(
            choose(UserId(1), &absent, both()),
            Err(ResolveError::NotFound)
        ));
    }

    #[test]
    fn keys_have_16_to_32_bytes_and_are_not_printed() {
        assert_eq!(ServiceKey::new(&[7; 15]), Err(ServiceKeyError { len: 15 }));
        assert_eq!(ServiceKey::new(&[7; 33]), Err(ServiceKeyError { len: 33 }));
        let key = ServiceKey::new(&[7; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "ServiceKey(32 bytes)");
    }
}
