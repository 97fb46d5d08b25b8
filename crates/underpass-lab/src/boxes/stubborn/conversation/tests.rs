//! The box's behaviour with a virtual clock and no sockets.

use super::*;
use crate::boxes::stubborn::manners::{Connects, Login, Unusual};

/// A conversation, and what it has commanded so far.
struct Rig {
    shared: Shared,
    conversation: Conversation,
    now: Duration,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    dialled: Vec<String>,
    delivered: Vec<(Vec<u8>, bool)>,
    end: Option<Command>,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Manners)) -> Self {
        let mut manners = Manners::polite();
        change(&mut manners);
        let shared = Shared {
            manners,
            store: Store::default(),
            tally: Tally::default(),
        };
        Self {
            shared,
            conversation: Conversation::new(Duration::ZERO, None, [1; 8]),
            now: Duration::ZERO,
            to_client: Vec::new(),
            to_server: Vec::new(),
            dialled: Vec::new(),
            delivered: Vec::new(),
            end: None,
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        for command in self.conversation.step(self.now, event, &mut self.shared) {
            assert!(self.end.is_none(), "{command:?} after the end");
            match command {
                Command::Connect(to) => self.dialled.push(to),
                Command::ToServer(bytes) => self.to_server.extend(bytes),
                Command::ToClient(bytes) => self.to_client.extend(bytes),
                Command::Deliver {
                    request, beside, ..
                } => self.delivered.push((request, beside)),
                end => self.end = Some(end),
            }
        }
    }

    /// The client sends; what the server gets now.
    fn client(&mut self, text: &str) -> String {
        self.event(&Event::Client(text.as_bytes()));
        text_of(&mut self.to_server)
    }

    /// The server sends; what the client gets now.
    fn server(&mut self, text: &str) -> String {
        self.event(&Event::Server(text.as_bytes()));
        text_of(&mut self.to_client)
    }

    /// The client sends; what the client gets now.
    fn answered(&mut self, text: &str) -> String {
        self.event(&Event::Client(text.as_bytes()));
        text_of(&mut self.to_client)
    }

    fn change(&mut self, change: impl FnOnce(&mut Manners)) -> String {
        change(&mut self.shared.manners);
        self.event(&Event::Time);
        text_of(&mut self.to_client)
    }

    fn pass(&mut self, seconds: u64) -> Option<&Command> {
        self.now += Duration::from_secs(seconds);
        self.event(&Event::Time);
        self.end.as_ref()
    }
}

fn text_of(bytes: &mut Vec<u8>) -> String {
    String::from_utf8(std::mem::take(bytes)).unwrap()
}

const GET: &str = "GET http://r:8080/a HTTP/1.1\r\nHost: r:8080\r\n\r\n";
const POST: &str =
    "POST http://r:8080/a HTTP/1.1\r\nHost: r:8080\r\nContent-Length: 5\r\n\r\nhello";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_polite_proxy_passes_everything_at_once_and_keeps_connections() {
    let mut rig = Rig::new(|_| {});
    for _ in 0..3 {
        let onward = rig.client(GET);
        assert_eq!(
            onward,
            "GET /a HTTP/1.1\r\nHost: r:8080\r\nVia: 1.1 stubborn\r\n\r\n"
        );
        assert_eq!(rig.server(CHUNKED), CHUNKED);
        assert_eq!(rig.server("3\r\none\r\n"), "3\r\none\r\n");
        assert_eq!(rig.server("0\r\n\r\n"), "0\r\n\r\n");
    }
    let chunked = POST.replace("Content-Length: 5", "Transfer-Encoding: chunked");
    let (head, _) = chunked.split_once("hello").unwrap();
    assert!(rig.client(head).contains("Transfer-Encoding: chunked"));
    assert_eq!(rig.client("5\r\nhello\r\n"), "5\r\nhello\r\n");
    assert_eq!(rig.client("0\r\n\r\n"), "0\r\n\r\n");
    assert_eq!(rig.server(OK), OK);
    assert_eq!(rig.dialled, ["r:8080"], "one connection onward");
    // The server closes between two requests: another connection.
    rig.event(&Event::ServerEnd);
    assert!(rig.end.is_none());
    assert!(!rig.client(GET).is_empty());
    assert_eq!(rig.dialled.len(), 2);
    assert_eq!(rig.shared.tally.requests, 5);
}

