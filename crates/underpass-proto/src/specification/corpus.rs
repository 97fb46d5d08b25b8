//! Replays the fuzzer's corpus, whose seeds are the samples and parts of them.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::samples;
use crate::compress::Compressor;
use crate::fuzzing::TARGETS;
use crate::wire::samples::{Sample, bytes_of};

#[path = "../../../../fuzz/checks.rs"]
mod checks;

/// The target of a family of samples, and the first bytes that steer it there.
fn targets(sample: &Sample) -> Vec<(&'static str, &'static [u8])> {
    let (family, name) = sample.tag.split_once(' ').expect("a family and a name");
    match family {
        "frame" if name == "Ticket" => vec![("frame", &[2]), ("ticket", &[])],
        "frame" if sample.layout[0].contains(" reliable record") => vec![("frame", &[0])],
        "frame" => vec![("frame", &[1])],
        "packet" => vec![("packet", &[5])],
        "handshake" => vec![("params", &[])],
        "route" if sample.layout[0].contains("agent") => vec![("route_header", &[0])],
        "route" => vec![("route_header", &[1])],
        "control" if sample.layout[0].contains("agent") => vec![("control", &[6])],
        "control" => vec![("control", &[7])],
        "steer" if sample.layout[0].contains("initiator") => vec![("steer", &[0])],
        "steer" => vec![("steer", &[1])],
        "authority" if sample.layout[0].contains("relay") => vec![("authority", &[6])],
        "authority" => vec![("authority", &[7])],
        _ => panic!("no target for {family}"),
    }
}

/// Target and file name, and what stands in the file.
type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

fn add(seeds: &mut Seeds, target: &'static str, name: &str, steer: &[u8], bytes: &[u8]) {
    for (suffix, len) in [("", bytes.len()), ("-cut", bytes.len() / 2)] {
        let seed = [steer, &bytes[..len]].concat();
        seeds.insert((target, format!("{name}{suffix}")), seed);
    }
}

/// Every sample whole and cut in half, and for what has no samples a few by hand.
fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    block_seeds(&mut seeds);
    session_seeds(&mut seeds);
    for sample in samples().values() {
        let (_, name) = sample.tag.split_once(' ').expect("a family and a name");
        for (target, steer) in targets(sample) {
            for (n, (_, hex)) in sample.values.iter().enumerate() {
                let mut bytes = bytes_of(hex);
                if matches!(target, "control" | "authority") {
                    let mut framed = Vec::new();
                    crate::varint::put(&mut framed, bytes.len() as u64);
                    framed.append(&mut bytes);
                    bytes = framed;
                }
                add(
                    &mut seeds,
                    target,
                    &format!("{}-{n}", name.to_lowercase()),
                    steer,
                    &bytes,
                );
            }
        }
    }
    let record = bytes_of("07 01 80011170 00112233445566778899aabbccddeeff");
    add(&mut seeds, "record_header", "reliable", &[], &record);
    add(
        &mut seeds,
        "record_header",
        "unreliable",
        &[],
        &bytes_of("08 00 00"),
    );
    add(
        &mut seeds,
        "record_header",
        "long-form",
        &[],
        &bytes_of("07 4001 00"),
    );
    let routed = bytes_of("0c 0a 06 736561 6c6564 07 00 00 ff");
    add(&mut seeds, "packet", "routed", &[3], &routed);
    add(
        &mut seeds,
        "packet",
        "padding-and-record",
        &[1],
        &bytes_of("04 00 000000 04 08 00 00 ff"),
    );
    for name in [
        "db",
        "db.alice",
        "DB.Alice.Underpass.Internal.",
        "a-b.underpass.internal",
        "-a..b",
    ] {
        add(
            &mut seeds,
            "names",
            &name.to_lowercase(),
            &[],
            name.as_bytes(),
        );
    }
    seeds
}

/// What the compressor makes of a text, for each codec.
fn block_seeds(seeds: &mut Seeds) {
    let text = b"the quick brown fox jumps over the lazy dog. ".repeat(20);
    for (name, codecs, rate) in [("stored", 0, 0), ("lz4", 1, 100 << 20), ("zstd", 2, 0)] {
        let mut compressor = Compressor::new(codecs);
        let mut out = BytesMut::new();
        for part in text.chunks(600) {
            compressor.block(part, rate, &mut out);
        }
        add(seeds, "compress", name, &[41, 0], &out);
    }
    add(seeds, "compress", "text", &[7, 1], &text[..200]);
}

/// A step of the session's script: a choice, and the bytes of a packet with their length.
fn step(choices: &[u8], bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("short").to_le_bytes();
    [choices, &len, bytes].concat()
}

/// Each frame alone in a record, and a few conversations.
fn session_seeds(seeds: &mut Seeds) {
    let mut frames: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let all = samples();
    for sample in all.values() {
        if let Some(("frame", name)) = sample.tag.split_once(' ') {
            frames.insert(name, bytes_of(sample.values[0].1));
        }
    }
    // The channel of the samples is one that the initiator opens.
    for (name, frame) in &frames {
        let name = name.to_lowercase();
        let alone = step(&[0, 0], frame);
        add(seeds, "session", &format!("{name}-reliable"), &[1], &alone);
        let opened = [step(&[0, 0], &frames["Open"]), alone].concat();
        add(seeds, "session", &format!("{name}-opened"), &[1], &opened);
        let alone = step(&[5], frame);
        add(seeds, "session", &format!("{name}-once"), &[0], &alone);
    }
    // Opens, writes, is acknowledged, loses its leg, resumes, is answered with nonsense.
    let resumed = bytes_of("05 04 cccccccccccccccccccccccccccccccc 7365616c6564");
    let life = [
        vec![12, 0, 12, 2, 0],
        step(&[], b"hello"),
        step(&[5], &bytes_of("02 00 00 00")),
        vec![9, 12, 10, 0, 10, 2],
        step(&[7], &resumed),
        vec![8, 11, 0, 9, 9, 17],
    ]
    .concat();
    add(seeds, "session", "life-of-an-initiator", &[0], &life);
    add(seeds, "session", "life-of-a-responder", &[1], &life);
}

#[test]
fn every_sample_is_a_seed_of_the_corpus() {
    let parts = |((target, name), seed)| (target, name, seed);
    checks::compare(seeds().into_iter().map(parts));
}

#[test]
fn seeds_reach_what_they_are_for() {
    // A whole seed of a message must be understood, or the corpus teaches the fuzzer nothing.
    for ((target, name), seed) in seeds() {
        if target != "control" || name.ends_with("-cut") {
            continue;
        }
        let speaker = [crate::Speaker::Agent, crate::Speaker::Relay][usize::from(seed[0] & 1)];
        let mut decoder = crate::control::ControlDecoder::new(speaker);
        decoder.push(&seed[1..]);
        assert!(matches!(decoder.next(), Ok(Some(_))), "{name}");
        assert!(decoder.is_between_messages(), "{name}");
    }
}

#[test]
fn the_corpus_is_replayed() {
    checks::replay(TARGETS);
}

#[test]
fn each_target_can_be_fuzzed() {
    checks::can_be_fuzzed(TARGETS, "underpass_proto::fuzzing", "");
}
