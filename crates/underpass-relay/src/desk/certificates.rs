//! Coming in by an X.509 certificate, and staying.
//!
//! A machine signs with its certificate's key what no other session and no other machine has: the hash of its hop session
//! and its own key. From then on the certificate is checked again whenever the machine attaches or asks for something,
//! and whenever the relay's authorities or their revocation lists have changed.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use underpass_carrier::x509::{Authorities, CertificateFault, Chain};
use underpass_proto::Code;
use underpass_proto::control::{Certify, Control};
use underpass_seal::{PublicKey, certificate_proof};
use underpass_store::{
    EnrolError, Enrolled, Fault, Machine, MachineKey, MachineKind, Name, NewCertificate,
    NewMachine, UnixMillis,
};

use super::{Asked, Desk, new_name, new_user_name};
use crate::certificates::{end, seconds};
use crate::refusal::Refusal;

/// What a login by certificate is called in the log.
const BY_CERTIFICATE: &str = "certificate";

impl From<CertificateFault> for Refusal {
    fn from(fault: CertificateFault) -> Self {
        Refusal::new(fault.code(), fault.to_string())
    }
}

/// What a machine shows to be let in.
struct Shown {
    trusted: Arc<Authorities>,
    machine: NewMachine,
    chain: Chain,
    scheme: u16,
    signature: Bytes,
}

impl Desk {
    pub(super) async fn certify(
        &self,
        asked: &Asked<'_>,
        certify: Certify,
    ) -> Result<Vec<Control>, Refusal> {
        let request = certify.request;
        let shown = self.shown(asked, certify)?;
        let mut user = None;
        match self.enrol_certified(asked, shown, &mut user).await {
            Ok(enrolled) => {
                self.note_enrolled(asked, &enrolled, BY_CERTIFICATE)?;
                Ok(vec![self.identity(request, Some(&enrolled))])
            }
            Err(why) => {
                let user = user.as_ref().map(Name::as_str);
                self.note_refused(asked, &why, BY_CERTIFICATE, user);
                // Each one costs the relay some signatures to check.
                self.count_failed(asked.caller.attachment, why.code)?;
                Err(why)
            }
        }
    }

    /// What was shown, as far as nothing has to be checked for that.
    fn shown(&self, asked: &Asked<'_>, certify: Certify) -> Result<Shown, Refusal> {
        let trusted = self.rules.certificates.trusted().ok_or_else(|| {
            let text = "this relay lets no machines in by certificates (certificate_authorities)";
            Refusal::new(Code::Denied, text)
        })?;
        let machine = NewMachine {
            name: new_name(&certify.machine)?,
            key: MachineKey(asked.caller.key),
        };
        let malformed = |fault: CertificateFault| {
            // Whoever has read it from a file knows that it is one.
            Refusal::new(Code::ProtocolViolation, fault.to_string())
        };
        Ok(Shown {
            trusted,
            machine,
            chain: Chain::from_der(&certify.chain).map_err(malformed)?,
            scheme: certify.scheme,
            signature: certify.signature,
        })
    }

    /// Notes in `named` whom the certificate names once it is known to be good.
    async fn enrol_certified(
        &self,
        asked: &Asked<'_>,
        shown: Shown,
        named: &mut Option<Name>,
    ) -> Result<Enrolled, Refusal> {
        let certificates = &self.rules.certificates;
        let Shown {
            trusted,
            machine,
            chain,
            scheme,
            signature,
        } = shown;
        let signed = certificate_proof(&asked.caller.handshake_hash, &PublicKey(asked.caller.key));
        chain.has_signed(scheme, &signed, &signature)?;
        let until = trusted.check(&chain, seconds(asked.at))?;
        let user = user_named(&chain.user(&certificates.named_by)?)?;
        *named = Some(user.clone());
        let certificate = NewCertificate {
            chain: chain.to_der(),
            expires: end(until),
        };
        let make = certificates.make_users;
        let enrolled = self
            .store
            .certify_machine(&user, make, &machine, &certificate, asked.at)
            .await;
        enrolled.map_err(|error| match error {
            EnrolError::NoSuchUser => {
                let text = format!(
                    "the certificate names {user}, and there is no such user; ask a manager for: \
                     underpass users invite {user}"
                );
                Refusal::new(Code::NoUser, text)
            }
            error => error.into(),
        })
    }

    /// Why a machine is not let in by the certificate that it came by; nothing where it is, or came by none. That its
    /// key is let in otherwise, the caller has made sure of, but for its end.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(super) async fn certificate_fault(
        &self,
        machine: &Machine,
        at: UnixMillis,
    ) -> Result<Option<Refusal>, Fault> {
        // Of agents only those end that came by a certificate.
        let expires = match machine.expires {
            Some(expires) if machine.kind == MachineKind::Agent => expires,
            _ => return Ok(None),
        };
        let fault = match self.store.certificate(machine.id).await? {
            Some(chain) => self.rules.certificates.check(&chain, at).err(),
            None => Some(CertificateFault::Unusable("it is gone".to_owned())),
        };
        let over = (at >= expires).then_some(CertificateFault::Expired);
        Ok(fault.or(over).map(Refusal::from))
    }

    /// Ends all attachments of machines whose certificates do not let them in any more.
    ///
    /// # Errors
    /// The store cannot be asked; nothing is ended then.
    pub(crate) async fn check_certificates(&self, at: UnixMillis) -> Result<(), Fault> {
        let kept: HashMap<_, _> = self.store.certificates().await?.into_iter().collect();
        for attached in self.switch.all_attached() {
            let member = self
                .switch
                .with_hub(|hub, _| hub.member(attached.id).cloned());
            let chain = member.and_then(|member| kept.get(&member.machine));
            let checked = chain.map(|chain| self.rules.certificates.check(chain, at));
            if let Some(Err(fault)) = checked {
                self.switch
                    .with_hub(|hub, _| hub.end(attached.id, fault.into()));
            }
            // There may be thousands, each with some signatures to check.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// The user that a certificate names, who may have to be made.
fn user_named(text: &str) -> Result<Name, Refusal> {
    new_user_name(text).map_err(|why| {
        let shown: String = text.chars().filter(|c| !c.is_control()).take(63).collect();
        let text = format!(
            "the certificate names {shown:?}, which cannot be a user: {}",
            why.text
        );
        Refusal::new(Code::CertificateUser, text)
    })
}
