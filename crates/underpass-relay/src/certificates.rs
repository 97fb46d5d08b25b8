//! Which X.509 certificates let machines in: the authorities, and what they have revoked, as files that may change while
//! the relay runs.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use underpass_carrier::IdentityError;
use underpass_carrier::x509::{Authorities, CertificateFault, Chain, NamedBy};
use underpass_store::UnixMillis;

use crate::settings::Settings;

/// Users whom certificates let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUsers {
    /// Those that there are.
    Known,
    /// Whomever a certificate names: who is not there yet is made.
    Make,
}

impl FromStr for CertificateUsers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "known" => Ok(Self::Known),
            "make" => Ok(Self::Make),
            _ => Err("it is `known` or `make`"),
        }
    }
}

impl fmt::Display for CertificateUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "known",
            Self::Make => "make",
        })
    }
}

/// What tells a file from the same one after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    changed: (i64, i64),
    len: u64,
}

impl Stamp {
    /// None while there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            // Not when it was written: that can be set, and copies keep it.
            changed: (found.ctime(), found.ctime_nsec()),
            len: found.len(),
        })
    }
}

/// Certificates as this relay takes them.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// None where the relay takes none.
    authorities: Option<PathBuf>,
    revocations: Option<PathBuf>,
    /// How they name users.
    pub(crate) named_by: NamedBy,
    /// Whether users that they name are made where there are none.
    pub(crate) make_users: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    trusted: Option<Arc<Authorities>>,
    /// Of the files, when they were last read; also where that failed.
    stamps: [Option<Stamp>; 2],
    /// Grows with each change of `trusted`.
    generation: u64,
}

impl Certificates {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(crate) fn read(settings: &Settings) -> Result<Self, IdentityError> {
        let certificates = Self {
            authorities: settings.certificate_authorities.clone(),
            revocations: settings.certificate_revocations.clone(),
            named_by: settings.certificate_name.clone(),
            make_users: settings.certificate_users == CertificateUsers::Make,
            state: Mutex::new(State {
                trusted: None,
                stamps: [None; 2],
                generation: 0,
            }),
        };
        certificates.read_again()?;
        Ok(certificates)
    }

    /// Reads the files again. Takes a while where they are large.
    ///
    /// # Errors
    /// One cannot be used: what was read before stays.
    pub(crate) fn read_again(&self) -> Result<(), IdentityError> {
        let Some(authorities) = &self.authorities else {
            return Ok(());
        };
        // Before they are read: what changes meanwhile is read once more.
        let stamps = self.stamps();
        let read = Authorities::from_pem_files(authorities, self.revocations.as_deref());
        let mut state = self.state();
        state.stamps = stamps;
        state.trusted = Some(Arc::new(read?));
        state.generation += 1;
        tracing::info!("machines are let in by certificates: {:?}", state.trusted);
        Ok(())
    }

    /// Reads the files again where they have changed since they were read, or could not be.
    pub(crate) fn follow(&self) {
        if self.state().stamps == self.stamps() {
            return;
        }
        if let Err(error) = self.read_again() {
            tracing::error!("which certificates let machines in stays as it was: {error}");
        }
    }

    /// Grows whenever what was vouched for may not be any more.
    pub(crate) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// The authorities; none where this relay takes no certificates.
    pub(crate) fn trusted(&self) -> Option<Arc<Authorities>> {
        self.state().trusted.clone()
    }

    /// Whether a machine is let in by the certificate with which this was kept.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) fn check(&self, chain: &[u8], at: UnixMillis) -> Result<(), CertificateFault> {
        let none = || CertificateFault::Untrusted("it takes no certificates any more".to_owned());
        let trusted = self.trusted().ok_or_else(none)?;
        trusted
            .check(&Chain::from_der(chain)?, seconds(at))
            .map(drop)
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.authorities, &self.revocations].map(|path| Stamp::of(path.as_deref()?))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A moment as certificates have them: seconds since 1970; 0 before.
pub(crate) fn seconds(at: UnixMillis) -> u64 {
    u64::try_from(at.0 / 1000).unwrap_or(0)
}

/// The first moment at which a certificate does not hold any more that holds through the second `until`.
pub(crate) fn end(until: u64) -> UnixMillis {
    let end = i64::try_from(until).unwrap_or(i64::MAX);
    UnixMillis(end.saturating_add(1).saturating_mul(1000))
}
