//! `underpass login`

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use underpass_agent::home::{Announcement, KnownRelay, TlsCheck};
use underpass_agent::{PasswordLoginError, Standing, StandingError};
use underpass_carrier::x509::OwnCertificate;
use underpass_carrier::{RelayUrl, Scheme, TlsTrust, show_fingerprint};
use underpass_endpoint::AttachError;
use underpass_proto::Code;
use underpass_proto::control::{CodeKind, GroupList, Identity};
use underpass_proto::group::{GroupError, RelayList};
use underpass_seal::{Fingerprint, StaticKey, VerifyingKey};
use zeroize::Zeroizing;

use super::password::{PasswordFrom, Purpose};
use super::{Context, as_name, errors, machine_name, pinned_by, plain_url};
use crate::commands::users::role_word;
use crate::failure::Failure;
use crate::output::printable;
use crate::settings::{Flags, OnLogin, Span, TlsCheckMode};

/// A file with a one-time code is not longer than this, in bytes.
const LONGEST_CODE: u64 = 1024;
/// How often it is looked whether a manager has decided.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Log this machine in to a relay, once
///
/// A fresh relay prints a setup code, with which its first administrator logs in (--setup). Everyone
/// else is invited with `underpass users invite` (--invite), or has a name and a password (--user), or an X.509
/// certificate that the relay accepts (--certificate). Who is new registers (--register) and waits until a manager has
/// approved; until then this exits with 6.
/// A machine that is enrolled already needs neither, for example when the relay got another address.
///
/// The password never leaves this machine: both sides prove that they know it. Of a certificate the key stays here
/// too; a machine that came in by one logs in again with a new one of the same user before the old one ends.
///
/// The relay's key is pinned: by the fingerprint in its address, or at the first use. So is the key of the group of
/// relays that it announces, if it does: which other relays are used is what that key has signed, and nothing else.
#[derive(Debug, Args)]
pub struct Login {
    /// The relay's address: http://HOST[:PORT][/PREFIX][#FINGERPRINT], or https
    #[arg(value_name = "RELAY")]
    relay: RelayUrl,
    /// The setup code that a fresh relay printed
    #[arg(long, value_name = "CODE", group = "code")]
    setup: Option<String>,
    /// The same, from the file that the relay wrote it to; - for standard input
    #[arg(long, value_name = "FILE", group = "code")]
    setup_file: Option<PathBuf>,
    /// The code of an invitation
    #[arg(long, value_name = "CODE", group = "code")]
    invite: Option<String>,
    /// The same, from a file; - for standard input
    #[arg(long, value_name = "FILE", group = "code")]
    invite_file: Option<PathBuf>,
    /// The user to log in as, with a password unless a code is given; if not given, the one invited, or
    /// this system's user for --setup
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Register as a new user, who then waits for a manager's approval
    #[arg(long, requires = "user", conflicts_with = "code")]
    register: bool,
    #[command(flatten)]
    password: PasswordFrom,
    /// An X.509 certificate in PEM that names the user, with those between it and the relay's authority behind it
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with_all = ["code", "user", "password_file"])]
    certificate: Option<PathBuf>,
    /// Its private key in PEM, not encrypted
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// How long to wait for a manager's approval, such as 10m; if not given, not at all
    #[arg(long, value_name = "TIME")]
    wait: Option<Span>,
    /// What this machine is to be called; if not given, its host name
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// The key of the relay's group, if it was learnt from whoever runs the group; it takes the place of the one that
    /// is pinned
    #[arg(long, value_name = "KEY")]
    group: Option<VerifyingKey>,
    #[command(flatten)]
    pub flags: Flags<OnLogin>,
}

/// A standing, and how its relay's certificate is checked from now on.
struct Attached {
    standing: Standing,
    identity: Identity,
    tls: TlsCheck,
}

/// How this machine is to come in.
enum Way {
    /// It is known already.
    Known,
    Code(CodeKind, String),
    Password(String, Zeroizing<Vec<u8>>),
    Register(String, Zeroizing<Vec<u8>>),
    Certificate(OwnCertificate),
}

/// Who came in, and where.
struct LoggedIn {
    relay: KnownRelay,
    identity: Identity,
    /// The relays of its group, as it says.
    announced: Option<GroupList>,
}