#[test]
fn requests_in_a_row_are_answered_one_after_the_other() {
    let mut rig = Rig::new(|_| {});
    let first = rig.client(&format!("{GET}{POST}"));
    assert!(first.starts_with("GET") && !first.contains("POST"));
    rig.server(OK);
    assert!(text_of(&mut rig.to_server).starts_with("POST"));
    assert_eq!(rig.server(OK), OK);
}

#[test]
fn an_answer_without_an_end_never_leaves_a_box_that_holds() {
    let mut rig = Rig::new(|m| m.holds_answers = true);
    assert!(rig.client(GET).starts_with("GET"));
    assert_eq!(rig.server(CHUNKED), "");
    assert_eq!(rig.server("3\r\none\r\n"), "");
    assert!(rig.pass(3600).is_none());
    let out = rig.server("0\r\n\r\n");
    assert_eq!(out, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    // More than it can hold waits outside.
    rig.client(GET);
    rig.server("HTTP/1.1 200 OK\r\n\r\n");
    while rig.conversation.wants_server() {
        assert_eq!(rig.server(&"x".repeat(1 << 20)), "");
    }
}

#[test]
fn a_request_leaves_a_box_that_holds_requests_when_it_is_whole() {
    let mut rig = Rig::new(|m| m.holds_requests = true);
    let (head, body) = POST.split_at(POST.len() - 2);
    assert_eq!(rig.client(head), "");
    let whole = rig.client(body);
    assert!(
        whole.starts_with("POST /a ") && whole.ends_with("Content-Length: 5\r\n\r\nhello"),
        "{whole}"
    );
    assert_eq!(rig.server(CHUNKED), CHUNKED, "answers pass");
}

#[test]
fn a_box_that_begins_to_hold_does_so_in_the_middle_and_lets_go_again() {
    let mut rig = Rig::new(|_| {});
    rig.client(GET);
    rig.server(CHUNKED);
    assert_eq!(rig.server("3\r\none\r\n"), "3\r\none\r\n");
    assert_eq!(rig.change(|m| m.holds_answers = true), "");
    assert_eq!(rig.server("3\r\ntwo\r\n"), "");
    assert_eq!(rig.change(|m| m.holds_answers = false), "3\r\ntwo\r\n");
    // The same in a tunnel.
    let mut rig = Rig::new(|_| {});
    let granted = rig.answered("CONNECT r:443 HTTP/1.1\r\n\r\n");
    assert_eq!(granted, "HTTP/1.1 200 Connection established\r\n\r\n");
    assert_eq!(rig.client("up"), "up");
    assert_eq!(rig.server("down"), "down");
    rig.change(|m| m.holds_answers = true);
    assert_eq!(rig.server("late"), "");
    assert_eq!(rig.change(|m| m.holds_answers = false), "late");
}

#[test]
fn upgrades_pass_or_are_left_out() {
    let upgrade =
        "GET http://r:8080/a HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let mut rig = Rig::new(|_| {});
    assert!(
        rig.client(upgrade)
            .contains("Connection: Upgrade\r\nUpgrade: x\r\n")
    );
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(
        rig.server(&format!("{switched}first")),
        format!("{switched}first")
    );
    assert_eq!(rig.client("\u{1}bytes"), "\u{1}bytes");
    assert_eq!(rig.shared.tally.tunnels, 1);
    let mut rig = Rig::new(|m| m.upgrades = false);
    assert!(!rig.client(upgrade).contains("Upgrade"));
    assert_eq!(rig.server(OK), OK);
}

#[test]
fn http10_is_a_connection_for_each_request_without_chunks() {
    let mut rig = Rig::new(|m| m.only_http10 = true);
    let onward = rig.client(GET);
    assert!(onward.starts_with("GET /a HTTP/1.0\r\n") && onward.contains("Connection: close"));
    assert_eq!(
        rig.server("HTTP/1.1 200 OK\r\n\r\n"),
        "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(rig.server("one"), "one");
    rig.event(&Event::ServerEnd);
    assert_eq!(rig.end, Some(Command::Finish));
    // A server that sends chunks all the same.
    let mut rig = Rig::new(|m| m.only_http10 = true);
    rig.client(GET);
    assert!(!rig.server(CHUNKED).contains("chunked"));
    assert_eq!(rig.server("3\r\none\r\n"), "one");
    let mut rig = Rig::new(|m| m.only_http10 = true);
    let chunked = POST.replace("Content-Length: 5", "Transfer-Encoding: chunked");
    assert!(rig.answered(&chunked).starts_with("HTTP/1.0 411 "));
}

#[test]
fn idle_bodies_are_cut_and_busy_ones_are_not() {
    let limit = |m: &mut Manners| m.idle_limit = Some(Duration::from_secs(10));
    let mut rig = Rig::new(limit);
    assert!(rig.pass(100).is_none(), "between requests it may be idle");
    rig.client(GET);
    rig.server(CHUNKED);
    for _ in 0..5 {
        assert!(rig.pass(9).is_none());
        rig.server("1\r\nx\r\n");
    }
    assert_eq!(rig.pass(10), Some(&Command::Cut));
    let mut rig = Rig::new(limit);
    rig.client(GET);
    let due = rig.conversation.wakes_at(&rig.shared.manners);
    assert_eq!(due, Some(Duration::from_secs(10)));
    assert_eq!(
        rig.pass(10),
        Some(&Command::Cut),
        "while the answer is waited for"
    );
    assert_eq!(rig.shared.tally.cut, 1);
}

#[test]
fn connections_end_when_they_are_old_or_have_been_used_enough() {
    let mut rig = Rig::new(|m| m.lifetime = Some(Duration::from_secs(60)));
    rig.client(GET);
    rig.server(CHUNKED);
    for _ in 0..11 {
        rig.now += Duration::from_secs(5);
        rig.server("1\r\nx\r\n");
        assert!(rig.end.is_none());
    }
    assert_eq!(rig.pass(5), Some(&Command::Cut));
    let mut rig = Rig::new(|m| m.requests = Some(100));
    for number in 1..=100 {
        rig.client(GET);
        assert_eq!(rig.server(OK), OK, "nothing tells of it");
        assert_eq!(rig.end.is_some(), number == 100);
    }
    assert_eq!(rig.end, Some(Command::Finish));
}

#[test]
fn posts_of_known_length_are_delivered_twice() {
    let mut rig = Rig::new(|m| m.repeats_posts = true);
    for beside in [false, true, false] {
        let sent = rig.client(POST);
        assert!(sent.ends_with("hello"));
        let (again, was_beside) = rig.delivered.pop().unwrap();
        assert_eq!(
            (String::from_utf8(again).unwrap(), was_beside),
            (sent, beside)
        );
        assert_eq!(rig.server(OK), OK);
    }
    assert!(!rig.client(GET).is_empty() && rig.delivered.is_empty());
    assert_eq!(rig.shared.tally.repeated, 3);
}

#[test]
fn only_text_passes_where_nothing_else_may() {
    let only_text = |m: &mut Manners| m.only_text = true;
    let mut rig = Rig::new(only_text);
    assert!(rig.client(POST).ends_with("hello"));
    assert_eq!(rig.server(OK), OK);
    let mut rig = Rig::new(only_text);
    let binary = POST.replace("hello", "he\0lo");
    assert!(rig.answered(&binary).starts_with("HTTP/1.1 403 ") && rig.to_server.is_empty());
    assert_eq!(rig.end, Some(Command::Finish));
    let mut rig = Rig::new(only_text);
    rig.client(GET);
    let answer = OK.replace(
        "Content-Length",
        "Content-Type: image/png\r\nContent-Length",
    );
    assert!(rig.server(&answer).starts_with("HTTP/1.1 403 "));
    // Found too late to say so.
    let mut rig = Rig::new(only_text);
    rig.client(GET);
    assert!(
        rig.server(&format!("{CHUNKED}1\r\nx\r\n"))
            .ends_with("x\r\n")
    );
    assert_eq!(rig.server("1\r\n\u{1}\r\n"), "");
    assert_eq!(rig.end, Some(Command::Cut));
}

#[test]
fn a_store_answers_for_the_server_whatever_the_server_says() {
    let mut rig = Rig::new(|m| m.caches = true);
    let answer = OK.replace("\r\n\r\n", "\r\nCache-Control: no-store\r\n\r\n");
    rig.client(GET);
    rig.server(&answer);
    let again = rig.answered(GET);
    assert!(again.contains("Age: 1") && again.ends_with("ok"), "{again}");
    assert!(rig.to_server.is_empty());
    assert!(rig.client(&GET.replace("/a", "/b")).starts_with("GET /b"));
    rig.server(OK);
    assert!(rig.client(POST).starts_with("POST"), "only GETs");
    assert_eq!(rig.shared.tally.cached, 1);
}

#[test]
fn unusual_fields_are_treated_in_answers_too() {
    let mut rig = Rig::new(|m| m.unusual = Unusual::Stripped);
    rig.client(GET);
    let answer = OK.replace(
        "Content-Length",
        "X-Odd: 1\r\nSet-Cookie: a=b\r\nContent-Length",
    );
    let out = rig.server(&answer);
    assert!(
        !out.contains("X-Odd") && out.contains("Set-Cookie: a=b"),
        "{out}"
    );
}

#[test]
fn a_login_is_asked_for_and_the_connection_is_kept_for_it() {
    let login = Login {
        domain: "LAB".into(),
        user: "user".into(),
        password: "secret".into(),
    };
    let mut rig = Rig::new(|m| m.ntlm = Some(login));
    let out = rig.answered(POST);
    assert!(out.starts_with("HTTP/1.1 407 ") && out.contains("Proxy-Authenticate: NTLM\r\n"));
    assert!(rig.end.is_none() && rig.to_server.is_empty() && rig.dialled.is_empty());
    let out = rig.answered(GET);
    assert!(
        out.starts_with("HTTP/1.1 407 "),
        "the refused body was read past"
    );
}

#[test]
fn what_cannot_be_done_is_told_while_it_can_be() {
    let mut rig = Rig::new(|_| {});
    rig.client(GET);
    rig.event(&Event::Unreachable);
    assert!(text_of(&mut rig.to_client).starts_with("HTTP/1.1 504 "));
    let mut rig = Rig::new(|_| {});
    rig.client(GET);
    rig.event(&Event::ServerEnd);
    assert!(text_of(&mut rig.to_client).starts_with("HTTP/1.1 502 "));
    let mut rig = Rig::new(|_| {});
    rig.client(GET);
    rig.server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
    rig.event(&Event::ServerEnd);
    assert_eq!(
        rig.end,
        Some(Command::Cut),
        "a body cut short is not passed off as whole"
    );
    let mut rig = Rig::new(|_| {});
    assert!(
        rig.answered("PRI * HTTP/2.0\r\n\r\n")
            .starts_with("HTTP/1.1 400 ")
    );
    let mut rig = Rig::new(|m| m.connects = Connects::Refused);
    assert!(
        rig.answered("CONNECT r:443 HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 403 ")
    );
    assert!(rig.dialled.is_empty());
    let mut rig = Rig::new(|m| m.portal = true);
    assert!(
        rig.answered("CONNECT r:443 HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
}
