//! Proxies by a PAC file: a function in JavaScript that names the way for each address.
//!
//! The script is run by QuickJS; in a process of its own that the kernel confines, where the program
//! has set a worker up, because whoever owns the network writes the script.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_watch::pac::{
    PacEvaluator as _, PacPolicy, PacScript, QuickJsEvaluator, SubprocessEvaluator, sanitize_url,
};
use proxy_watch::{ProxyStep, Url};

use super::Route;
use super::address::{ProxyScheme, ProxyUrl};
use super::error::ProxyError;
use super::fetch;
use crate::tls::TlsRoots;
use crate::url::RelayUrl;

/// How long one evaluation may take, name lookups included.
const EVALUATION_LIMIT: Duration = Duration::from_secs(5);
/// How long a script is used before it is read anew.
const SCRIPT_LIFE: Duration = Duration::from_secs(600);
/// How long an answer is used before the script is asked again.
const ANSWER_LIFE: Duration = Duration::from_secs(60);
/// Ways that are tried from one answer; more are never meant.
pub(super) const MOST_STEPS: usize = 8;

/// Where a PAC file is.
#[derive(Clone, PartialEq, Eq)]
pub enum PacPlace {
    /// On this machine.
    File(PathBuf),
    /// Fetched by HTTP or HTTPS, without a proxy.
    Web(String),
}

impl std::str::FromStr for PacPlace {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        Ok(match lower.strip_prefix("file://") {
            Some(_) => Self::File(text[7..].into()),
            None if lower.starts_with("http://") || lower.starts_with("https://") => {
                Self::Web(text.to_owned())
            }
            None => Self::File(text.into()),
        })
    }
}

impl std::fmt::Display for PacPlace {
    /// An address is shown without user, password and query.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Web(text) => match Url::parse(text) {
                Ok(url) => {
                    let host = url.host_str().unwrap_or_default();
                    write!(f, "{}://{host}{}", url.scheme(), url.path())
                }
                Err(_) => f.write_str("(not an address)"),
            },
        }
    }
}

impl std::fmt::Debug for PacPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A PAC file in use.
#[derive(Debug)]
pub(super) struct Pac {
    place: PacPlace,
    worker: Option<PathBuf>,
    script: tokio::sync::Mutex<Option<(Instant, PacScript)>>,
    answers: Mutex<Vec<(RelayUrl, Instant, Vec<Route>)>>,
}

impl Pac {
    pub(super) fn new(place: PacPlace, worker: Option<PathBuf>) -> Self {
        Self {
            place,
            worker,
            script: tokio::sync::Mutex::default(),
            answers: Mutex::default(),
        }
    }

    fn failed(&self, reason: impl std::fmt::Display) -> ProxyError {
        ProxyError::Pac {
            place: self.place.to_string(),
            reason: reason.to_string(),
        }
    }

    /// The ways to `relay`, in the order to try them.
    pub(super) async fn routes(
        &self,
        relay: &RelayUrl,
        roots: &TlsRoots,
    ) -> Result<Vec<Route>, ProxyError> {
        let known = {
            let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let mut known = answers.iter().filter(|it| it.1.elapsed() < ANSWER_LIFE);
            known.find(|it| it.0 == *relay).map(|it| it.2.clone())
        };
        if let Some(routes) = known {
            return Ok(routes);
        }
        let script = self.script(roots).await?;
        let routes = self.evaluate(script, relay).await?;
        tracing::debug!(place = %self.place, ?routes, "the PAC file has answered");
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|it| it.0 != *relay && it.1.elapsed() < ANSWER_LIFE);
        answers.push((relay.clone(), Instant::now(), routes.clone()));
        Ok(routes)
    }

    async fn script(&self, roots: &TlsRoots) -> Result<PacScript, ProxyError> {
        let mut kept = self.script.lock().await;
        if let Some((read, script)) = &*kept
            && read.elapsed() < SCRIPT_LIFE
        {
            return Ok(script.clone());
        }
        let text = match &self.place {
            PacPlace::File(path) => fetch::file(path).await,
            PacPlace::Web(url) => fetch::web(url, roots).await,
        };
        match (text, &*kept) {
            (Ok(text), _) => {
                let script = PacScript::new(text);
                *kept = Some((Instant::now(), script.clone()));
                Ok(script)
            }
            // Better the old one than none: the server may be unreachable for a while.
            (Err(reason), Some((_, script))) => {
                tracing::warn!(place = %self.place, reason, "cannot read the PAC file anew");
                Ok(script.clone())
            }
            (Err(reason), None) => Err(self.failed(reason)),
        }
    }

    async fn evaluate(
        &self,
        script: PacScript,
        relay: &RelayUrl,
    ) -> Result<Vec<Route>, ProxyError> {
        let worker = self.worker.clone();
        let address = format!(
            "{}://{}{}/",
            relay.scheme().as_str(),
            relay.authority(),
            relay.prefix()
        );
        let url = Url::parse(&address).map_err(|error| self.failed(error))?;
        let host = relay.host().to_owned();
        // Both engines block; they end by their own limits.
        let evaluating = tokio::task::spawn_blocking(move || {
            let url = sanitize_url(&url);
            let policy = PacPolicy::new()
                .with_dns_resolution(true)
                .with_internal_addresses(true)
                .with_timeout(Some(EVALUATION_LIMIT));
            match worker {
                Some(worker) => {
                    SubprocessEvaluator::new(worker, policy).evaluate(&script, &url, &host)
                }
                None => QuickJsEvaluator::new(policy).evaluate(&script, &url, &host),
            }
        });
        let steps = evaluating.await.map_err(|error| self.failed(error))?;
        let steps = steps.map_err(|error| self.failed(error))?;
        let routes = ways(&steps);
        match routes.is_empty() {
            true => Err(self.failed("it names no way that can be gone")),
            false => Ok(routes),
        }
    }
}

