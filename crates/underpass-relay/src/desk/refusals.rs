//! What the store's refusals are to an agent.
//!
//! A fault of the store is one code to everybody outside; what is wrong with it is in the relay's log.

use underpass_proto::Code;
use underpass_store::{
    AccessError, DecideError, EnrolError, Fault, InviteError, NameError, PublishError, RedeemError,
    RegisterError, ResolveError, RevokeError, ServiceDecisionError, ServiceRefError, ServiceState,
    TokenError, UserChangeError,
};

use crate::refusal::Refusal;

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        tracing::error!(cause = %fault.cause, "{fault}");
        Refusal::of(Code::StoreUnavailable)
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Refusal::new(Code::NameInvalid, error.to_string())
    }
}

impl From<ServiceRefError> for Refusal {
    fn from(error: ServiceRefError) -> Self {
        Refusal::new(Code::NameInvalid, error.to_string())
    }
}

impl From<RedeemError> for Refusal {
    fn from(error: RedeemError) -> Self {
        let text = error.to_string();
        match error {
            // One answer for all of them: a stranger is not told which codes exist or existed.
            RedeemError::UnknownCode | RedeemError::Used | RedeemError::Expired => {
                Refusal::of(Code::InvalidCode)
            }
            RedeemError::InviterDisabled | RedeemError::AdministratorExists => {
                Refusal::new(Code::InvalidCode, text)
            }
            RedeemError::UserDisabled => Refusal::new(Code::Denied, text),
            RedeemError::UserWaits => Refusal::new(Code::Waiting, text),
            RedeemError::UserNameTaken | RedeemError::MachineNameTaken | RedeemError::KeyKnown => {
                Refusal::new(Code::Exists, text)
            }
            RedeemError::Fault(fault) => fault.into(),
        }
    }
}

impl From<InviteError> for Refusal {
    fn from(error: InviteError) -> Self {
        let text = error.to_string();
        match error {
            InviteError::InviterUnknown | InviteError::UserDisabled => {
                Refusal::new(Code::Denied, text)
            }
            InviteError::UserWaits => Refusal::new(Code::Waiting, text),
            InviteError::CodeInUse => Refusal::of(Code::Internal),
            InviteError::Fault(fault) => fault.into(),
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let text = error.to_string();
        match error {
            PublishError::MachineNotAdmitted => Refusal::new(Code::NotEnrolled, text),
            PublishError::OnOtherMachine { .. } => Refusal::new(Code::Exists, text),
            PublishError::KeyInUse => Refusal::of(Code::Internal),
            PublishError::Refused => Refusal::of(Code::ServiceRefused),
            PublishError::Fault(fault) => fault.into(),
        }
    }
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::NoSuchService => Refusal::of(Code::NoService),
            AccessError::NoSuchUser { name } => {
                let next = Code::NoUser.explain().next;
                Refusal::new(Code::NoUser, format!("there is no user {name}; {next}"))
            }
            AccessError::NoSuchMachine => Refusal::of(Code::NoMachine),
            AccessError::Fault(fault) => fault.into(),
        }
    }
}

/// What is said about a service that may not be used by anybody.
pub(super) fn not_approved(state: ServiceState) -> Refusal {
    Refusal::of(match state {
        ServiceState::Waiting => Code::ServiceWaiting,
        ServiceState::Refused => Code::ServiceRefused,
        // It may be used, though not by everybody.
        ServiceState::Active => Code::Denied,
    })
}

impl From<ServiceDecisionError> for Refusal {
    fn from(error: ServiceDecisionError) -> Self {
        let text = error.to_string();
        match error {
            ServiceDecisionError::NoSuchService => Refusal::of(Code::NoService),
            ServiceDecisionError::Decided(_) => Refusal::new(Code::Decided, text),
            ServiceDecisionError::Fault(fault) => fault.into(),
        }
    }
}

impl From<ResolveError> for Refusal {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::NotFound => Refusal::of(Code::NoService),
            ResolveError::Denied => Refusal::of(Code::Denied),
            ResolveError::NotApproved(state) => not_approved(state),
            ResolveError::Ambiguous { owners } => {
                let owners: Vec<&str> = owners.iter().map(|owner| owner.as_str()).collect();
                let text = format!(
                    "several users publish a service of this name: {}; write SERVICE.OWNER",
                    owners.join(", ")
                );
                Refusal::new(Code::NameAmbiguous, text)
            }
            ResolveError::Fault(fault) => fault.into(),
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        let text = error.to_string();
        match error {
            TokenError::NoSuchUser => Refusal::of(Code::NoUser),
            TokenError::UserDisabled => Refusal::new(Code::Denied, text),
            TokenError::NameTaken | TokenError::KeyKnown => Refusal::new(Code::Exists, text),
            TokenError::Fault(fault) => fault.into(),
        }
    }
}

impl From<RevokeError> for Refusal {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::NoSuchMachine => Refusal::of(Code::NoMachine),
            RevokeError::Fault(fault) => fault.into(),
        }
    }
}

impl From<RegisterError> for Refusal {
    fn from(error: RegisterError) -> Self {
        let text = error.to_string();
        match error {
            RegisterError::NameTaken | RegisterError::KeyKnown => Refusal::new(Code::Exists, text),
            RegisterError::TooManyWait => Refusal::new(Code::Busy, text),
            RegisterError::Fault(fault) => fault.into(),
        }
    }
}

impl From<EnrolError> for Refusal {
    fn from(error: EnrolError) -> Self {
        let text = error.to_string();
        match error {
            EnrolError::NoSuchUser => Refusal::of(Code::NoUser),
            EnrolError::UserWaits => Refusal::of(Code::Waiting),
            EnrolError::UserDisabled => Refusal::new(Code::Denied, text),
            EnrolError::MachineNameTaken | EnrolError::KeyKnown => Refusal::new(Code::Exists, text),
            EnrolError::Fault(fault) => fault.into(),
        }
    }
}

impl From<DecideError> for Refusal {
    fn from(error: DecideError) -> Self {
        match error {
            DecideError::NoSuchUser => Refusal::of(Code::NoUser),
            DecideError::Decided => Refusal::of(Code::Decided),
            DecideError::Fault(fault) => fault.into(),
        }
    }
}

impl From<UserChangeError> for Refusal {
    fn from(error: UserChangeError) -> Self {
        let text = error.to_string();
        match error {
            UserChangeError::NoSuchUser => Refusal::of(Code::NoUser),
            UserChangeError::Waits => Refusal::new(Code::Waiting, text),
            UserChangeError::LastAdministrator => Refusal::of(Code::LastAdministrator),
            UserChangeError::Fault(fault) => fault.into(),
        }
    }
}
