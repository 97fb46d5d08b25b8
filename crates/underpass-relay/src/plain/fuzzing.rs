//! What bare HTTP clients ask, for the fuzzer and for the test that replays its corpus.

use super::ask::{Ask, COOKIE, Parts, ROOT, Unclear, bearer, understand};
use super::token::{TOKEN_LEN, Token};

/// One function of this module.
pub type Target = fn(&[u8]);

/// All of them, by the names of fuzz targets and corpus folders.
pub const TARGETS: &[(&str, Target)] = &[("plain_ask", ask), ("plain_token", token)];

/// A request: method, path with query, and cookies, a line each; the first byte chooses whether the
/// relay lives under a prefix.
pub fn ask(data: &[u8]) {
    let Some((steer, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let prefix = if steer & 1 == 0 { "" } else { "/p" };
    let mut lines = text.split('\n');
    let method = lines.next().unwrap_or_default();
    let target = lines.next().unwrap_or_default();
    let cookies: Vec<&str> = lines.collect();
    match read(prefix, method, target, &cookies) {
        Ok(ask) => check(prefix, &ask),
        Err(why) => {
            let said = why.to_string();
            assert!(!said.contains(char::is_control), "one line: {said}");
            // Whoever is told another method can use it.
            if let Unclear::Method(other) = why {
                let again = read(prefix, other, target, &cookies);
                assert!(!matches!(
                    again,
                    Err(Unclear::Method(_) | Unclear::Elsewhere)
                ));
            }
        }
    }
}

fn read(prefix: &str, method: &str, target: &str, cookies: &[&str]) -> Result<Ask, Unclear> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let parts = Parts {
        method,
        path,
        query,
        cookies,
    };
    understand(prefix, parts)
}

/// What was understood is understood the same when it is asked in our own words, with the session in
/// the path and in a cookie.
fn check(prefix: &str, ask: &Ask) {
    let (method, session, word, query) = match ask {
        Ask::Open { service, once } => {
            assert!(!service.is_empty() && once.len() <= 64);
            let query = format!("service={service}&once={once}");
            ("POST", None, "open", query)
        }
        Ask::Up {
            session,
            offset,
            end,
        } => {
            let end = if *end { "&end=1" } else { "" };
            ("POST", Some(session), "up", format!("offset={offset}{end}"))
        }
        Ask::Down {
            session,
            offset,
            wait,
        } => {
            let wait = wait.map_or(String::new(), |wait| format!("&wait={wait}"));
            (
                "GET",
                Some(session),
                "down",
                format!("offset={offset}{wait}"),
            )
        }
        Ask::Close { session } => ("POST", Some(session), "close", String::new()),
    };
    let Some(session) = session else {
        let again = read(
            prefix,
            method,
            &format!("{prefix}{ROOT}/{word}?{query}"),
            &[],
        );
        return assert_eq!(again.as_ref(), Ok(ask));
    };
    let in_path = format!("{prefix}{ROOT}/{session}/{word}?{query}");
    assert_eq!(read(prefix, method, &in_path, &[]).as_ref(), Ok(ask));
    let without = format!("{prefix}{ROOT}/{word}?{query}");
    let cookie = format!("{COOKIE}={session}");
    assert_eq!(read(prefix, method, &without, &[&cookie]).as_ref(), Ok(ask));
}

/// The value of an `Authorization` header.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(token) = bearer(text) else {
        return;
    };
    let shown = token.to_string();
    assert_eq!(shown.len(), 4 + 2 * TOKEN_LEN);
    assert!(text.contains(&shown), "a token has one form");
    assert!(Token::parse(&shown).as_ref() == Some(&token));
    assert!(bearer(&format!("Bearer {shown}")) == Some(token));
}
