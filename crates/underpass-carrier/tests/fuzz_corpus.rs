//! Replays the fuzzer's corpus, whose seeds are real exchanges, whole and cut.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use underpass_carrier::fuzzing::TARGETS;
use underpass_carrier::{KINDS, span};

#[path = "../../../fuzz/checks.rs"]
mod checks;

const ID: &str = "00112233445566778899aabbccddeeff";

/// Target and file name, and what stands in the file.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

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

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("a short frame");
    [&[0, 0, len, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A POST in HPACK (RFC 7541): method and scheme from the static table, path and host in clear.
fn post_by_http2(path: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| {
        let len = u8::try_from(text.len()).expect("a short text");
        [&[index, len], text.as_bytes()].concat()
    };
    [
        &[0x83, 0x86],
        &literal(0x04, path)[..],
        &literal(0x01, "relay"),
    ]
    .concat()
}

fn http2_seeds(seeds: &mut Seeds) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: (u8, u8) = (4, 0);
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let settings = frame(SETTINGS.0, SETTINGS.1, 0, b"");
    let hello = [
        &span::empty_fill()[..],
        &data_span(b"hello"),
        &span::end_span(),
    ]
    .concat();
    let two_way = [
        PREFACE,
        &settings,
        &frame(1, END_HEADERS, 1, &post_by_http2("/h2")),
        &frame(0, END_STREAM, 1, &hello),
    ]
    .concat();
    add(seeds, "carrier_server", "h2", &exchange(&two_way, b""));
    let down = post_by_http2(&format!("/h2posts/{ID}/down"));
    let up = post_by_http2(&format!("/h2posts/{ID}/up/0/end"));
    let numbered = [
        PREFACE,
        &settings,
        &frame(1, END_HEADERS | END_STREAM, 1, &down),
        &frame(1, END_HEADERS, 3, &up),
        &frame(0, END_STREAM, 3, b"hello"),
        // And one that is taken back.
        &frame(1, END_HEADERS, 5, &up),
        &frame(3, 0, 5, &[0, 0, 0, 8]),
    ]
    .concat();
    add(
        seeds,
        "carrier_server",
        "h2posts",
        &exchange(&numbered, b""),
    );
}

fn text_seeds(seeds: &mut Seeds) {
    let body = [&data_span(b"hello")[..], &span::end_span()].concat();
    let text = STANDARD.encode(&body) + "\n";
    add(seeds, "carrier_coding", "spans", text.as_bytes());
    let lines = format!("{0}\r\n {0}\r\n", "A".repeat(76));
    add(seeds, "carrier_coding", "lines", lines.as_bytes());
    add(
        seeds,
        "carrier_coding",
        "page",
        b"<html>please log in</html>",
    );
    let post = post(&format!("/text/{ID}/up/0/end"), text.as_bytes());
    let poll = head(&format!("GET /text/{ID}/down/0?hold=0"), &[]);
    add(seeds, "carrier_server", "text", &exchange(&poll, &post));
}

/// [MS-NLMP] section 4.2.4.3: the challenge of the NTLMv2 example.
const NTLM_CHALLENGE: &[u8] = b"NTLMSSP\0\x02\0\0\0\x0c\0\x0c\0\x38\0\0\0\x33\x82\x8a\xe2\
    \x01\x23\x45\x67\x89\xab\xcd\xef\0\0\0\0\0\0\0\0\x24\0\x24\0\x44\0\0\0\x06\0\x70\x17\0\0\0\x0f\
    S\0e\0r\0v\0e\0r\0\x02\0\x0c\0D\0o\0m\0a\0i\0n\0\x01\0\x0c\0S\0e\0r\0v\0e\0r\0\0\0\0\0";

fn proxy_seeds(seeds: &mut Seeds) {
    let digest = "Digest realm=\"Lab\", nonce=\"7ypf/xlj9XXw\", qop=\"auth\", stale=false";
    let stronger = "Digest realm=\"a \\\"b\\\"\", nonce=n, algorithm=SHA-256-sess, opaque=\"o\", userhash=true";
    let coded = STANDARD.encode(NTLM_CHALLENGE);
    let ntlm = format!("NTLM {coded}");
    for (name, headers) in [
        ("basic", "Basic realm=\"a, b\""),
        ("digest", digest),
        ("windows", &format!("Negotiate\n{ntlm}\nBasic realm=x")),
        ("one-line", &format!("{stronger}, Basic realm=x, Negotiate")),
        ("two-digests", &format!("{digest}\n{stronger}")),
    ] {
        add(seeds, "carrier_challenge", name, headers.as_bytes());
    }
    let later = digest.replace("7ypf", "later").replace("=false", "=true");
    for (name, lines) in [
        ("basic", "2\nn\n7Basic realm=x\n2\nn\n2".to_owned()),
        (
            "basic-wrong",
            "7Basic realm=x\n7Basic realm=x\nn\n7Basic realm=x".into(),
        ),
        (
            "basic-wrong-as-tinyproxy-says-it",
            "7Basic realm=x\n1\n7Basic realm=x".into(),
        ),
        ("digest", format!("7{digest}\n2\n2\n7{later}\n2")),
        ("digest-wrong", format!("7{digest}\n7{digest}\n7{digest}")),
        (
            "ntlm",
            format!("7NTLM\tBasic realm=x\n7{ntlm}\n2\nn\n7{ntlm}\n2"),
        ),
        ("ntlm-wrong", format!("7NTLM\n7{ntlm}\n7NTLM\n7NTLM")),
        ("ntlm-cut-off", format!("7NTLM\n0\n7NTLM\n7{ntlm}\n0\n2")),
        ("nothing-known", "7Scram x=y\n7".into()),
    ] {
        add(seeds, "carrier_login", name, lines.as_bytes());
    }
    let random = [0xaa; 8];
    add(
        seeds,
        "carrier_ntlm",
        "example",
        &[&random, NTLM_CHALLENGE].concat(),
    );
    let mut silent = NTLM_CHALLENGE[..32].to_vec();
    silent[22] &= !0x80;
    add(
        seeds,
        "carrier_ntlm",
        "silent",
        &[&random[..], &silent].concat(),
    );
    for (name, text) in [
        ("list", "PROXY a:1; HTTPS [::1]:2;SOCKS5 c; SOCKS d; DIRECT"),
        ("lines", "proxy user:password@a:1\r\nDIRECT"),
        ("useless", "PROXY http://a; PROXY a b; FTP c"),
    ] {
        add(seeds, "carrier_pac", name, text.as_bytes());
    }
    for (name, text) in [
        ("bare", "Proxy.Example:3128"),
        ("login", "http://DOM%5Canna:p%40ss%3Aw%C3%B6rd@proxy:3128/"),
        ("ipv6", "socks5h://[2001:db8::1]:1080"),
        ("path", "https://proxy/x"),
    ] {
        add(seeds, "carrier_proxy_url", name, text.as_bytes());
    }
    for (name, text) in [
        (
            "names",
            "localhost, .example *.inside,relay.example:443\nRelay.example:443",
        ),
        (
            "nets",
            "10.0.0.0/8,2001:db8::/32 [::1]:8080\n[2001:db8:7::1]:80",
        ),
        ("all", "*\n10.1.2.3"),
    ] {
        add(seeds, "carrier_bypass", name, text.as_bytes());
    }
    // A certificate's head (RFC 5280 section 4.1), with an issuer in UTF-8 and one in UTF-16.
    let element = |tag: u8, parts: &[&[u8]]| -> Vec<u8> {
        let content = parts.concat();
        let len = u8::try_from(content.len()).expect("a short element");
        [&[tag, len][..], &content].concat()
    };
    for (name, form, value) in [
        ("utf8", 0x0c, &b"Box of Lab"[..]),
        ("utf16", 0x1e, b"\0B\0o\0x"),
    ] {
        let pair = element(
            0x30,
            &[&element(0x06, &[&[0x55, 4, 3]]), &element(form, &[value])],
        );
        let issuer = element(0x30, &[&element(0x31, &[&pair])]);
        let serial = element(0x02, &[&[1]]);
        let version = element(0xa0, &[&element(0x02, &[&[2]])]);
        let signed = element(0x30, &[&version, &serial, &element(0x30, &[]), &issuer]);
        add(seeds, "carrier_issuer", name, &element(0x30, &[&signed]));
    }
}

fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    http2_seeds(&mut seeds);
    text_seeds(&mut seeds);
    proxy_seeds(&mut seeds);
    request_seeds(&mut seeds);
    span_seeds(&mut seeds);
    machine_seeds(&mut seeds);
    server_seeds(&mut seeds);
    seeds
}

#[test]
fn every_exchange_is_a_seed_of_the_corpus() {
    let parts = |((target, name), seed)| (target, name, seed);
    checks::compare(seeds().into_iter().map(parts));
}

#[test]
fn the_corpus_is_replayed() {
    checks::replay(TARGETS);
}

#[test]
fn each_target_can_be_fuzzed() {
    checks::can_be_fuzzed(TARGETS, "underpass_carrier::fuzzing", "carrier_");
}
