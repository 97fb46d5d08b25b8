//! `underpass peers`

use std::time::SystemTime;

use clap::{Args, Subcommand};
use underpass_agent::home::{PinnedPeer, user_pin};
use underpass_agent::status::ask_all;
use underpass_proto::Code;
use underpass_seal::{ComparisonCode, Fingerprint};

use super::{Context, errors};
use crate::failure::Failure;
use crate::output::{Rows, printable};
use crate::settings::{Flags, ToRelay};

/// Whose keys this machine trusts: of those who publish services, and of those who use its own
///
/// The key of a service's publisher is pinned when it is used first, and must not change after that. Columns in a pipe:
/// service or user, name, the key's fingerprint, the relay's fingerprint, since when and how it is known.
#[derive(Debug, Args)]
pub struct Peers {
    #[command(flatten)]
    pub flags: Flags<ToRelay>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (also without a word)
    List,
    /// Trust a key that was got by another way: it takes the place of the one that was pinned
    ///
    /// With the digits of `underpass peers code NAME`, as somebody reads them at the other end, instead of a fingerprint
    /// this says whether they are the same, and remembers that. A relay is asked only for what a short name means. Where
    /// keys were given for a user, services that are published from here take no other machine for that user's,
    /// whatever a relay says
    Trust {
        /// The service; or, with --user, a user of services that are published from here
        name: String,
        /// The fingerprint that `underpass status` shows there, or the code to compare
        key: String,
        /// NAME is a user
        #[arg(long)]
        user: bool,
    },
    /// Forget a key: the next one that is shown is pinned as if for the first time
    Forget {
        /// The service; or, with --user, the user
        name: String,
        /// NAME is a user
        #[arg(long)]
        user: bool,
    },
    /// Show a code over both keys, to be read aloud: 30 digits (99 bits) that are the same at both ends if nobody stands
    /// in between
    ///
    /// Who uses the service says `underpass peers code SERVICE`, who publishes it `underpass peers code --user USER`,
    /// while USER uses a service, or if a key of theirs was trusted. Columns in a pipe: name, fingerprint, code.
    Code {
        /// The service; or, with --user, a user of services that are published from here
        name: String,
        /// NAME is a user
        #[arg(long)]
        user: bool,
    },
}

impl Peers {
    /// Does what was asked.
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        match &self.action {
            None | Some(Action::List) => list(&context),
            Some(Action::Trust { name, key, user }) => {
                let name = Name::new(name, *user);
                trust(&context, &name, key).await
            }
            Some(Action::Forget { name, user }) => forget(&context, &Name::new(name, *user)),
            Some(Action::Code { name, user }) => {
                show_codes(&context, &Name::new(name, *user)).await
            }
        }
    }
}

/// Of whom a command is.
struct Name<'a> {
    text: &'a str,
    user: bool,
}

impl<'a> Name<'a> {
    fn new(text: &'a str, user: bool) -> Self {
        Self { text, user }
    }

    /// Whether a line of the file is about it: a service may be named without what stands behind its name.
    fn is(&self, peer: &PinnedPeer) -> bool {
        if self.user {
            return peer.user() == Some(self.text);
        }
        let longer = || peer.service.strip_prefix(self.text)?.strip_prefix('.');
        peer.user().is_none() && (peer.service == self.text || longer().is_some())
    }

