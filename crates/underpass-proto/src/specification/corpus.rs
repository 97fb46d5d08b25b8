//! Replays the fuzzer's corpus, whose seeds are the samples and parts of them.

use std::collections::BTreeMap;
use std::fs;

use super::{blessed, root, samples};
use crate::fuzzing::TARGETS;
use crate::wire::samples::{Sample, bytes_of};

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

/// Every sample whole and cut in half, and for parsers without samples a few by hand.
fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    for sample in samples().values() {
        let (_, name) = sample.tag.split_once(' ').expect("a family and a name");
        for (target, steer) in targets(sample) {
            for (n, (_, hex)) in sample.values.iter().enumerate() {
                let mut bytes = bytes_of(hex);
                if target == "control" {
                    bytes.insert(0, u8::try_from(bytes.len()).expect("a short sample"));
                    // Lengths from 64 on take two bytes.
                    if bytes[0] >= 64 {
                        bytes.insert(0, 0x40);
                    }
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

#[test]
fn every_sample_is_a_seed_of_the_corpus() {
    for ((target, name), seed) in seeds() {
        let folder = root().join("fuzz/corpus").join(target);
        let file = folder.join(&name);
        if blessed() {
            fs::create_dir_all(&folder).expect("the folder can be made");
            fs::write(&file, seed).expect("the seed can be written");
        } else {
            assert!(
                fs::read(&file).ok() == Some(seed),
                "fuzz/corpus/{target}/{name} is not as it should be"
            );
        }
    }
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
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    for (target, _) in TARGETS {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")),
            "{target}"
        );
        let body = fs::read_to_string(root().join(format!("fuzz/fuzz_targets/{target}.rs")))
            .expect("the target");
        assert!(
            body.contains(&format!("underpass_proto::fuzzing::{target}(data)")),
            "{target}"
        );
    }
}
