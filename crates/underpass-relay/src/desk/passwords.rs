//! Logging in and registering by name and password.
//!
//! What tells a user who exists from one who does not is looked up in one question to the store, whose answer changes
//! neither what is computed nor what is said; only a proven password learns more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use underpass_proto::Code;
use underpass_proto::control::{
    Challenge, Control, Evaluated, Prove, Register, SetPassword, SignIn,
};
use underpass_seal::password::{self, Challenged, PasswordError, Server};
use underpass_seal::sha256;
use underpass_store::{
    EnrolError, Enrolled, Fault, FaultKind, MachineKey, Name, NewMachine, PasswordFile,
    PasswordSecret, Store, UserId,
};

use super::{Asked, Desk, done, hub_member, new_name, new_user_name};
use crate::attempts::{Attempts, Source};
use crate::clock;
use crate::hub::AttachmentId;
use crate::log::{Kind, Note};
use crate::policy::Standing;
use crate::refusal::Refusal;

/// Logins under way that are remembered, one for each attachment: more than there can be strangers.
const MOST_LOGINS: usize = 4096;
/// What a login by password is called in the log.
const BY_PASSWORD: &str = "password";

/// The relay's side of logins by password.
#[derive(Debug)]
pub(crate) struct Passwords {
    server: Server,
    /// How many users may wait for approval at once, so that strangers cannot fill the store; none where strangers may not
    /// register.
    places: Option<usize>,
    logins: Mutex<BTreeMap<AttachmentId, Login>>,
    attempts: Mutex<Attempts>,
}

/// A login that was challenged.
#[derive(Debug)]
struct Login {
    challenged: Challenged,
    /// Whose it is; `None` where there is no such user, which its proof then cannot be right for.
    user: Option<UserId>,
}

impl Passwords {
    /// Takes up the secret that the store keeps, or has it keep a new one. Strangers may register where there are `places` for
    /// users who wait, and so many of them.
    ///
    /// # Errors
    /// The store cannot be asked, or keeps something else.
    pub(crate) async fn begin(store: &dyn Store, places: Option<usize>) -> Result<Self, Fault> {
        let fresh = PasswordSecret(*Server::generate().to_bytes());
        let kept = store.password_secret(&fresh).await?;
        let server = Server::from_bytes(&kept.0).map_err(|error| Fault {
            place: "with the secret of logins by password".into(),
            kind: FaultKind::Corrupt,
            cause: error.into(),
        })?;
        Ok(Self {
            server,
            places,
            logins: Mutex::default(),
            attempts: Mutex::default(),
        })
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        lock(&self.attempts)
    }

    /// Keeps a login until its proof; an earlier one of the same attachment comes back.
    fn keep(&self, attachment: AttachmentId, login: Login) -> Option<Login> {
        let mut logins = lock(&self.logins);
        let before = logins.insert(attachment, login);
        if logins.len() > MOST_LOGINS {
            logins.pop_first();
        }
        before
    }
}

impl Desk {
    pub(super) async fn sign_in(
        &self,
        asked: &Asked<'_>,
        sign_in: SignIn,
    ) -> Result<Vec<Control>, Refusal> {
        let caller = asked.caller;
        let user = Name::new(&sign_in.user)?;
        let guess = guess(&caller.key, user.as_str());
        self.count_attempt(asked, Some(&guess))?;
        self.count_failed(caller.attachment, Code::WrongPassword)?;
        let known = self.store.password(&user).await?;
        let file = known.as_ref().map(|known| &known.file.0);
        let challenged = self.passwords.server.challenge(
            user.as_str(),
            file,
            &caller.handshake_hash,
            &sign_in.message,
        );
        let (challenged, message) = challenged.map_err(malformed)?;
        let user = known.map(|known| known.user);
        let login = Login { challenged, user };
        let before = self.passwords.keep(caller.attachment, login);
        self.note_unproven(before, caller.address.as_deref());
        let request = sign_in.request;
        Ok(vec![Challenge { request, message }.into()])
    }

