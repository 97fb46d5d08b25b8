//! A registration and logins of which every message follows from a seed.

use super::*;
use crate::key::sha256;
use crate::samples::Samples;

/// The seed that the samples state.
const SEED: &[u8; 32] = b"a seed of samples, of 32 bytes..";

/// What is drawn: `SHA-256(seed || n)` for n = 0, 1, 2 and so on, as 64 bits with the highest first; of each block the
/// bytes in their order. Every draw begins with a new block.
struct Seeded {
    next: u64,
}

impl RngCore for Seeded {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for part in dest.chunks_mut(32) {
            let block = sha256(&[SEED.as_slice(), &self.next.to_be_bytes()]);
            part.copy_from_slice(&block[..part.len()]);
            self.next += 1;
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), RandError> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Seeded {}

/// A login with everything that is sent, and whether it proved the password.
fn log_in(
    samples: &mut Samples,
    random: &mut Seeded,
    (name, user): (&str, &str),
    (server, file): (&Server, Option<&PasswordFile>),
    password: &[u8],
) -> Result<(), PasswordError> {
    let hash = [0xa5; 32];
    let (login, ke1) = Login::start_with(random, password).unwrap();
    samples.add(&format!("{name}.ke1"), &ke1);
    let (challenged, ke2) = server
        .challenge_with(random, user, file, &hash, &ke1)
        .unwrap();
    samples.add(&format!("{name}.ke2"), &ke2);
    let ke3 = login.finish_with(random, user, &hash, &ke2)?;
    samples.add(&format!("{name}.ke3"), &ke3);
    challenged.check(&ke3)
}

#[test]
fn password_samples_agree() {
    let about = "OPAQUE as logins by password use it (docs/protocol-keys.md).\n\
                 All that is drawn is SHA-256(seed || n) for n = 0, 1, ... as 64 bits, highest byte first; each draw of\n\
                 up to 32 bytes takes one block, of more several; first the server's secret, then in the order of the lines.\n\
                 The handshake hash of the logins is 32 bytes a5. right: the password; wrong: another one; nobody: a user\n\
                 that does not exist.";
    let mut samples = Samples::new("password.txt", about);
    let mut random = Seeded { next: 0 };
    let (user, password) = ("bob", b"correct horse");
    samples.add("seed", SEED);
    samples.add("user", user.as_bytes());
    samples.add("password", password);
    let server = Server::generate_with(&mut random);
    samples.add("server_secret", server.to_bytes().as_slice());

    let (registration, request) = Registration::start_with(&mut random, password).unwrap();
    samples.add("registration_request", &request);
    let response = server.register(user, &request).unwrap();
    samples.add("registration_response", &response);
    let file = registration.finish_with(&mut random, user, &response);
    let file = file.unwrap();
    samples.add("registration_record", &file);

    let mut login = |name, user, file, password: &[u8]| {
        let server = (&server, file);
        log_in(&mut samples, &mut random, (name, user), server, password)
    };
    assert_eq!(login("right", user, Some(&file), password), Ok(()));
    let wrong = Err(PasswordError::Wrong);
    assert_eq!(login("wrong", user, Some(&file), b"correct horsf"), wrong);
    assert_eq!(login("nobody", "eve", None, password), wrong);
    samples.check();
}
