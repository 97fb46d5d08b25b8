//! Who asks: one proxy's wish to know it, and what each connection has told it so far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::ProxyAsks;
use super::address::ProxyUrl;
use super::challenge::Challenge;
use super::credentials::Credentials;
use super::digest::DigestChallenge;
use super::error::ProxyError;
use super::negotiate::Negotiate;
use super::ntlm::Ntlm;

/// Credentials that a proxy has refused are not shown to it again for so long: repeated attempts
/// lock accounts in many companies.
const REFUSED_FOR: Duration = Duration::from_secs(300);
/// How long it is remembered that a proxy refuses CONNECT to the relay.
const CONNECT_REFUSED_FOR: Duration = Duration::from_secs(600);
/// Seconds from 1601, where Windows begins to count, to 1970.
const EPOCH_OFFSET_S: u64 = 11_644_473_600;

/// A way to say who asks, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Negotiate,
    Ntlm,
    Digest,
    Basic,
}

const BY_STRENGTH: [Scheme; 4] = [
    Scheme::Negotiate,
    Scheme::Ntlm,
    Scheme::Digest,
    Scheme::Basic,
];

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Negotiate => "Negotiate",
            Self::Ntlm => "NTLM",
            Self::Digest => "Digest",
            Self::Basic => "Basic",
        }
    }
}

/// What is known about a proxy's wishes.
#[derive(Debug, Clone, Default)]
enum Wish {
    /// Nothing was asked of it yet.
    #[default]
    Unknown,
    /// It lets requests pass without credentials.
    Nothing,
    Basic,
    Digest(DigestChallenge),
    /// Each connection begins with an exchange of its own.
    Bound(Scheme),
}

#[derive(Debug, Default)]
struct Known {
    wish: Wish,
    credentials: Option<Credentials>,
    refused: Option<(Instant, &'static str)>,
    connect_refused: Option<(Instant, u16)>,
    /// The schemes of the last challenge.
    offered: Vec<String>,
}

/// One proxy, as all carriers of a program know it.
#[derive(Debug)]
pub(crate) struct Gate {
    proxy: ProxyUrl,
    known: Mutex<Known>,
    /// Held by the first connection until it knows what the proxy wants.
    pub(crate) asking: tokio::sync::Mutex<()>,
    /// Held while somebody is asked for credentials; true once there was no answer.
    pub(super) prompting: tokio::sync::Mutex<bool>,
}

impl Gate {
    pub(crate) fn new(proxy: ProxyUrl, credentials: Option<Credentials>) -> Self {
        Self {
            proxy,
            known: Mutex::new(Known {
                credentials,
                ..Known::default()
            }),
            asking: tokio::sync::Mutex::default(),
            prompting: tokio::sync::Mutex::default(),
        }
    }

    /// The proxy.
    pub(crate) fn proxy(&self) -> &ProxyUrl {
        &self.proxy
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing was asked of the proxy yet.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.known().wish, Wish::Unknown)
    }

    /// What it was seen to ask; none before it was used.
    pub(super) fn asks(&self) -> Option<ProxyAsks> {
        let known = self.known();
        let accepted = match &known.wish {
            Wish::Unknown if known.offered.is_empty() => return None,
            Wish::Unknown | Wish::Nothing => None,
            Wish::Basic => Some(Scheme::Basic.name()),
            Wish::Digest(_) => Some(Scheme::Digest.name()),
            Wish::Bound(scheme) => Some(scheme.name()),
        };
        let offered = known.offered.clone();
        Some(ProxyAsks { offered, accepted })
    }

    /// Whether a connection must say who it is before it carries a request that cannot be repeated.
    pub(crate) fn wants_exchange(&self) -> bool {
        matches!(self.known().wish, Wish::Unknown | Wish::Bound(_))
    }

