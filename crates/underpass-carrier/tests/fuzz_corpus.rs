//! Replays the fuzzer's corpus, whose seeds are real exchanges, whole and cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use underpass_carrier::fuzzing::TARGETS;
use underpass_carrier::{KINDS, span};

const ID: &str = "00112233445566778899aabbccddeeff";

/// Target and file name, and what stands in the file.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn add(seeds: &mut Seeds, target: &'static str, name: &str, bytes: &[u8]) {
    for (suffix, len) in [("", bytes.len()), ("-cut", bytes.len() / 2)] {
        seeds.insert((target, format!("{name}{suffix}")), bytes[..len].to_vec());
    }
}

fn data_span(bytes: &[u8]) -> Vec<u8> {
    [&span::data_header(bytes.len())[..], bytes].concat()
}

/// Both connections of one exchange, as the target for the whole server takes them.
fn exchange(first: &[u8], second: &[u8]) -> Vec<u8> {
    let len = u16::try_from(first.len()).expect("a short exchange");
    [&len.to_be_bytes()[..], first, second].concat()
}

fn head(request: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("{request} HTTP/1.1\r\nHost: relay\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    (text + "\r\n").into_bytes()
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("Content-Length: {}", body.len());
    let head = head(
        &format!("POST {path}"),
        &["Content-Type: binary/tcp", &length],
    );
    [head, body.to_vec()].concat()
}

fn request_seeds(seeds: &mut Seeds) {
    for kind in KINDS {
        let name = kind.name;
        for (what, rest) in [
            ("whole", String::new()),
            ("down", format!("/{ID}/down")),
            ("poll", format!("/{ID}/down/17?hold=25000")),
            ("up", format!("/{ID}/up")),
            ("post", format!("/{ID}/up/65536/end")),
        ] {
            let text = format!("\0/{name}{rest}");
            add(
                seeds,
                "carrier_request",
                &format!("{name}-{what}"),
                text.as_bytes(),
            );
        }
        let text = format!("\x01/p/{name}/up/5?u=0123456789abcdef\ntheme=dark; sid={ID}");
        add(
            seeds,
            "carrier_request",
            &format!("{name}-cookie"),
            text.as_bytes(),
        );
    }
}

fn span_seeds(seeds: &mut Seeds) {
    let fill = [&[2, 0, 0, 3][..], b"pad"].concat();
    let stream = [
        &span::empty_fill()[..],
        &data_span(b"hello"),
        &fill,
        &data_span(b"world"),
        &span::end_span(),
    ]
    .concat();
    add(
        seeds,
        "carrier_span",
        "stream",
        &[&[3], &stream[..]].concat(),
    );
    let number = span::number_span(5);
    add(
        seeds,
        "carrier_span",
        "number",
        &[&[1], &number[..]].concat(),
    );
    add(
        seeds,
        "carrier_span",
        "page",
        b"\x07<html>please log in</html>",
    );
    let answer = [&[5], &number[..], &data_span(b"abc"), &span::end_span()].concat();
    add(seeds, "carrier_read_answer", "last", &answer);
    add(
        seeds,
        "carrier_read_answer",
        "empty",
        &[&[5], &number[..]].concat(),
    );
    add(
        seeds,
        "carrier_read_answer",
        "other",
        &[&[4], &number[..]].concat(),
    );
}

fn machine_seeds(seeds: &mut Seeds) {
    // Capacity 256: in order, then behind a gap, then what closes it.
    let window = [
        0, 0, 255, 2, 0, 0, 0, 9, 0, 2, 0, 20, 0, 9, 0, 2, 0, 5, 0, 30, 0, 0, 0,
    ];
    add(seeds, "carrier_window", "gap-closed", &window);
    let window = [
        1, 0, 255, 2, 0, 0, 0, 9, 1, 3, 0, 5, 0, 9, 1, 2, 0, 9, 0, 1, 17, 0,
    ];
    add(seeds, "carrier_window", "contradictions", &window);
    let uplink = [
        4, 0, 64, 0, 4, 0, 8, 0, 0, 200, 0, 3, 0, 7, 0, 0, 9, 7, 1, 0, 9, 2, 0,
    ];
    add(seeds, "carrier_uplink", "repeated", &uplink);
    let uplink = [
        255, 255, 8, 0, 4, 0, 255, 255, 0, 200, 0, 7, 0, 0, 9, 7, 1, 0, 9, 2, 0,
    ];
    add(seeds, "carrier_uplink", "too-large", &uplink);
    let answers = [
        4, 0, 6, 3, 0, 1, 0, 6, 3, 6, 4, 4, 0, 6, 2, 3, 9, 6, 1, 2, 0, 6, 3,
    ];
    add(seeds, "carrier_answers", "repeated", &answers);
    for text in [
        "http://relay.example",
        "https://Relay.Example:8443/a/b/#AB:cd",
        "http://[::1]:8080/x",
        "http://h:+80",
        "http://user@h/a?b",
    ] {
        let name: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        add(seeds, "carrier_url", &name, text.as_bytes());
    }
}

fn server_seeds(seeds: &mut Seeds) {
    let hello = [&data_span(b"hello")[..], &span::end_span()].concat();
    let upgrade = head(
        "GET /upgrade",
        &["Connection: Upgrade", "Upgrade: underpass"],
    );
    let upgrade = [upgrade, hello.clone()].concat();
    add(seeds, "carrier_server", "upgrade", &exchange(&upgrade, b""));
    let headers = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    // RFC 6455 section 5.7: a masked message of five bytes; then an empty one.
    let messages = b"\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x82\x80\0\0\0\0";
    let ws = [head("GET /ws", &headers), messages.to_vec()].concat();
    add(seeds, "carrier_server", "ws", &exchange(&ws, b""));
    let down = head(&format!("GET /stream/{ID}/down"), &["Accept: binary/tcp"]);
    let body = [&span::empty_fill()[..], &hello].concat();
    let up = post(&format!("/stream/{ID}/up"), &body);
    add(seeds, "carrier_server", "stream", &exchange(&down, &up));
    let down = head(&format!("GET /posts/{ID}/down"), &["Accept: binary/tcp"]);
    let posts = [
        post(&format!("/posts/{ID}/up/5/end"), b"world"),
        post(&format!("/posts/{ID}/up/0"), b"hello"),
        post(&format!("/posts/{ID}/up/0"), b"hello"),
    ]
    .concat();
    add(seeds, "carrier_server", "posts", &exchange(&down, &posts));
    let sid = format!("Cookie: sid={ID}");
    let polls = [
        head("GET /poll/down/0?hold=0&u=0", &[&sid]),
        head("GET /poll/down/1?u=1", &[&sid]),
    ]
    .concat();
    let posts = [
        post(&format!("/poll/{ID}/up/0/end"), b"hello"),
        head(&format!("DELETE /poll/{ID}"), &[]),
    ]
    .concat();
    add(seeds, "carrier_server", "poll", &exchange(&polls, &posts));
    let stranger = head("GET /", &["User-Agent: scanner"]);
    add(
        seeds,
        "carrier_server",
        "stranger",
        &exchange(&stranger, b"\x16\x03\x01"),
    );
}

fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    request_seeds(&mut seeds);
    span_seeds(&mut seeds);
    machine_seeds(&mut seeds);
    server_seeds(&mut seeds);
    seeds
}

#[test]
fn every_exchange_is_a_seed_of_the_corpus() {
    for ((target, name), seed) in seeds() {
        let folder = root().join("fuzz/corpus").join(target);
        let file = folder.join(&name);
        if std::env::var_os("UNDERPASS_BLESS").is_some() {
            fs::create_dir_all(&folder).expect("the folder can be made");
            fs::write(&file, seed).expect("the seed can be written");
        } else {
            let found = fs::read(&file).ok();
            assert!(
                found == Some(seed),
                "fuzz/corpus/{target}/{name} is not as it should be"
            );
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
        let function = target
            .strip_prefix("carrier_")
            .expect("named for its crate");
        let call = format!("underpass_carrier::fuzzing::{function}(data)");
        assert!(body.contains(&call), "{target}");
    }
}
