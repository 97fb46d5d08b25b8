//! The switches of the stubborn proxy.

use std::time::Duration;

/// Who may come through a proxy that asks for NTLM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Windows domain; compared as it is sent.
    pub domain: String,
    /// User name, in any case.
    pub user: String,
    /// The password.
    pub password: String,
}

/// Where `CONNECT` is allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connects {
    /// Nowhere (403).
    Refused,
    /// Only to port 443 (403 elsewhere).
    Port443,
    /// Anywhere.
    Anywhere,
}

/// What becomes of header fields that are not in [`COMMON`](super::head::COMMON), in requests and in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusual {
    /// They pass.
    Kept,
    /// They are left out.
    Stripped,
    /// Every letter and digit of their values becomes an `x`.
    Corrupted,
}

/// How the proxy behaves. [`Manners::polite`] is a proxy that does nothing wrong; each field makes it worse, and any of
/// them go together. They can be changed while connections are open, and hold from then on for those as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manners {
    /// Keeps every answer back until it is complete. A tunnel (after `CONNECT` or an upgrade) has no end, so what comes
    /// back through it stays in the box until the tunnel closes, as with boxes that search for viruses.
    pub holds_answers: bool,
    /// Keeps every request back until it is complete, and what goes into a tunnel.
    pub holds_requests: bool,
    /// Speaks HTTP/1.0 both ways: one request for each connection, no chunks, 411 for a request without a length.
    pub only_http10: bool,
    /// Refuses methods other than GET and POST (405), and `CONNECT` with them.
    pub only_get_and_post: bool,
    /// Cuts a connection on which no byte of a body has come for so long, also while an answer is waited for.
    pub idle_limit: Option<Duration>,
    /// Cuts every connection when it is so old, whatever is going on.
    pub lifetime: Option<Duration>,
    /// Closes every connection after so many requests, without a word.
    pub requests: Option<u32>,
    /// Delivers each POST of known length twice and passes the second answer on: in turn one after the other, and both
    /// at once.
    pub repeats_posts: bool,
    /// What becomes of header fields that are not common.
    pub unusual: Unusual,
    /// Refuses bodies that are not text, by their media type (415) or their bytes (403); answers too.
    pub only_text: bool,
    /// Passes HTTP upgrades on; otherwise it leaves `Upgrade` out, as nginx does.
    pub upgrades: bool,
    /// Where tunnels may go.
    pub connects: Connects,
    /// Answers everything with 200 and a page of its own, as a captive portal does.
    pub portal: bool,
    /// Answers a GET from its store when it has passed that URL before, whatever `Cache-Control` says.
    pub caches: bool,
    /// Asks for NTLM; the login belongs to a connection.
    pub ntlm: Option<Login>,
}

impl Manners {
    /// Everything passes at once and unchanged.
    pub fn polite() -> Self {
        Self {
            holds_answers: false,
            holds_requests: false,
            only_http10: false,
            only_get_and_post: false,
            idle_limit: None,
            lifetime: None,
            requests: None,
            repeats_posts: false,
            unusual: Unusual::Kept,
            only_text: false,
            upgrades: true,
            connects: Connects::Anywhere,
            portal: false,
            caches: false,
            ntlm: None,
        }
    }

    /// As [`Manners::polite`], without tunnels: what the proxy does not understand does not pass.
    pub fn without_tunnels() -> Self {
        Self {
            upgrades: false,
            connects: Connects::Refused,
            ..Self::polite()
        }
    }
}

/// What the proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections from clients.
    pub connections: u64,
    /// Requests from clients, tunnels included.
    pub requests: u64,
    /// Requests that it answered with a refusal of its own.
    pub refused: u64,
    /// Tunnels, by `CONNECT` or an upgrade.
    pub tunnels: u64,
    /// POSTs that it delivered twice.
    pub repeated: u64,
    /// Connections that it cut for being idle or old, or closed for their number of requests.
    pub cut: u64,
    /// Answers from its store.
    pub cached: u64,
}