    /// The credentials to be shown, unless they were refused a short while ago.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>, ProxyError> {
        let known = self.known();
        match known.refused {
            Some((at, scheme)) if at.elapsed() < REFUSED_FOR => Err(self.wrong(scheme)),
            _ => Ok(known.credentials.clone()),
        }
    }

    /// Takes other credentials, which were not refused yet.
    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        let mut known = self.known();
        known.credentials = Some(credentials);
        known.refused = None;
    }

    /// The status with which CONNECT was refused a short while ago.
    pub(crate) fn connect_refused(&self) -> Option<u16> {
        let (at, status) = self.known().connect_refused?;
        (at.elapsed() < CONNECT_REFUSED_FOR).then_some(status)
    }

    /// Remembers that CONNECT was refused.
    pub(crate) fn set_connect_refused(&self, status: u16) {
        self.known().connect_refused = Some((Instant::now(), status));
    }

    fn refuse(&self, scheme: Scheme) -> ProxyError {
        self.refused_by(scheme.name())
    }

    /// A SOCKS proxy does not take the password.
    pub(super) fn refuse_password(&self) -> ProxyError {
        self.refused_by("user name and password")
    }

    fn refused_by(&self, scheme: &'static str) -> ProxyError {
        let mut known = self.known();
        known.refused = Some((Instant::now(), scheme));
        known.wish = Wish::Unknown;
        drop(known);
        self.wrong(scheme)
    }

    fn wrong(&self, scheme: &'static str) -> ProxyError {
        ProxyError::WrongCredentials {
            proxy: self.proxy.to_string(),
            scheme,
        }
    }
}

/// What the last request on a connection said.
#[derive(Debug)]
enum Said {
    Nothing,
    Basic,
    /// `known` says that the challenge was an older one, so that it may be used up.
    Digest {
        challenge: DigestChallenge,
        known: bool,
    },
    NtlmFirst(Ntlm),
    NtlmLast,
    Negotiate(Box<Negotiate>),
}

/// What the next request says.
#[derive(Debug)]
enum Next {
    /// What the proxy is known to want.
    AsKnown,
    /// This.
    Value(Zeroizing<String>),
    Digest(DigestChallenge),
    /// Nothing: this connection has said enough.
    Nothing,
}

/// One connection's part in it.
#[derive(Debug)]
pub(crate) struct Authenticator {
    gate: Arc<Gate>,
    said: Said,
    next: Next,
    /// Whether the next answer only counts on the connection that the challenge came on.
    bound: bool,
    /// Schemes that turned out not to work.
    given_up: Vec<(Scheme, String)>,
}