    fn nothing_known(&self) -> Failure {
        let text = self.text;
        let failure = Failure::of_code(Code::NoService, "");
        match self.user {
            true => failure
                .with_what(format!("no key of the user {text} is known here"))
                .with_cause("none was given, and the user uses no service of this machine now")
                .with_next(format!(
                    "let {text} connect to a service first, or: underpass peers trust --user {text} FINGERPRINT"
                )),
            false => failure
                .with_what(format!("no key of the publisher of {text} is known here"))
                .with_cause("the name is misspelt, or the service was not used from here yet")
                .with_next(format!(
                    "underpass connect {text}, or: underpass peers trust {text} FINGERPRINT"
                )),
        }
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let peers = context.home.peers()?;
    let all = peers.with_remarks();
    let kind = |peer: &PinnedPeer| match peer.user() {
        Some(user) => ("user", user.to_owned()),
        None => ("service", peer.service.clone()),
    };
    let cells = all.iter().map(|(peer, remark)| {
        let (kind, name) = kind(peer);
        vec![
            kind.to_owned(),
            name,
            peer.key.to_string(),
            peer.relay.to_string(),
            (*remark).to_owned(),
        ]
    });
    let json = all.iter().map(|(peer, remark)| {
        let (kind, name) = kind(peer);
        serde_json::json!({
            "kind": kind,
            "name": name,
            "key": peer.key.to_string(),
            "relay": peer.relay.to_string(),
            "known": remark,
        })
    });
    context.output.rows(&Rows {
        columns: &["kind", "name", "key", "relay", "known"],
        cells: cells.collect(),
        json: json.collect(),
    })
}

/// Those that are known by a name behind the relay in use.
fn known(context: &Context, name: &Name<'_>) -> Result<Vec<PinnedPeer>, Failure> {
    let relay = context.known_relay()?.key;
    let peers = context.home.peers()?;
    let all = peers.list().into_iter();
    let known = all.filter(|peer| peer.relay == relay && name.is(peer));
    Ok(known.cloned().collect())
}

/// The same, and the machines of a user who uses a service of this machine now.
async fn known_or_there(context: &Context, name: &Name<'_>) -> Result<Vec<PinnedPeer>, Failure> {
    let mut found = known(context, name)?;
    if !name.user {
        return Ok(found);
    }
    let relay = context.known_relay()?.key;
    for agent in ask_all(&context.home).await? {
        let sessions = agent.sessions.iter();
        for session in sessions.filter(|it| it.user.as_deref() == Some(name.text)) {
            let key = session.peer.parse::<Fingerprint>();
            let peer = key.map(|key| PinnedPeer {
                service: user_pin(name.text),
                relay,
                key,
            });
            found.extend(peer.ok().filter(|peer| !found.contains(peer)));
        }
    }
    Ok(found)
}

async fn trust(context: &Context, name: &Name<'_>, key: &str) -> Result<(), Failure> {
    let today = today();
    if let Ok(code) = key.parse::<ComparisonCode>() {
        return compare(context, name, code, &today).await;
    }
    let key: Fingerprint = key.parse().map_err(|error| {
        Failure::usage(format!(
            "{key:?} is neither a fingerprint ({error}) nor a code of 30 digits"
        ))
    })?;
    let service = match name.user {
        true => {
            underpass_proto::names::check(name.text)
                .map_err(|error| Failure::usage(format!("the user {:?}: {error}", name.text)))?;
            user_pin(name.text)
        }
        false => full_name(context, name).await?,
    };
    let relay = context.known_relay()?.key;
    let peer = PinnedPeer {
        service,
        relay,
        key,
    };
    context.home.pin_peer(&peer, &today)?;
    let name = name.text;
    context
        .output
        .message(&format!("from now on {name} is known by the key {key}"));
    Ok(())
}

/// Whether the code that was read aloud is the one of a key that is known here; what is proven so is remembered.
async fn compare(
    context: &Context,
    name: &Name<'_>,
    code: ComparisonCode,
    today: &str,
) -> Result<(), Failure> {
    let own = context.home.fingerprint()?;
    let known = known_or_there(context, name).await?;
    if known.is_empty() {
        return Err(name.nothing_known());
    }
    let same = known
        .iter()
        .find(|peer| ComparisonCode::of(&own, &peer.key) == code);
    let Some(peer) = same else {
        let keys: Vec<String> = known.iter().map(|peer| peer.key.to_string()).collect();
        let text = name.text;
        return Err(Failure::of_code(Code::KeyMismatch, "")
            .with_what(format!(
                "this is not the code of this machine's key and {text}'s, which is known here as {}",
                keys.join(" or ")
            ))
            .with_cause("it was misheard, is of another machine, or somebody stands in between")
            .with_next(
                "compare all of it once more; if it stays another one, do not use the connection",
            ));
    };
    context
        .home
        .pin_peer_as(peer, &format!("compared {today}"))?;
    let text = name.text;
    context
        .output
        .message(&format!("the same: {text} has the key {}", peer.key));
    Ok(())
}

/// The full name of a service: as it is given, as it is pinned, or as the relay says.
async fn full_name(context: &Context, name: &Name<'_>) -> Result<String, Failure> {
    let text = name.text;
    // SERVICE.OWNER and a suffix.
    if text.splitn(3, '.').count() == 3 {
        return Ok(text.to_owned());
    }
    match &known(context, name)?[..] {
        [one] => return Ok(one.service.clone()),
        [] => {}
        several => {
            let all: Vec<&str> = several.iter().map(|peer| &peer.service[..]).collect();
            return Err(Failure::of_code(Code::NameAmbiguous, "")
                .with_what(format!("{text} may be any of {}", all.join(", "))));
        }
    }
    let standing = context.enrolled().await?.standing;
    let resolved = standing.resolve(text).await;
    standing.attachment().detach().await;
    let resolved = resolved
        .map_err(|error| errors::of_request(&error, &format!("cannot find the service {text}")))?;
    let found = PinnedPeer {
        service: resolved.full_name,
        relay: context.known_relay()?.key,
        key: Fingerprint::from_bytes([0; 32]),
    };
    if !name.is(&found) {
        let what = format!(
            "the relay says that {text} is {}",
            printable(&found.service)
        );
        return Err(Failure::of_code(Code::ProtocolViolation, "").with_what(what));
    }
    Ok(found.service)
}

fn forget(context: &Context, name: &Name<'_>) -> Result<(), Failure> {
    let known = known(context, name)?;
    if known.is_empty() {
        return Err(name.nothing_known());
    }
    context.home.forget_peers(&known)?;
    for peer in &known {
        let who = peer.user().unwrap_or(&peer.service);
        context
            .output
            .message(&format!("forgot that {who} has the key {}", peer.key));
    }
    Ok(())
}

async fn show_codes(context: &Context, name: &Name<'_>) -> Result<(), Failure> {
    let own = context.home.fingerprint()?;
    let known = known_or_there(context, name).await?;
    if known.is_empty() {
        return Err(name.nothing_known());
    }
    let codes: Vec<(&str, String, String)> = known
        .iter()
        .map(|peer| {
            let who = peer.user().unwrap_or(&peer.service);
            let code = ComparisonCode::of(&own, &peer.key).to_string();
            (who, peer.key.to_string(), code)
        })
        .collect();
    let cells = codes
        .iter()
        .map(|(who, key, code)| vec![(*who).to_owned(), key.clone(), code.clone()]);
    let json = codes
        .iter()
        .map(|(who, key, code)| serde_json::json!({ "name": who, "key": key, "code": code }));
    context.output.rows(&Rows {
        columns: &["name", "key", "code"],
        cells: cells.collect(),
        json: json.collect(),
    })
}

fn today() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_known_by_the_beginning_of_their_name_and_users_by_all_of_it() {
        let peer = |service: &str| PinnedPeer {
            service: service.into(),
            relay: Fingerprint::from_bytes([1; 32]),
            key: Fingerprint::from_bytes([2; 32]),
        };
        let service = peer("db.alice.underpass.internal");
        for name in ["db", "db.alice", "db.alice.underpass.internal"] {
            assert!(Name::new(name, false).is(&service), "{name}");
            assert!(!Name::new(name, true).is(&service), "{name}");
        }
        for name in ["d", "db.al", "alice", "", "db.bob"] {
            assert!(!Name::new(name, false).is(&service), "{name}");
        }
        let user = peer(&user_pin("bob"));
        assert!(Name::new("bob", true).is(&user));
        for other in [("bob", false), ("user:bob", false), ("bo", true)] {
            assert!(!Name::new(other.0, other.1).is(&user), "{other:?}");
        }
    }
}
