//! The file of the machine key.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use underpass_seal::StaticKey;
use zeroize::Zeroizing;

use super::{HomeError, file};

/// What the file starts with; the number is the format's.
const HEADER: &str = "underpass machine key 1\n";
/// The header, 64 hexadecimal digits and a line end.
const LENGTH: usize = HEADER.len() + 65;

/// The key in the file, or a new one where there is no file. The caller holds the lock.
pub(super) fn load_or_create(path: &Path) -> Result<StaticKey, HomeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = StaticKey::generate();
            file::replace(path, write(&key).as_bytes(), 0o600)?;
            return Ok(key);
        }
        Err(error) => return Err(HomeError::io("read", path)(error)),
    };
    check_mode(&file, path)?;
    let mut text = Zeroizing::new(String::with_capacity(LENGTH + 1));
    file.take(LENGTH as u64 + 1)
        .read_to_string(&mut text)
        .map_err(HomeError::io("read", path))?;
    parse(&text).ok_or_else(|| HomeError::Content {
        path: path.to_owned(),
        line: 1,
        reason: "this is not a machine key; restore it, or remove it and log in anew".to_owned(),
    })
}

fn check_mode(file: &File, path: &Path) -> Result<(), HomeError> {
    let metadata = file.metadata().map_err(HomeError::io("read", path))?;
    match metadata.permissions().mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(HomeError::TooOpen {
            path: path.to_owned(),
            mode,
        }),
        _ => Ok(()),
    }
}

fn write(key: &StaticKey) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(String::with_capacity(LENGTH));
    text.push_str(HEADER);
    for byte in key.to_bytes().iter() {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text.push('\n');
    text
}

fn parse(text: &str) -> Option<StaticKey> {
    let digits = text.strip_prefix(HEADER)?.strip_suffix('\n')?.as_bytes();
    let mut secret = Zeroizing::new([0u8; 32]);
    if digits.len() != 2 * secret.len() {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(StaticKey::from_bytes(*secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine.key");
        let made = load_or_create(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(load_or_create(&path).unwrap().public(), made.public());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine.key");
        load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(matches!(error, HomeError::TooOpen { .. }), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        load_or_create(&path).unwrap();
    }

    #[test]
    fn what_is_no_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine.key");
        let good = write(&StaticKey::from_bytes([7; 32]));
        assert!(parse(&good).is_some());
        for bad in [
            "",
            "key",
            &good[..good.len() - 1],
            &good[..good.len() - 3],
            &good.replace("07", "0x"),
            &good.replace(" 1\n", " 2\n"),
            &format!("{}\n", *good),
        ] {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(matches!(error, HomeError::Content { .. }), "{bad:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
            assert!(!error.to_string().contains("0707"), "no secret in messages");
        }
    }
}