impl Authenticator {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            said: Said::Nothing,
            next: Next::AsKnown,
            bound: false,
            given_up: Vec::new(),
        }
    }

    /// The proxy that is spoken to.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The value of `Proxy-Authorization` for the next request, or none.
    ///
    /// # Errors
    /// The credentials were refused a short while ago.
    pub(crate) async fn authorization(
        &mut self,
        method: &str,
        uri: &str,
    ) -> Result<Option<HeaderValue>, ProxyError> {
        let value = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => return Ok(self.say_nothing()),
            Next::Value(value) => value,
            Next::Digest(challenge) => self.answer_digest(challenge, false, (method, uri))?,
            Next::AsKnown => {
                self.next = Next::AsKnown;
                let wish = self.gate.known().wish.clone();
                match wish {
                    Wish::Unknown | Wish::Nothing => return Ok(self.say_nothing()),
                    Wish::Basic => self.basic()?,
                    Wish::Digest(challenge) => {
                        self.answer_digest(challenge, true, (method, uri))?
                    }
                    Wish::Bound(scheme) => match self.begin_bound(scheme).await? {
                        Some(value) => value,
                        None => return Ok(self.say_nothing()),
                    },
                }
            }
        };
        let mut value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| self.broken("its challenge cannot be answered in a header"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// The answer to what was said before may never have come, because the connection was cut. Whoever then asks a
    /// request that says nothing has not refused anything.
    fn say_nothing(&mut self) -> Option<HeaderValue> {
        self.said = Said::Nothing;
        None
    }

    /// There was no answer to the last request, because its connection had ended: what it said was not
    /// heard, and is said again by the next one. Otherwise the next challenge would count as a refusal
    /// of credentials that were never shown.
    pub(crate) fn unheard(&mut self) {
        self.next = match std::mem::replace(&mut self.said, Said::Nothing) {
            Said::Nothing => return,
            // Without credentials there is nothing to say, and the proxy asks again.
            Said::Basic => self.basic().map_or(Next::AsKnown, Next::Value),
            Said::Digest {
                challenge,
                known: false,
            } => Next::Digest(challenge),
            Said::NtlmFirst(_) => Next::Value(self.begin_ntlm()),
            Said::Digest { .. } | Said::NtlmLast | Said::Negotiate(_) => Next::AsKnown,
        };
    }

    /// The proxy has answered 401, which is a server's to say. tinyproxy says it of a wrong password
    /// all the same; a tunnel has nobody else to say it, and no server behind a proxy wants anything
    /// of a carrier.
    ///
    /// # Errors
    /// The credentials are wrong: they were shown, and had not let anything pass before.
    pub(crate) fn unauthorized(&mut self) -> Result<(), ProxyError> {
        let proven = matches!(self.gate.known().wish, Wish::Basic);
        match self.said {
            Said::Basic if !proven => Err(self.gate.refuse(Scheme::Basic)),
            _ => Ok(()),
        }
    }

    /// An answer other than 407 came: the proxy has let the request pass.
    pub(crate) fn accepted(&mut self) {
        let mut known = self.gate.known();
        self.next = Next::AsKnown;
        match std::mem::replace(&mut self.said, Said::Nothing) {
            Said::Nothing => {
                if matches!(known.wish, Wish::Unknown) {
                    known.wish = Wish::Nothing;
                }
            }
            Said::Basic => known.wish = Wish::Basic,
            Said::Digest {
                challenge,
                known: false,
            } => known.wish = Wish::Digest(challenge),
            // Counted when it was made.
            Said::Digest { .. } => {}
            Said::NtlmFirst(_) | Said::NtlmLast => {
                known.wish = Wish::Bound(Scheme::Ntlm);
                self.next = Next::Nothing;
            }
            Said::Negotiate(_) => {
                known.wish = Wish::Bound(Scheme::Negotiate);
                self.next = Next::Nothing;
            }
        }
    }

    /// The proxy has answered 407. With `Ok`, the request is to be sent again; whether that can be on
    /// another connection says [`Authenticator::is_bound`].
    ///
    /// # Errors
    /// The credentials are wrong or missing, or nothing that the proxy offers can be done.
    pub(crate) async fn challenged(&mut self, challenges: &[Challenge]) -> Result<(), ProxyError> {
        self.bound = false;
        self.gate.known().offered = challenges.iter().map(|it| it.scheme.clone()).collect();
        let token = |scheme: Scheme| {
            let name = scheme.name().to_ascii_lowercase();
            let found = challenges.iter().find(|it| it.scheme == name)?;
            STANDARD.decode(found.token.as_deref()?).ok()
        };
        match std::mem::replace(&mut self.said, Said::Nothing) {
            Said::Nothing => {}
            Said::Basic => return Err(self.gate.refuse(Scheme::Basic)),
            Said::Digest { challenge, known } => {
                let new = DigestChallenge::strongest(challenges);
                return match new {
                    Some(new) if new.stale || (known && !new.same_nonce(&challenge)) => {
                        self.next = Next::Digest(new);
                        Ok(())
                    }
                    _ => Err(self.gate.refuse(Scheme::Digest)),
                };
            }
            Said::NtlmFirst(ntlm) => match token(Scheme::Ntlm) {
                Some(challenge) => return self.answer_ntlm(ntlm, &challenge),
                None => self.give_up(Scheme::Ntlm, "the proxy broke the exchange off"),
            },
            Said::NtlmLast => return Err(self.gate.refuse(Scheme::Ntlm)),
            Said::Negotiate(context) => match token(Scheme::Negotiate) {
                Some(answer) => {
                    let step = context.step(answer).await;
                    let (context, token) = step.map_err(|reason| self.broken(&reason))?;
                    self.bound = true;
                    self.next = Next::Value(self.say_token(context, &token));
                    return Ok(());
                }
                None => self.give_up(Scheme::Negotiate, "the proxy does not accept the ticket"),
            },
        }
        self.choose(challenges).await
    }

    /// Whether the exchange under way ends with its connection.
    pub(crate) fn is_bound(&self) -> bool {
        self.bound
    }

    /// The strongest scheme that is offered and can be done.
    async fn choose(&mut self, challenges: &[Challenge]) -> Result<(), ProxyError> {
        for scheme in BY_STRENGTH {
            let name = scheme.name().to_ascii_lowercase();
            let offered = challenges.iter().any(|it| it.scheme == name);
            if !offered || self.given_up.iter().any(|(tried, _)| *tried == scheme) {
                continue;
            }
            match scheme {
                Scheme::Negotiate => {
                    let host = self.gate.proxy.host().to_owned();
                    match Negotiate::begin(host).await {
                        Ok((context, token)) => {
                            self.next = Next::Value(self.say_token(context, &token));
                            return Ok(());
                        }
                        Err(reason) => self.give_up(scheme, reason),
                    }
                }
                Scheme::Digest => match DigestChallenge::strongest(challenges) {
                    Some(challenge) => {
                        self.needed(challenges)?;
                        self.next = Next::Digest(challenge);
                        return Ok(());
                    }
                    None => self.give_up(scheme, "it asks for a kind of Digest that is not known"),
                },
                Scheme::Basic => {
                    self.needed(challenges)?;
                    self.next = Next::Value(self.basic()?);
                    return Ok(());
                }
                Scheme::Ntlm => {
                    self.needed(challenges)?;
                    self.next = Next::Value(self.begin_ntlm());
                    return Ok(());
                }
            }
        }
        let reasons = self.given_up.iter().map(|(scheme, reason)| {
            let name = scheme.name();
            format!("{name}: {reason}")
        });
        let reasons: Vec<_> = reasons.collect();
        Err(ProxyError::NoScheme {
            proxy: self.gate.proxy.to_string(),
            offered: offers(challenges),
            reason: match reasons.is_empty() {
                true => "these schemes are not known here".to_owned(),
                false => reasons.join("; "),
            },
        })
    }

    /// The credentials, which a scheme cannot do without.
    fn needed(&self, challenges: &[Challenge]) -> Result<Credentials, ProxyError> {
        self.gate
            .credentials()?
            .ok_or_else(|| ProxyError::NeedsCredentials {
                proxy: self.gate.proxy.to_string(),
                offered: offers(challenges),
            })
    }

    /// The same where the proxy is known to want them.
    fn known_credentials(&self) -> Result<Credentials, ProxyError> {
        self.needed(&[])
    }

    fn basic(&mut self) -> Result<Zeroizing<String>, ProxyError> {
        let who = self.known_credentials()?;
        // RFC 7617 section 2.
        let pair = Zeroizing::new(format!("{}:{}", who.user(), who.password()));
        let coded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        self.said = Said::Basic;
        Ok(Zeroizing::new(format!("Basic {}", *coded)))
    }

    fn answer_digest(
        &mut self,
        mut challenge: DigestChallenge,
        known: bool,
        (method, uri): (&str, &str),
    ) -> Result<Zeroizing<String>, ProxyError> {
        let who = self.known_credentials()?;
        let mut shared = self.gate.known();
        let answer = match &mut shared.wish {
            // All connections count on one nonce.
            Wish::Digest(shared) if known => shared.answer(&who, method, uri, rand::random()),
            _ => challenge.answer(&who, method, uri, rand::random()),
        };
        drop(shared);
        self.said = Said::Digest { challenge, known };
        self.next = Next::AsKnown;
        Ok(answer)
    }

    fn begin_ntlm(&mut self) -> Zeroizing<String> {
        let (ntlm, first) = Ntlm::begin();
        self.said = Said::NtlmFirst(ntlm);
        Zeroizing::new(format!("NTLM {}", STANDARD.encode(first)))
    }

    fn answer_ntlm(&mut self, ntlm: Ntlm, challenge: &[u8]) -> Result<(), ProxyError> {
        let who = self.known_credentials()?;
        let answer = ntlm
            .answer(challenge, &who, rand::random(), windows_time())
            .map_err(|error| self.broken(&error.to_string()))?;
        let coded = Zeroizing::new(STANDARD.encode(&*answer));
        self.next = Next::Value(Zeroizing::new(format!("NTLM {}", *coded)));
        self.said = Said::NtlmLast;
        self.bound = true;
        Ok(())
    }

    /// A new connection to a proxy that wants an exchange on each.
    async fn begin_bound(
        &mut self,
        scheme: Scheme,
    ) -> Result<Option<Zeroizing<String>>, ProxyError> {
        if scheme == Scheme::Ntlm {
            self.known_credentials()?;
            return Ok(Some(self.begin_ntlm()));
        }
        match Negotiate::begin(self.gate.proxy.host().to_owned()).await {
            Ok((context, token)) => Ok(Some(self.say_token(context, &token))),
            // The ticket has expired: let the proxy ask, and see what else it offers.
            Err(reason) => {
                self.give_up(scheme, reason);
                Ok(None)
            }
        }
    }

    fn say_token(&mut self, context: Negotiate, token: &[u8]) -> Zeroizing<String> {
        let coded = Zeroizing::new(STANDARD.encode(token));
        self.said = Said::Negotiate(Box::new(context));
        Zeroizing::new(format!("Negotiate {}", *coded))
    }

    fn give_up(&mut self, scheme: Scheme, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::debug!(proxy = %self.gate.proxy, scheme = scheme.name(), reason, "not used");
        self.given_up.push((scheme, reason));
    }

    fn broken(&self, reason: &str) -> ProxyError {
        ProxyError::Broken {
            proxy: self.gate.proxy.to_string(),
            reason: reason.to_owned(),
        }
    }
}