    /// An attachment has ended: what it did not prove by now was a guess.
    pub(crate) fn parted(&self, attachment: AttachmentId, address: Option<&str>) {
        let login = lock(&self.passwords.logins).remove(&attachment);
        self.note_unproven(login, address);
    }

    /// A client learns from the challenge that its password is wrong, and sends no proof.
    fn note_unproven(&self, login: Option<Login>, address: Option<&str>) {
        if let Some(login) = login {
            self.log.write(
                Note::new(Kind::LoginRefused)
                    .to(login.challenged.user())
                    .from(address)
                    .with("by", BY_PASSWORD)
                    .with("code", Code::WrongPassword.up()),
            );
        }
    }

    /// Counts a guess at a password, or a registration, and has its source wait where there were too many. A challenge
    /// shows a client whether its password is right, so that whoever guesses sends no proof: each challenge counts
    /// until it is proven. The first answer of a registration counts too, because it says of one password what, with a
    /// single challenge, shows whether it is right.
    fn count_attempt(&self, asked: &Asked<'_>, guess: Option<&[u8; 32]>) -> Result<(), Refusal> {
        let Some(source) = source(asked) else {
            return Ok(());
        };
        let now = clock::now();
        let mut attempts = self.passwords.attempts();
        attempts.admit(source, guess, now).map_err(too_many)?;
        attempts.wrong(source, guess, now);
        Ok(())
    }

    pub(super) async fn prove(
        &self,
        asked: &Asked<'_>,
        prove: Prove,
    ) -> Result<Vec<Control>, Refusal> {
        let request = prove.request;
        let login = lock(&self.passwords.logins).remove(&asked.caller.attachment);
        let user = login.as_ref().map(|it| it.challenged.user().to_owned());
        match self.check_proof(asked, prove, login).await {
            Ok(enrolled) => {
                self.note_enrolled(asked, &enrolled, BY_PASSWORD)?;
                Ok(vec![self.identity(request, Some(&enrolled))])
            }
            Err(why) => {
                self.note_refused(asked, &why, BY_PASSWORD, user.as_deref());
                Err(why)
            }
        }
    }

    async fn check_proof(
        &self,
        asked: &Asked<'_>,
        prove: Prove,
        login: Option<Login>,
    ) -> Result<Enrolled, Refusal> {
        let caller = asked.caller;
        let machine = NewMachine {
            name: new_name(&prove.machine)?,
            key: MachineKey(caller.key),
        };
        let login = login.ok_or_else(|| {
            Refusal::new(
                Code::ProtocolViolation,
                "no login was begun that this could prove",
            )
        })?;
        let guess = guess(&caller.key, login.challenged.user());
        let proven = login.challenged.check(&prove.message);
        let user = proven.ok().and(login.user);
        if let (Some(source), Some(_)) = (source(asked), user) {
            let mut attempts = self.passwords.attempts();
            attempts.take_back(source);
            attempts.right(guess, clock::now());
        }
        let user = user.ok_or_else(|| Refusal::of(Code::WrongPassword))?;
        let enrolled = self.store.enrol_machine(user, &machine, asked.at).await;
        enrolled.map_err(|error| match error {
            // Denied, or gone, since it was challenged.
            EnrolError::NoSuchUser => Refusal::of(Code::WrongPassword),
            error => error.into(),
        })
    }

    pub(super) fn register(
        &self,
        asked: &Asked<'_>,
        standing: &Standing,
        register: &Register,
    ) -> Result<Vec<Control>, Refusal> {
        let user = self.user_to_register(standing, &register.user)?;
        self.count_attempt(asked, None)?;
        if !matches!(standing, Standing::Member(_)) {
            self.count_failed(asked.caller.attachment, Code::WrongPassword)?;
        }
        let answer = self
            .passwords
            .server
            .register(user.as_str(), &register.message);
        let request = register.request;
        let message = answer.map_err(malformed)?;
        Ok(vec![Evaluated { request, message }.into()])
    }

