//! Replays the fuzzer's corpus, whose seeds are the requests of `docs/plain-http.md`, whole and cut.

use underpass_relay::plain::Token;
use underpass_relay::plain::fuzzing::TARGETS;

#[path = "../../../fuzz/checks.rs"]
mod checks;

const SESSION: &str = "00112233445566778899aabbccddeeff";

/// Target, file name, and what stands in the file.
fn seeds() -> Vec<(&'static str, String, String)> {
    let asks = [
        (
            "open",
            "\0POST\n/plain/open?service=db.bob&once=a1".to_owned(),
        ),
        ("up", format!("\0POST\n/plain/{SESSION}/up?offset=7&end=1")),
        (
            "down",
            format!("\x01GET\n/p/plain/{SESSION}/down?offset=7&wait=3&n=x"),
        ),
        (
            "close",
            format!("\x01POST\n/p/plain/close\na=b; underpass_session={SESSION}; c"),
        ),
        ("method", "\0GET\n/plain/open?service=db".to_owned()),
        ("elsewhere", "\0GET\n/plainer/down?offset=0".to_owned()),
        (
            "unknown",
            "\0POST\n/plain/up?ofset=99999999999999999999".to_owned(),
        ),
    ];
    let token = Token::new([0xab; 32]);
    let tokens = [
        ("bearer", format!("Bearer {token}")),
        ("blanks", format!("bearer  {token} ")),
        ("basic", format!("Basic {token}")),
        ("upper", format!("Bearer {token}").to_uppercase()),
    ];
    let of = |target, (name, text): (&str, String)| (target, name.to_owned(), text);
    let whole = asks.map(|seed| of("plain_ask", seed));
    let whole = whole
        .into_iter()
        .chain(tokens.map(|seed| of("plain_token", seed)));
    let cut = |(target, name, text): (_, String, String)| {
        let half = text[..text.len() / 2].to_owned();
        [(target, format!("{name}-cut"), half), (target, name, text)]
    };
    whole.flat_map(cut).collect()
}

#[test]
fn every_request_is_a_seed_of_the_corpus() {
    let bytes = |(target, name, text): (_, _, String)| (target, name, text.into_bytes());
    checks::compare(seeds().into_iter().map(bytes));
}

#[test]
fn the_corpus_is_replayed() {
    checks::replay(TARGETS);
}

#[test]
fn each_target_can_be_fuzzed() {
    checks::can_be_fuzzed(TARGETS, "underpass_relay::plain::fuzzing", "plain_");
}