/// The names of what is offered, as people write them.
fn offers(challenges: &[Challenge]) -> String {
    if challenges.is_empty() {
        return "what it offered before".to_owned();
    }
    let shown = challenges.iter().map(|challenge| {
        let known = BY_STRENGTH
            .iter()
            .find(|it| it.name().eq_ignore_ascii_case(&challenge.scheme));
        known.map_or(challenge.scheme.as_str(), |it| it.name())
    });
    let mut shown: Vec<_> = shown.collect();
    shown.dedup();
    shown.join(", ")
}

/// Now, as Windows counts: units of 100 ns since 1601.
fn windows_time() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let units = (since.as_secs() + EPOCH_OFFSET_S).saturating_mul(10_000_000);
    units + u64::from(since.subsec_nanos() / 100)
}

#[cfg(test)]
mod tests {
    use super::super::challenge::parse_challenges;
    use super::*;

    /// A challenge of NTLM that says nothing about the server ([MS-NLMP] section 2.2.1.2).
    fn ntlm_challenge() -> String {
        let unicode_and_ntlm = 0x0000_0201u32.to_le_bytes();
        let head = [&b"NTLMSSP\0"[..], &2u32.to_le_bytes(), &[0; 8]].concat();
        let message = [&head[..], &unicode_and_ntlm, &[7; 8], &[0; 24]].concat();
        format!("NTLM {}", STANDARD.encode(message))
    }