    pub(super) async fn set_password(
        &self,
        asked: &Asked<'_>,
        standing: &Standing,
        set: SetPassword,
    ) -> Result<Vec<Control>, Refusal> {
        let user = self.user_to_register(standing, &set.user)?;
        password::check_file(&set.file).map_err(malformed)?;
        let file = PasswordFile(set.file);
        if let Standing::Member(me) = standing {
            self.store.set_password(me.user.id, &file, asked.at).await?;
            self.log.write(
                Note::new(Kind::Password)
                    .by(me.user.name.as_str())
                    .from(asked.caller.address.as_deref()),
            );
            return Ok(done(set.request));
        }
        let machine = NewMachine {
            name: new_name(&set.machine)?,
            key: MachineKey(asked.caller.key),
        };
        self.count_attempt(asked, None)?;
        let most_waiting = self.passwords.places.unwrap_or_default() as u64;
        let registered = self
            .store
            .register(&user, &file, &machine, most_waiting, asked.at)
            .await;
        let registered = registered.map_err(Refusal::from).inspect_err(|why| {
            self.note_refused(asked, why, "registration", Some(user.as_str()));
        })?;
        let note = Note::new(Kind::Register)
            .by(user.as_str())
            .from(asked.caller.address.as_deref())
            .with("machine", registered.machine.name.as_str());
        self.log.write(note);
        Err(Refusal::of(Code::Waiting))
    }

    /// Whose password a registration is about: a new user's, or the caller's own.
    fn user_to_register(&self, standing: &Standing, user: &str) -> Result<Name, Refusal> {
        match standing {
            Standing::Barred(_, why) => Err(why.clone()),
            Standing::Member(me) if me.user.name.as_str() == user => Ok(me.user.name.clone()),
            Standing::Member(_) => Err(Refusal::new(
                Code::Denied,
                "this machine is enrolled; it may change its own user's password only",
            )),
            Standing::Stranger | Standing::Waiting(_) if self.passwords.places.is_none() => {
                Err(Refusal::new(
                    Code::Denied,
                    "this relay does not let strangers register; ask its manager for an invitation, \
                 then: underpass login RELAY --invite CODE",
                ))
            }
            Standing::Stranger | Standing::Waiting(_) => new_user_name(user),
        }
    }

    /// Tells hub and log of a machine that was enrolled.
    pub(super) fn note_enrolled(
        &self,
        asked: &Asked<'_>,
        enrolled: &Enrolled,
        by: &str,
    ) -> Result<(), Refusal> {
        let member = hub_member(enrolled);
        let attachment = asked.caller.attachment;
        self.switch
            .with_hub(|hub, _| hub.enrolled(attachment, member))?;
        self.log.write(
            Note::new(Kind::Login)
                .by(enrolled.user.name.as_str())
                .from(asked.caller.address.as_deref())
                .with("by", by)
                .with("machine", enrolled.machine.name.as_str()),
        );
        Ok(())
    }
}

/// Where a caller comes from.
fn source(asked: &Asked<'_>) -> Option<Source> {
    let address: SocketAddr = asked.caller.address.as_ref()?.parse().ok()?;
    Some(Source::of(address.ip()))
}

/// What is remembered of a machine that has proven a user's password: it does not wait for others behind the same
/// proxy, but for its own guesses at other users.
fn guess(machine: &[u8; 32], user: &str) -> [u8; 32] {
    sha256(&[machine, user.as_bytes()])
}

fn malformed(error: PasswordError) -> Refusal {
    Refusal::new(Code::ProtocolViolation, error.to_string())
}

fn too_many(wait: Duration) -> Refusal {
    let text = format!(
        "too many wrong passwords or registrations came from this address; try again in {} s",
        wait.as_secs() + 1
    );
    Refusal::new(Code::TooManyAttempts, text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