/// What can be gone of an answer, in its order.
pub(super) fn ways(steps: &[ProxyStep]) -> Vec<Route> {
    steps.iter().take(MOST_STEPS).filter_map(route).collect()
}

fn route(step: &ProxyStep) -> Option<Route> {
    let (scheme, endpoint) = match step {
        ProxyStep::Direct => return Some(Route::Direct),
        ProxyStep::Http(endpoint) => (ProxyScheme::Http, endpoint),
        ProxyStep::Https(endpoint) => (ProxyScheme::Https, endpoint),
        ProxyStep::Socks5(endpoint) => (ProxyScheme::Socks5, endpoint),
        // SOCKS 4 takes no names.
        _ => return None,
    };
    let text = format!("{}://{}", scheme.as_str(), endpoint.authority());
    text.parse::<ProxyUrl>().ok().map(Route::Proxy)
}

/// Runs one script that another process of this program sends on standard input. To be called before
/// anything else by a program that names itself as the worker; see [`super::ProxySettings`].
#[must_use]
pub fn serve_pac_worker() -> ExitCode {
    proxy_watch::pac::serve_worker()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(script: &str, relay: &str) -> Result<Vec<String>, ProxyError> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("proxy.pac");
        std::fs::write(&path, script).expect("written");
        let pac = Pac::new(PacPlace::File(path), None);
        let relay = relay.parse().expect("valid");
        let routes = pac.routes(&relay, &TlsRoots::default()).await?;
        Ok(routes.iter().map(|route| format!("{route:?}")).collect())
    }

    #[tokio::test]
    async fn answers_are_lists_of_ways() {
        let script = "function FindProxyForURL(url, host) {
            if (shExpMatch(host, '*.inside')) return 'DIRECT';
            if (url.substring(0, 6) == 'https:') return 'HTTPS p:8443; SOCKS5 s:1080';
            return 'PROXY a:1; PROXY [::1]:2; SOCKS4 x:1; DIRECT';
        }";
        assert_eq!(
            ask(script, "http://relay.inside").await.unwrap(),
            ["Direct"]
        );
        assert_eq!(
            ask(script, "https://relay").await.unwrap(),
            ["Proxy(https://p:8443)", "Proxy(socks5://s:1080)"]
        );
        assert_eq!(
            ask(script, "http://relay").await.unwrap(),
            ["Proxy(http://a:1)", "Proxy(http://[::1]:2)", "Direct"]
        );
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_script_is_told() {
        for script in [
            "",
            "function FindProxyForURL( {",
            "function FindProxyForURL() { return 5; }",
        ] {
            let error = ask(script, "http://relay").await.expect_err(script);
            assert!(matches!(error, ProxyError::Pac { .. }), "{error}");
        }
        let pac = Pac::new(PacPlace::File("/nonexistent/proxy.pac".into()), None);
        let relay = "http://relay".parse().expect("valid");
        let error = pac
            .routes(&relay, &TlsRoots::default())
            .await
            .expect_err("missing");
        assert!(
            error.to_string().contains("/nonexistent/proxy.pac"),
            "{error}"
        );
    }

    #[test]
    fn places_are_shown_without_secrets() {
        let place: PacPlace = "http://u:topsecret@config/proxy.pac?key=topsecret"
            .parse()
            .unwrap();
        assert_eq!(
            format!("{place} {place:?}"),
            "http://config/proxy.pac http://config/proxy.pac"
        );
        let place: PacPlace = "file:///etc/proxy.pac".parse().unwrap();
        assert_eq!(place, PacPlace::File("/etc/proxy.pac".into()));
    }
}