    async fn asked(auth: &mut Authenticator, challenge: &str) -> Result<(), ProxyError> {
        auth.challenged(&parse_challenges(challenge)).await
    }

    async fn says(auth: &mut Authenticator) -> Option<HeaderValue> {
        let value = auth.authorization("GET", "http://relay/").await;
        value.expect("nothing was refused")
    }

    /// Whatever the scheme, and however far the exchange is when the connection is cut.
    #[tokio::test]
    async fn an_exchange_that_was_cut_off_is_no_refusal() {
        let ntlm = ntlm_challenge();
        let digest = r#"Digest realm="r", nonce="n", qop="auth", algorithm=MD5"#;
        let exchanges: [&[&str]; 4] = [
            &[r#"Basic realm="r""#],
            &[digest],
            &["NTLM"],
            &["NTLM", &ntlm],
        ];
        for exchange in exchanges {
            let proxy = "http://proxy:3128".parse().expect("valid");
            let credentials = Credentials::new("anna", "secret");
            let gate = Arc::new(Gate::new(proxy, Some(credentials)));
            let mut auth = Authenticator::new(gate);
            assert!(says(&mut auth).await.is_none());
            for challenge in exchange {
                asked(&mut auth, challenge)
                    .await
                    .expect("it has credentials");
                assert!(says(&mut auth).await.is_some(), "{challenge}");
            }
            // The answer is lost. On the next connection the proxy asks from the beginning.
            assert!(says(&mut auth).await.is_none(), "{exchange:?}");
            let again = asked(&mut auth, exchange[0]).await;
            again.unwrap_or_else(|error| panic!("{exchange:?}: {error}"));
            // A refusal is one all the same.
            for challenge in &exchange[1..] {
                assert!(says(&mut auth).await.is_some());
                asked(&mut auth, challenge)
                    .await
                    .expect("it has credentials");
            }
            assert!(says(&mut auth).await.is_some());
            if exchange != ["NTLM"] {
                let refused = asked(&mut auth, exchange[0]).await;
                assert!(matches!(refused, Err(ProxyError::WrongCredentials { .. })));
            }
        }
    }
}
