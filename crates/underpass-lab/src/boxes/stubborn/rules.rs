//! What becomes of a request, by its head alone.

use super::body::Framing;
use super::head::{Answer, COMMON, Fields, Request};
use super::manners::{Connects, Manners, Unusual};
use super::ntlm::{Door, Entry};
use super::store::Kept;
use super::text::is_text_type;

/// What is done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It is answered by the box itself; `keeps` is whether the connection is kept.
    Refuse { answer: Own, keeps: bool },
    /// It is a `CONNECT` that is granted.
    Tunnel { to: String },
    /// It goes to this server in this form.
    Pass {
        to: String,
        url: String,
        onward: Request,
    },
}

/// An answer of the box's own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) status: u16,
    reason: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Own {
    /// As it is sent. `head_only` is for a HEAD request.
    pub(super) fn to_bytes(&self, manners: &Manners, keeps: bool, head_only: bool) -> Vec<u8> {
        let mut answer = Answer::own(self.status, &self.reason);
        answer.minor = u8::from(!manners.only_http10);
        answer.fields.0.extend(self.fields.iter().cloned());
        answer
            .fields
            .set("Content-Length", self.body.len().to_string());
        if !keeps {
            answer.fields.set("Connection", "close");
        }
        let mut out = answer.to_bytes();
        if !head_only {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

/// A refusal with a page for people, as proxies send it.
pub(super) fn refusal(status: u16, reason: &str, text: &str) -> Own {
    let page =
        format!("<html><head><title>{reason}</title></head><body><p>{text}</p></body></html>\n");
    Own {
        status,
        reason: reason.into(),
        fields: vec![("Content-Type".into(), "text/html".into())],
        body: page.into_bytes(),
    }
}

/// An answer as it was kept.
pub(super) fn from_store(kept: Kept) -> Own {
    let fields = kept.media_type.map(|kind| ("Content-Type".into(), kind));
    Own {
        status: 200,
        reason: "OK".into(),
        fields: fields
            .into_iter()
            .chain([("Age".into(), "1".into())])
            .collect(),
        body: kept.body,
    }
}

/// Whether the client's connection is kept after the answer.
pub(super) fn keeps(request: &Request, manners: &Manners) -> bool {
    let closes = |name| request.fields.says(name, "close");
    request.minor == 1
        && !manners.only_http10
        && !closes("connection")
        && !closes("proxy-connection")
}

/// Decides. `door` is that of the connection, `onward` the server of a request that names none.
pub(super) fn rule(
    request: &Request,
    framing: Framing,
    manners: &Manners,
    door: &mut Door,
    challenge: [u8; 8],
    onward: Option<&str>,
) -> Ruling {
    let keeps = keeps(request, manners);
    let refuse = |answer: Own| Ruling::Refuse {
        answer,
        keeps: false,
    };
    if manners.portal {
        return refuse(refusal(200, "OK", "Welcome! Log in to use this network."));
    }
    if let Some(login) = &manners.ntlm
        && let Entry::Asked(value) =
            door.knock(request.fields.get("proxy-authorization"), login, challenge)
    {
        let mut answer = refusal(
            407,
            "Proxy Authentication Required",
            "Log in to this proxy.",
        );
        answer.fields.push(("Proxy-Authenticate".into(), value));
        return Ruling::Refuse { answer, keeps };
    }
    let simple = matches!(request.method.as_str(), "GET" | "POST");
    if manners.only_get_and_post && !simple {
        return refuse(refusal(
            405,
            "Method Not Allowed",
            "Only GET and POST pass.",
        ));
    }
    if request.method == "CONNECT" {
        return rule_connect(request, manners);
    }
    if manners.only_http10 && framing == Framing::Chunked {
        return refuse(refusal(411, "Length Required", "Say how long the body is."));
    }
    if manners.only_text && framing != Framing::Empty && !is_text_type(&request.fields) {
        return refuse(refusal(415, "Unsupported Media Type", "Only text passes."));
    }
    let Some((to, path)) = destination(request, onward) else {
        return refuse(refusal(400, "Bad Request", "Say where this is to go."));
    };
    let url = format!("http://{to}{path}");
    let onward = passed_on(request, manners, &to, path);
    Ruling::Pass { to, url, onward }
}

fn rule_connect(request: &Request, manners: &Manners) -> Ruling {
    let to = &request.target;
    let allowed = match manners.connects {
        Connects::Refused => false,
        Connects::Port443 => to.ends_with(":443"),
        Connects::Anywhere => true,
    };
    if allowed && !manners.only_http10 {
        return Ruling::Tunnel { to: to.clone() };
    }
    Ruling::Refuse {
        answer: refusal(403, "Forbidden", "CONNECT is not allowed to there."),
        keeps: false,
    }
}

/// Host with port, and path: of an absolute URL, or of a path to the server behind the box.
fn destination(request: &Request, onward: Option<&str>) -> Option<(String, String)> {
    if request.target.starts_with('/') {
        return Some((onward?.to_owned(), request.target.clone()));
    }
    let rest = request.target.strip_prefix("http://")?;
    let (host, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    Some((host, path))
}

/// The request as the server gets it.
fn passed_on(request: &Request, manners: &Manners, to: &str, path: String) -> Request {
    let mut fields = request.fields.clone();
    let upgrade = fields.get("upgrade").map(str::to_owned);
    fields.drop_hop_by_hop();
    if !request.target.starts_with('/') {
        // The URL decides, whatever Host says (RFC 9112 section 3.2.2).
        fields.set("Host", to);
    }
    treat_fields(&mut fields, manners.unusual);
    fields.set("Via", "1.1 stubborn");
    if manners.only_http10 {
        fields.remove("expect");
        fields.set("Connection", "close");
    }
    if manners.holds_requests || manners.repeats_posts {
        // The server would answer only after the body that waits for that answer. The client goes on by itself.
        fields.remove("expect");
    }
    if let Some(upgrade) = upgrade.filter(|_| manners.upgrades && !manners.only_http10) {
        fields.set("Connection", "Upgrade");
        fields.set("Upgrade", upgrade);
    }
    Request {
        method: request.method.clone(),
        target: path,
        minor: u8::from(!manners.only_http10),
        fields,
    }
}

/// Does to unusual fields what the box does to them.
pub(super) fn treat_fields(fields: &mut Fields, unusual: Unusual) {
    let common = |name: &str| COMMON.contains(&&*name.to_ascii_lowercase());
    match unusual {
        Unusual::Kept => {}
        Unusual::Stripped => fields.0.retain(|(name, _)| common(name)),
        Unusual::Corrupted => {
            let spoil = |c: char| if c.is_ascii_alphanumeric() { 'x' } else { c };
            for (_, value) in fields.0.iter_mut().filter(|(name, _)| !common(name)) {
                *value = value.chars().map(spoil).collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruled(text: &str, manners: &Manners) -> Ruling {
        let (request, _) = Request::parse(text.as_bytes()).unwrap().unwrap();
        let framing = Framing::of_request(&request).unwrap();
        rule(
            &request,
            framing,
            manners,
            &mut Door::default(),
            [0; 8],
            None,
        )
    }

    /// The status of the refusal, or 0.
    fn refused(text: &str, change: impl Fn(&mut Manners)) -> u16 {
        let mut manners = Manners::polite();
        change(&mut manners);
        match ruled(text, &manners) {
            Ruling::Refuse { answer, .. } => answer.status,
            _ => 0,
        }
    }

    #[test]
    fn each_switch_refuses_what_it_says() {
        let get = "GET http://r:8080/ HTTP/1.1\r\nHost: r\r\n\r\n";
        let put = "PUT http://r:8080/ HTTP/1.1\r\n\r\n";
        let connect = "CONNECT r:8080 HTTP/1.1\r\n\r\n";
        let connect_443 = "CONNECT r:443 HTTP/1.1\r\n\r\n";
        let chunked = "POST http://r/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let binary =
            "POST http://r/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Type: binary/tcp\r\n\r\n";
        for text in [get, put, connect, chunked, binary] {
            assert_eq!(refused(text, |_| {}), 0, "{text}");
            assert_eq!(refused(text, |m| m.portal = true), 200, "{text}");
        }
        assert_eq!(refused(get, |m| m.only_get_and_post = true), 0);
        assert_eq!(refused(put, |m| m.only_get_and_post = true), 405);
        assert_eq!(refused(connect, |m| m.only_get_and_post = true), 405);
        assert_eq!(refused(connect, |m| m.connects = Connects::Port443), 403);
        assert_eq!(refused(connect_443, |m| m.connects = Connects::Port443), 0);
        assert_eq!(
            refused(connect_443, |m| m.connects = Connects::Refused),
            403
        );
        assert_eq!(refused(chunked, |m| m.only_http10 = true), 411);
        assert_eq!(refused(binary, |m| m.only_text = true), 415);
        assert_eq!(
            refused("GET /path HTTP/1.1\r\nHost: r\r\n\r\n", |_| {}),
            400
        );
    }

    #[test]
    fn a_request_goes_on_in_the_form_for_servers() {
        let text = "GET http://r:8080/a?b HTTP/1.1\r\nHost: other\r\nX-Odd: ab1-\r\nUpgrade: u\r\n\
                    Connection: Upgrade\r\nProxy-Authorization: secret\r\n\r\n";
        let fields = |change: fn(&mut Manners)| {
            let mut manners = Manners::polite();
            change(&mut manners);
            let Ruling::Pass { to, url, onward } = ruled(text, &manners) else {
                panic!("it passes")
            };
            assert_eq!(
                (&*to, &*url, &*onward.target),
                ("r:8080", "http://r:8080/a?b", "/a?b")
            );
            assert_eq!(onward.fields.get("host"), Some("r:8080"));
            assert_eq!(onward.fields.get("proxy-authorization"), None);
            onward.fields
        };
        assert_eq!(fields(|_| {}).get("x-odd"), Some("ab1-"));
        assert_eq!(fields(|_| {}).get("upgrade"), Some("u"));
        assert_eq!(fields(|m| m.upgrades = false).get("upgrade"), None);
        assert_eq!(fields(|m| m.unusual = Unusual::Stripped).get("x-odd"), None);
        assert_eq!(
            fields(|m| m.unusual = Unusual::Corrupted).get("x-odd"),
            Some("xxx-")
        );
        assert_eq!(
            fields(|m| m.only_http10 = true).get("connection"),
            Some("close")
        );
    }

    #[test]
    fn a_url_without_a_port_or_a_path_has_the_usual_ones() {
        for (target, to, path) in [
            ("http://r", "r:80", "/"),
            ("http://r?q", "r:80", "/?q"),
            ("http://[::1]/x", "[::1]:80", "/x"),
            ("http://r:81/x", "r:81", "/x"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\n\r\n");
            let (request, _) = Request::parse(text.as_bytes()).unwrap().unwrap();
            let found = destination(&request, None).unwrap();
            assert_eq!((&*found.0, &*found.1), (to, path));
        }
    }
}
