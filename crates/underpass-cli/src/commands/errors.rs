//! What the errors of the libraries mean to whoever ran a command.

use underpass_agent::connect::{ListenError, NcError, OpenError};
use underpass_agent::home::HomeError;
use underpass_agent::meet::MeetError;
use underpass_agent::publish::PublishError;
use underpass_agent::{CertificateLoginError, PasswordLoginError, RequestError, StandingError};
use underpass_carrier::IdentityError;
use underpass_endpoint::{AttachError, ChannelError, ConnectError, ControlError};
use underpass_proto::Code;
use underpass_proto::group::GroupError;
use underpass_seal::Fingerprint;
use underpass_seal::password::PasswordError;

use crate::failure::{Failure, LISTEN, NO_PATH};
use crate::output::printable;

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let failure = Self::file(error.to_string());
        match &error {
            HomeError::NoPlace => failure
                .with_cause("the command was started with an empty environment")
                .with_next("set UNDERPASS_HOME to a folder of its own"),
            HomeError::TooOpen { path, .. } => failure
                .with_cause("the file was copied, or its folder restored, without its mode")
                .with_next(format!(
                    "chmod 600 {}; if somebody may have read it, have this machine revoked and log in anew",
                    path.display()
                )),
            _ => failure,
        }
    }
}

/// The relay could not be attached to, or did not let us introduce ourselves.
pub fn of_standing(error: &StandingError, url: &str) -> Failure {
    match error {
        StandingError::Attach(error) => of_attach(error, url),
        StandingError::Request(error) => of_request(error, &format!("cannot use {url}")),
        StandingError::NotEnrolled { .. } => {
            Failure::of_code(Code::NotEnrolled, &format!("cannot use {url}"))
        }
        _ => Failure::of_code(Code::Internal, &error.to_string()),
    }
}

/// The relay could not be attached to, or the attachment ended.
pub fn of_attach(error: &AttachError, url: &str) -> Failure {
    match error {
        AttachError::Unreachable { tried, .. } => Failure::local(
            &NO_PATH,
            format!(
                "cannot reach the relay {url}: {}",
                printable(&tried.join("; "))
            ),
        ),
        AttachError::Barred { error, code, .. } => Failure::of_code(*code, "").with_what(format!(
            "cannot reach the relay {url}: {}",
            printable(&error.to_string())
        )),
        AttachError::RelayKey { expected, seen } => other_key(url, *expected, *seen),
        AttachError::Refused { text, .. } => {
            let failure = Failure::of_code(error.code(), "");
            failure.with_what(format!("the relay {url} refused: {}", printable(text)))
        }
        AttachError::Ended(text) => {
            let failure = Failure::of_code(error.code(), "");
            failure.with_what(format!(
                "the attachment to {url} ended: {}",
                printable(text)
            ))
        }
    }
}

/// The relay has another key than it should.
pub fn other_key(url: &str, expected: Fingerprint, seen: Fingerprint) -> Failure {
    Failure::of_code(Code::KeyMismatch, "")
        .with_what(format!(
            "the relay {url} has the key {seen}, and {expected} was expected"
        ))
        .with_cause("it was installed anew, or somebody stands between this machine and it")
        .with_next(format!(
            "compare with what the relay printed at its start; if the new key is right: \
             underpass login {url}#{seen}"
        ))
}

/// The relay refused a request, or could not be asked.
pub fn of_request(error: &RequestError, trying: &str) -> Failure {
    let failure = Failure::of_code(error.code(), trying);
    match error {
        RequestError::Control(ControlError::Failed { text, .. }) => {
            in_its_words(failure, trying, text)
        }
        RequestError::Control(ControlError::Attach(error)) => {
            of_attach(error, "").with_what(format!("{trying}: {error}"))
        }
        error => failure.with_what(format!("{trying}: {error}")),
    }
}

/// A login or a registration by password failed.
pub fn of_password(error: &PasswordLoginError, trying: &str) -> Failure {
    match error {
        PasswordLoginError::Request(error) => of_request(error, trying),
        PasswordLoginError::Password(PasswordError::Wrong) => {
            Failure::of_code(Code::WrongPassword, trying)
        }
        error => Failure::of_code(error.code(), "").with_what(format!("{trying}: {error}")),
    }
}

/// A login by certificate failed.
pub fn of_certificate(error: &CertificateLoginError, trying: &str) -> Failure {
    match error {
        CertificateLoginError::Request(error) => of_request(error, trying),
        CertificateLoginError::Key(error) => of_certificate_file(error),
        error => Failure::of_code(Code::Internal, "").with_what(format!("{trying}: {error}")),
    }
}

/// A certificate or its key cannot be used.
pub fn of_certificate_file(error: &IdentityError) -> Failure {
    let failure = Failure::file(error.to_string());
    match error {
        IdentityError::Encrypted { path } => failure
            .with_cause("it wants a passphrase, which nobody could give a machine that logs in by itself")
            .with_next(format!(
                "openssl pkey -in {} -out NEW, in a folder that only its user may read; then --key NEW",
                path.display()
            )),
        _ => failure,
    }
}

