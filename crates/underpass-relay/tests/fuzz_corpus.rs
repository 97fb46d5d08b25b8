//! Replays the fuzzer's corpus, whose seeds are the requests of `docs/plain-http.md`, whole and cut.

use std::fs;
use std::path::{Path, PathBuf};

use underpass_relay::plain::Token;
use underpass_relay::plain::fuzzing::TARGETS;

const SESSION: &str = "00112233445566778899aabbccddeeff";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

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
    for (target, name, seed) in seeds() {
        let folder = root().join("fuzz/corpus").join(target);
        let file = folder.join(&name);
        if std::env::var_os("UNDERPASS_BLESS").is_some() {
            fs::create_dir_all(&folder).expect("the folder can be made");
            fs::write(&file, seed).expect("the seed can be written");
        } else {
            let found = fs::read(&file).ok();
            let same = found == Some(seed.into_bytes());
            assert!(same, "fuzz/corpus/{target}/{name} is not as it should be");
        }
    }
}

#[test]
fn the_corpus_is_replayed() {
    for (target, run) in TARGETS {
        let folder = root().join("fuzz/corpus").join(target);
        let mut count = 0;
        for entry in fs::read_dir(&folder).expect("each target has a corpus") {
            let file = entry.expect("an entry").path();
            let input = fs::read(&file).expect("a file that can be read");
            let result = std::panic::catch_unwind(|| run(&input));
            assert!(result.is_ok(), "{} fails", file.display());
            count += 1;
        }
        assert!(count > 0, "no corpus for {target}");
    }
}

#[test]
fn each_target_can_be_fuzzed() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the manifest");
    for (target, _) in TARGETS {
        let path = format!("fuzz_targets/{target}.rs");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{target}");
        let body = fs::read_to_string(root().join("fuzz").join(path)).expect("the target");
        let function = target.strip_prefix("plain_").expect("named for its module");
        let call = format!("underpass_relay::plain::fuzzing::{function}(data)");
        assert!(body.contains(&call), "{target}");
    }
}