impl Login {
    /// Logs in, and remembers the relay.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let mut way = self.way(&context)?;
        let deadline = Instant::now() + self.wait.map_or(Duration::ZERO, |span| span.0);
        let mut told = false;
        loop {
            let failure = match self.attempt(&context, &way, &mut told).await {
                Ok(LoggedIn {
                    relay,
                    identity,
                    announced,
                }) => {
                    context.home.save_relay(&relay)?;
                    take_group(&context, &relay, announced)?;
                    return tell_result(&context, &relay, &identity);
                }
                Err(failure) => failure,
            };
            let waits = failure.up == Code::Waiting.up();
            if matches!(way, Way::Register(..)) && waits {
                // Who is denied meanwhile must not be registered again.
                way = Way::Known;
            }
            if !waits || Instant::now() + LOOK_AGAIN > deadline {
                return Err(failure);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// How this machine is to come in. Asks for a password where one will be needed.
    fn way(&self, context: &Context) -> Result<Way, Failure> {
        if let Some((kind, code)) = self.code()? {
            return Ok(Way::Code(kind, code));
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            let own = OwnCertificate::from_pem_files(certificate, key);
            return own
                .map(Way::Certificate)
                .map_err(|error| errors::of_certificate_file(&error));
        }
        let Some(user) = self.user.clone() else {
            return Ok(Way::Known);
        };
        if self.register {
            let password = self.password.read(&user, Purpose::New)?;
            return Ok(Way::Register(user, password));
        }
        let url = plain_url(&self.relay);
        let known = context.home.relays()?.find(&url).cloned();
        if known.is_some_and(|relay| relay.user == user) && !self.password.is_given() {
            return Ok(Way::Known);
        }
        let password = self.password.read(&user, Purpose::Known)?;
        Ok(Way::Password(user, password))
    }

    /// Attaches and comes in, once.
    async fn attempt(
        &self,
        context: &Context,
        way: &Way,
        told: &mut bool,
    ) -> Result<LoggedIn, Failure> {
        let url = plain_url(&self.relay);
        let pinned = pinned_by(&self.relay)?;
        let before = context.home.relays()?.find(&url).cloned();
        let key = Arc::new(context.home.machine_key()?);
        let expected = pinned.or(before.as_ref().map(|relay| relay.key));
        let Attached {
            standing,
            identity,
            tls,
        } = self.attach(context, expected, key).await?;
        let relay_key = standing.attachment().relay_key().fingerprint();
        if !std::mem::replace(told, true) {
            self.tell_key(context, relay_key, expected, before.as_ref());
        }
        let relay = |identity: &Identity| KnownRelay {
            url: url.clone(),
            key: relay_key,
            tls,
            user: identity.user.clone(),
            machine: identity.machine.clone(),
            group: self.group.or(before.as_ref().and_then(|relay| relay.group)),
            announced_by: None,
        };
        let entered = self.enter(&standing, &identity, way).await;
        let announced = match &entered {
            // Who is let in is so whether or not this can be asked: agents ask again.
            Ok(_) => standing.group().await.ok().flatten(),
            Err(_) => None,
        };
        standing.attachment().detach().await;
        if let (Err(failure), Way::Register(user, _)) = (&entered, way)
            && failure.up == Code::Waiting.up()
        {
            // The relay's key is pinned from now on, and every command says what it waits for.
            let (user, machine) = (user.clone(), self.machine());
            let waiting = Identity {
                user,
                machine,
                ..identity
            };
            context.home.save_relay(&relay(&waiting))?;
        }
        let identity = entered?;
        let relay = relay(&identity);
        Ok(LoggedIn {
            relay,
            identity,
            announced,
        })
    }

    /// Comes in, whichever way.
    async fn enter(
        &self,
        standing: &Standing,
        known: &Identity,
        way: &Way,
    ) -> Result<Identity, Failure> {
        let trying = format!("cannot log in to {}", plain_url(&self.relay));
        let by_password = |error: &PasswordLoginError| errors::of_password(error, &trying);
        let other_user = |user: &str| {
            let what = format!(
                "{trying} as {user}: this machine is enrolled there as {}",
                printable(&known.user)
            );
            let next = "use another home (UNDERPASS_HOME), or have this machine revoked first";
            Failure::of_code(Code::Exists, "")
                .with_what(what)
                .with_next(next)
        };
        match way {
            Way::Code(kind, code) => return self.enrol(standing, *kind, code).await,
            Way::Certificate(certificate) => {
                let certified = standing.certify(certificate, &self.machine()).await;
                return certified.map_err(|error| errors::of_certificate(&error, &trying));
            }
            Way::Password(user, _) | Way::Register(user, _)
                if !known.user.is_empty() && known.user != *user =>
            {
                return Err(other_user(user));
            }
            // Of a machine that is enrolled the password is checked as well.
            Way::Password(user, password) => {
                let signed_in = standing.sign_in(user, password, &self.machine()).await;
                return signed_in.map_err(|error| by_password(&error));
            }
            Way::Register(user, password) => {
                if !known.user.is_empty() && standing.who_am_i().await.is_ok() {
                    let what = format!("{trying}: {user} is registered, and let in");
                    return Err(Failure::of_code(Code::Exists, "")
                        .with_what(what)
                        .with_cause("the registration was approved")
                        .with_next("for another password: underpass users password"));
                }
                let registered = standing.register(user, password, &self.machine()).await;
                registered.map_err(|error| by_password(&error))?;
                let what = format!("{user} is registered, and waits for a manager's approval");
                return Err(Failure::of_code(Code::Waiting, "").with_what(what));
            }
            Way::Known if known.user.is_empty() && self.register => {
                let what = format!("{trying}: a manager has not approved it");
                return Err(Failure::of_code(Code::Denied, "")
                    .with_what(what)
                    .with_cause("a manager of the relay has decided so")
                    .with_next("ask the relay's manager"));
            }
            Way::Known if known.user.is_empty() => {
                let trying = format!("{trying} without a code or a password");
                return Err(Failure::of_code(Code::NotEnrolled, &trying));
            }
            Way::Known => {}
        }
        // Enrolled; perhaps waiting still.
        let identity = standing.who_am_i().await;
        identity.map_err(|error| errors::of_request(&error, &trying))
    }

    fn machine(&self) -> String {
        self.machine.clone().unwrap_or_else(machine_name)
    }

    /// The one-time code, from wherever it was given.
    fn code(&self) -> Result<Option<(CodeKind, String)>, Failure> {
        let (kind, text) = match self {
            Self {
                setup: Some(code), ..
            } => (CodeKind::Setup, code.clone()),
            Self {
                setup_file: Some(file),
                ..
            } => (CodeKind::Setup, read_code(file)?),
            Self {
                invite: Some(code), ..
            } => (CodeKind::Invite, code.clone()),
            Self {
                invite_file: Some(file),
                ..
            } => (CodeKind::Invite, read_code(file)?),
            _ => return Ok(None),
        };
        match text.trim() {
            "" => Err(Failure::usage("the one-time code is empty")),
            code => Ok(Some((kind, code.to_owned()))),
        }
    }

    /// Attaches, and finds out how to check the certificate. Whom we talk to is proven inside, by the
    /// relay's own key, so that any certificate will do to begin with.
    async fn attach(
        &self,
        context: &Context,
        expected: Option<Fingerprint>,
        key: Arc<StaticKey>,
    ) -> Result<Attached, Failure> {
        let url = plain_url(&self.relay);
        let mut reach = context.reach(self.relay.clone(), expected, TlsTrust::System)?;
        let mode = context.settings.tls.0;
        let with_tls = self.relay.scheme() == Scheme::Https;
        if with_tls && mode == TlsCheckMode::Auto {
            // One attempt: a certificate that the system does not know will not become known.
            let patience = std::mem::replace(&mut reach.patience, Duration::ZERO);
            match Standing::attach(&reach, Arc::clone(&key)).await {
                Ok((standing, identity)) => {
                    let tls = TlsCheck::System;
                    return Ok(Attached {
                        standing,
                        identity,
                        tls,
                    });
                }
                Err(StandingError::Attach(
                    AttachError::Unreachable { .. }
                    | AttachError::Barred {
                        code: Code::Certificate,
                        ..
                    },
                )) => reach.patience = patience,
                Err(error) => return Err(errors::of_standing(&error, &url)),
            }
        }
        if with_tls && mode != TlsCheckMode::System {
            reach.client.tls = TlsTrust::AcceptAndReport;
        }
        let attached = Standing::attach(&reach, key).await;
        let (standing, identity) = attached.map_err(|error| errors::of_standing(&error, &url))?;
        let status = standing.attachment().status();
        if let (Some(issuer), TlsTrust::AcceptAndReport) =
            (&status.tls_opened_by, &reach.client.tls)
        {
            context.output.message(&format!(
                "something on the way opens TLS, with a certificate signed by {}, whom this system does not \
                 trust; what is inside stays sealed. If it is your company's box, --ca FILE with its root \
                 certificate makes sure of that",
                printable(issuer)
            ));
        }
        let shown = status.carrier.and_then(|info| info.tls?.certificate_sha256);
        let tls = match (reach.client.tls == TlsTrust::AcceptAndReport, shown) {
            (true, Some(sha256)) => TlsCheck::Pinned(sha256),
            _ => TlsCheck::System,
        };
        Ok(Attached {
            standing,
            identity,
            tls,
        })
    }

    /// Tells what is taken on trust.
    fn tell_key(
        &self,
        context: &Context,
        key: Fingerprint,
        expected: Option<Fingerprint>,
        before: Option<&KnownRelay>,
    ) {
        if expected.is_none() {
            context.output.message(&format!(
                "first use of this relay; its key is {key}\n\
                 compare with what the relay printed at its start; any other key will be refused from now on"
            ));
        }
        if let Some(before) = before.filter(|before| before.key != key) {
            context.output.message(&format!(
                "the relay's key was {} and is now {key}",
                before.key
            ));
        }
    }

    async fn enrol(
        &self,
        standing: &Standing,
        kind: CodeKind,
        code: &str,
    ) -> Result<Identity, Failure> {
        let user = match (&self.user, kind) {
            (Some(user), _) => user.clone(),
            (None, CodeKind::Setup) => system_user(),
            // The invitation names the user.
            (None, CodeKind::Invite) => String::new(),
        };
        let machine = self.machine();
        let trying = format!("cannot log in to {}", plain_url(&self.relay));
        let enrolled = standing.enrol(kind, code, &user, &machine).await;
        enrolled.map_err(|error| {
            let failure = errors::of_request(&error, &trying);
            match error.code() {
                Code::Exists => failure.with_next("choose another name with --machine or --user"),
                _ => failure,
            }
        })
    }
}

/// Believes what the relay announced, or says why not.
fn take_group(
    context: &Context,
    relay: &KnownRelay,
    announced: Option<GroupList>,
) -> Result<(), Failure> {
    let Some(announced) = announced else {
        return Ok(());
    };
    let place = format!("logged in to {}, but not to its group", relay.url);
    let list = RelayList::try_from(announced);
    let list = list.map_err(|error| errors::of_group(&error, &place))?;
    let told = match context.home.take_group(&relay.url, &list, true)? {
        Ok(Announcement::Pinned) => format!(
            "it is one of {} relays of a group, whose key is {}; what another key has signed will be refused from now on",
            list.relays().len(),
            list.group()
        ),
        Ok(_) => return Ok(()),
        // Relays are given a new list one after the other.
        Err(error @ GroupError::Older { .. }) => error.to_string(),
        Err(error) => return Err(errors::of_group(&error, &place)),
    };
    context.output.message(&told);
    Ok(())
}

fn tell_result(context: &Context, relay: &KnownRelay, identity: &Identity) -> Result<(), Failure> {
    if let TlsCheck::Pinned(sha256) = &relay.tls {
        context.output.message(&format!(
            "the system does not vouch for the relay's certificate; pinned: {}",
            show_fingerprint(sha256)
        ));
    }
    let [user, machine] = [&identity.user, &identity.machine].map(|text| printable(text));
    let role = role_word(identity.role);
    let relays = context.home.relays()?;
    let group = relays.find(&relay.url).and_then(|relay| relay.group);
    context.output.result(
        &format!(
            "logged in to {} as {user} ({role}), this machine being {machine}",
            relay.url
        ),
        &serde_json::json!({
            "relay": relay.url,
            "key": relay.key.to_string(),
            "user": user,
            "machine": machine,
            "role": role,
            "group": group.map(|group| group.to_string()),
        }),
    )
}

fn read_code(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LONGEST_CODE)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LONGEST_CODE).read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::file(format!(
            "cannot read the code from {}: {error}",
            path.display()
        ))
    })?;
    // Nothing but the code may be told by an error later on.
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The user of this system, as far as that can be a name.
fn system_user() -> String {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|name| as_name(&std::env::var(name).ok()?))
        .unwrap_or_else(|| "admin".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("code");
        std::fs::write(&file, "abcd-efgh\nmore\n").unwrap();
        assert_eq!(read_code(&file).unwrap(), "abcd-efgh");
        std::fs::write(&file, "").unwrap();
        assert_eq!(read_code(&file).unwrap(), "");
        assert_eq!(read_code(&dir.path().join("none")).unwrap_err().exit, 1);
    }
}
