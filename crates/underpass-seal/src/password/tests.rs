use std::collections::HashSet;

use super::*;

const SESSION: [u8; 32] = [7; 32];

fn file_of(server: &Server, user: &str, password: &str) -> PasswordFile {
    let (registration, message) = Registration::start(password.as_bytes()).unwrap();
    let answer = server.register(user, &message).unwrap();
    registration.finish(user, &answer).unwrap()
}

/// A whole login; the user and the session as each end sees them.
fn log_in(
    server: &Server,
    file: Option<&PasswordFile>,
    (near_user, far_user): (&str, &str),
    password: &str,
    (near, far): ([u8; 32], [u8; 32]),
) -> Result<(), PasswordError> {
    let (login, message) = Login::start(password.as_bytes()).unwrap();
    let (challenged, challenge) = server.challenge(far_user, file, &far, &message).unwrap();
    let proof = login.finish(near_user, &near, &challenge)?;
    challenged.check(&proof)
}

#[test]
fn the_right_password_proves_both_ends_and_nothing_else_does() {
    let server = Server::generate();
    let file = file_of(&server, "bob", "correct horse");
    check_file(&file).unwrap();
    let both = ("bob", "bob");
    let here = (SESSION, SESSION);
    let wrong = Err(PasswordError::Wrong);
    assert_eq!(
        log_in(&server, Some(&file), both, "correct horse", here),
        Ok(())
    );
    assert_eq!(
        log_in(&server, Some(&file), both, "correct horsf", here),
        wrong
    );
    assert_eq!(log_in(&server, None, both, "correct horse", here), wrong);
    // Another user's file under this name, and this file under another name.
    let other = file_of(&server, "eve", "correct horse");
    assert_eq!(
        log_in(&server, Some(&other), both, "correct horse", here),
        wrong
    );
    let swapped = ("bob", "eve");
    assert_eq!(
        log_in(&server, Some(&file), swapped, "correct horse", here),
        wrong
    );
    // Passed on by somebody who holds one session with each end.
    let passed_on = (SESSION, [8; 32]);
    assert_eq!(
        log_in(&server, Some(&file), both, "correct horse", passed_on),
        wrong
    );
    // A server that has the file but not the secret.
    let impostor = Server::generate();
    assert_eq!(
        log_in(&impostor, Some(&file), both, "correct horse", here),
        wrong
    );
    // The same server, started anew.
    let again = Server::from_bytes(&server.to_bytes()).unwrap();
    assert_eq!(
        log_in(&again, Some(&file), both, "correct horse", here),
        Ok(())
    );
}

#[test]
fn a_proof_without_the_password_is_wrong_whoever_the_user_is() {
    let server = Server::generate();
    let file = file_of(&server, "bob", "secret");
    for file in [Some(&file), None] {
        let (_, message) = Login::start(b"guess").unwrap();
        let (challenged, _) = server.challenge("bob", file, &SESSION, &message).unwrap();
        assert_eq!(challenged.check(&[3; PROOF_LEN]), Err(PasswordError::Wrong));
    }
}

#[test]
fn an_unknown_user_is_challenged_as_a_known_one_is() {
    let server = Server::generate();
    let file = file_of(&server, "bob", "secret");
    let mut seen = HashSet::new();
    for file in [Some(&file), None] {
        let (_, message) = Login::start(b"guess").unwrap();
        let mut challenges = Vec::new();
        for _ in 0..2 {
            let (_, challenge) = server.challenge("bob", file, &SESSION, &message).unwrap();
            challenges.push(challenge);
            assert!(seen.insert(challenge), "no two challenges are the same");
        }
        // The evaluated element depends on user and message alone: it must not change for either.
        assert_eq!(challenges[0][..32], challenges[1][..32]);
    }
    // And it is the same with a file as without.
    let (_, message) = Login::start(b"guess").unwrap();
    let element =
        |file| server.challenge("bob", file, &SESSION, &message).unwrap().1[..32].to_vec();
    assert_eq!(element(Some(&file)), element(None));
}

#[test]
fn what_is_no_message_is_refused() {
    let server = Server::generate();
    let malformed = PasswordError::Malformed;
    assert_eq!(server.register("bob", &[0xff; 32]).unwrap_err(), malformed);
    assert_eq!(server.register("bob", &[0; 32]).unwrap_err(), malformed);
    let challenged = server.challenge("bob", None, &SESSION, &[0xff; LOGIN_LEN]);
    assert_eq!(challenged.unwrap_err(), malformed);
    assert_eq!(check_file(&[0xff; PASSWORD_FILE_LEN]), Err(malformed));
    assert_eq!(check_file(&[0; PASSWORD_FILE_LEN]), Err(malformed));
    let secret = Server::from_bytes(&[0xff; SERVER_SECRET_LEN]);
    assert_eq!(secret.unwrap_err(), malformed);
    let (registration, _) = Registration::start(b"secret").unwrap();
    assert_eq!(
        registration.finish("bob", &[0xff; 64]).unwrap_err(),
        malformed
    );
    let (login, _) = Login::start(b"secret").unwrap();
    let finished = login.finish("bob", &SESSION, &[0xff; CHALLENGE_LEN]);
    assert_eq!(finished.unwrap_err(), malformed);
    // An element that comes back as it went would tell the sender about itself.
    let (registration, message) = Registration::start(b"secret").unwrap();
    let mut reflected = [0; REGISTERED_LEN];
    reflected[..32].copy_from_slice(&message);
    reflected[32..].copy_from_slice(&message);
    assert_eq!(
        registration.finish("bob", &reflected).unwrap_err(),
        malformed
    );
}

#[test]
fn passwords_have_bounds() {
    for password in [&b""[..], &[b'x'; MAX_PASSWORD + 1]] {
        assert_eq!(Login::start(password).unwrap_err(), PasswordError::Length);
        let registration = Registration::start(password);
        assert_eq!(registration.unwrap_err(), PasswordError::Length);
    }
    assert!(Login::start(&[b'x'; MAX_PASSWORD]).is_ok());
}

#[test]
fn debug_output_holds_no_secret() {
    let server = Server::generate();
    let (login, _) = Login::start(b"secret").unwrap();
    assert_eq!(
        format!("{server:?} {login:?}"),
        "Server { .. } Login { .. }"
    );
}