/// The same failure in the words of the other side, where they say more than the code does.
pub fn in_its_words(failure: Failure, trying: &str, text: &str) -> Failure {
    let general = Code::ALL
        .iter()
        .any(|code| text.starts_with(code.explain().what) || text == code.up());
    if general || text.is_empty() {
        return failure;
    }
    failure.with_what(format!("{trying}: {}", printable(text)))
}

/// A service could not be published.
pub fn of_publish(error: &PublishError) -> Failure {
    of_request(&error.error, &format!("cannot publish {}", error.name))
}

/// A service could not be opened.
pub fn of_open(error: &OpenError, service: &str) -> Failure {
    let trying = format!("cannot connect to {service}");
    match error {
        OpenError::Resolve(error) => of_request(error, &trying),
        OpenError::Connect(ConnectError::NotTrusted(text)) => {
            Failure::of_code(Code::KeyMismatch, &trying)
                .with_what(format!("{trying}: {text}"))
                .with_cause("its machine was installed anew, another machine publishes it, or somebody stands in between")
                .with_next(format!(
                    "ask the owner of {service} for the fingerprint that `underpass status` shows there; \
                     if it is the new one: underpass peers trust {service} FINGERPRINT"
                ))
        }
        OpenError::Connect(ConnectError::Attach(error)) => {
            of_attach(error, "").with_what(format!("{trying}: {error}"))
        }
        OpenError::Connect(ConnectError::Refused { text, .. }) => {
            in_its_words(Failure::of_code(error.code(), &trying), &trying, text)
        }
        OpenError::Misnamed { .. } => {
            let failure = Failure::of_code(error.code(), "");
            failure.with_what(format!("{trying}: {}", printable(&error.to_string())))
        }
        error => Failure::of_code(error.code(), &trying),
    }
}

/// Nobody was met.
pub fn of_meet(error: &MeetError, trying: &str, relay: &str) -> Failure {
    match error {
        // The other side is there or not: this one cannot know.
        MeetError::Refused(RequestError::Control(
            ControlError::TimedOut | ControlError::Lost(_),
        )) => Failure::local(
            &NO_PATH,
            format!("{trying}: the relay {relay} does not respond"),
        ),
        MeetError::Refused(error) => of_request(error, trying),
        MeetError::Attach(error) => of_attach(error, relay),
        MeetError::NotTrusted(text) => Failure::of_code(Code::KeyMismatch, trying)
            .with_what(format!("{trying}: {text}"))
            .with_cause("the user has come by another machine, or installed it anew, or somebody stands in between")
            .with_next(
                "ask the user for the fingerprint that `underpass status` shows there; if it is the new one, add \
                 --peer-key FINGERPRINT to this command",
            ),
        MeetError::Connect(ConnectError::Refused { text, .. }) => {
            in_its_words(Failure::of_code(error.code(), trying), trying, text)
        }
        MeetError::Name(error) => {
            Failure::of_code(Code::NameInvalid, trying).with_what(format!("{trying}: {error}"))
        }
        error => Failure::of_code(error.code(), trying),
    }
}

/// A conversation on standard input and output was broken off.
pub fn of_nc(error: &NcError, service: &str) -> Failure {
    let trying = format!("the connection to {service} broke");
    match error {
        NcError::Channel(error) => {
            let failure = Failure::of_code(error.code(), &trying);
            match error {
                // Who ended it may have said why.
                ChannelError::SessionClosed(closed) => {
                    in_its_words(failure, &trying, &closed.reason)
                }
                _ => failure,
            }
        }
        error => Failure::of_code(Code::Aborted, &trying)
            .with_what(format!("{trying}: {error}"))
            .with_cause("the program that this one was connected to has ended"),
    }
}

/// A list of relays cannot be used, or is not believed.
pub fn of_group(error: &GroupError, place: &str) -> Failure {
    Failure::of_code(error.code(), "").with_what(format!("{place}: {error}"))
}

/// A local address cannot be used.
pub fn of_listen(error: &ListenError) -> Failure {
    Failure::local(&LISTEN, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_other_side_are_used_where_they_say_more() {
        let words = |text: &str| {
            let failure = Failure::of_code(Code::Denied, "cannot x");
            in_its_words(failure, "cannot x", text).what
        };
        let plain = "cannot x: you may not do this";
        assert_eq!(words(&Code::Denied.to_string()), plain);
        assert_eq!(words(""), plain);
        assert_eq!(
            words("only managers\u{1b}[2J may"),
            "cannot x: only managers\u{fffd}[2J may"
        );
    }

    #[test]
    fn a_changed_relay_shows_both_keys_and_the_way_on() {
        let [old, new] = [1, 2].map(|n| Fingerprint::from_bytes([n; 32]));
        let error = AttachError::RelayKey {
            expected: old,
            seen: new,
        };
        let failure = of_attach(&error, "http://r");
        assert_eq!((failure.exit, failure.up), (3, "UP-KEY"));
        assert!(failure.what.contains(&old.to_string()) && failure.what.contains(&new.to_string()));
        assert!(
            failure
                .next
                .contains(&format!("underpass login http://r#{new}"))
        );
    }
}
