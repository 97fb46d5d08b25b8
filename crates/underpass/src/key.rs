//! The secret of a machine.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use underpass_seal::{Fingerprint, StaticKey};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The length of a secret, in bytes.
const LENGTH: usize = 32;

/// The secret by which a machine is known. Whoever has it is that machine.
#[derive(Debug, Clone)]
pub struct MachineKey(pub(crate) Arc<StaticKey>);

impl MachineKey {
    /// A new one, from the system's random generator.
    #[must_use]
    pub fn generate() -> Self {
        Self(Arc::new(StaticKey::generate()))
    }

    /// One that was kept.
    #[must_use]
    pub fn from_bytes(secret: [u8; LENGTH]) -> Self {
        Self(Arc::new(StaticKey::from_bytes(secret)))
    }

    /// The one in a file of 32 bytes; a new one is made and written there if there is no file, readable by nobody else
    /// (mode 0600 where there are modes). Blocks while it reads.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds something else.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed =
            |error: io::Error| Error::setting("key", format!("{}: {error}", path.display()));
        match std::fs::read(path).map(Zeroizing::new) {
            Ok(bytes) => match <[u8; LENGTH]>::try_from(bytes.as_slice()) {
                Ok(secret) => Ok(Self::from_bytes(secret)),
                Err(_) => Err(failed(io::Error::other("this is not a machine's key"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate();
                write_new(path, key.0.to_bytes().as_slice()).map_err(failed)?;
                Ok(key)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The secret, to be kept where nobody else can read it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        *self.0.to_bytes()
    }

    /// What others know this machine by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.public().fingerprint()
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = MachineKey::load_or_create(&path).unwrap();
        let found = MachineKey::load_or_create(&path).unwrap();
        assert_eq!(made.fingerprint(), found.fingerprint());
        assert_eq!(
            MachineKey::from_bytes(found.to_bytes()).fingerprint(),
            made.fingerprint()
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::write(&path, b"short").unwrap();
        let refused = MachineKey::load_or_create(&path).unwrap_err();
        assert_eq!(refused.code(), Code::BAD_SETTING);
        assert!(MachineKey::load_or_create(dir.path()).is_err());
    }
}
