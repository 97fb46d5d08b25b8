//! Tests that hold the documents against the code.
//!
//! With `UNDERPASS_BLESS=1` in the environment they write what the code says into the
//! documents instead of comparing.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read documents; the protocol reads nothing"
)]

mod corpus;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::wire::samples::Sample;
use crate::{authority, control, frame, packet, params, route, steer, transfer};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn blessed() -> bool {
    std::env::var_os("UNDERPASS_BLESS").is_some()
}

/// Compares a document with what it should be, or writes it.
pub(crate) fn compare(path: &str, wanted: impl Fn(&str) -> String) {
    let file = root().join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    let wanted = wanted(&found);
    if blessed() {
        if found != wanted {
            fs::write(&file, wanted).expect("the document can be written");
        }
        return;
    }
    if let Some((n, (found, wanted))) = found
        .lines()
        .zip(wanted.lines())
        .enumerate()
        .find(|(_, (found, wanted))| found != wanted)
    {
        panic!(
            "{path}:{}: found\n{found}\nbut the code says\n{wanted}",
            n + 1
        );
    }
    assert!(found == wanted, "{path} is too long or too short");
}

/// The samples of all families, by the tag of their blocks.
fn samples() -> BTreeMap<String, Sample> {
    let all = [
        frame::samples(),
        packet::samples(),
        params::samples(),
        route::samples(),
        control::samples(),
        steer::samples(),
        transfer::samples(),
        authority::samples(),
    ];
    let mut by_tag = BTreeMap::new();
    for sample in all.into_iter().flatten() {
        let tag = sample.tag.clone();
        assert!(
            by_tag.insert(tag, sample).is_none(),
            "two samples with one tag"
        );
    }
    by_tag
}

/// The inside of a sample's block in the document.
fn block(sample: &Sample) -> String {
    let mut text = String::new();
    for line in &sample.layout {
        text += &format!("{line}\n");
    }
    for (value, hex) in &sample.values {
        let hex: Vec<_> = hex.split_whitespace().collect();
        text += &format!("\n# {value}\n{}\n", hex.join(" "));
    }
    text
}

/// The document with every ```` ```sample TAG ```` block filled from the tables.
fn filled(document: &str) -> String {
    let mut missing = samples();
    let mut text = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        text += &format!("{line}\n");
        let Some(tag) = line.strip_prefix("```sample ") else {
            continue;
        };
        let sample = missing.remove(tag).unwrap_or_else(|| {
            panic!("the document has a sample of {tag:?}, the tables have none (left)")
        });
        text += &block(&sample);
        lines
            .find(|line| *line == "```")
            .expect("a block has an end");
        text += "```\n";
    }
    let missing: Vec<_> = missing.into_keys().collect();
    assert!(missing.is_empty(), "not in the document: {missing:?}");
    text
}

#[test]
fn the_wire_specification_has_the_samples_of_the_tables() {
    compare("docs/protocol-wire.md", filled);
}

#[test]
fn a_changed_or_forgotten_sample_is_noticed() {
    let found = fs::read_to_string(root().join("docs/protocol-wire.md")).expect("the document");
    let changed = found.replacen("9d7f3e7d", "9d7f3e7e", 1);
    assert!(filled(&changed) != changed);
    let forgotten = found.replacen("```sample frame Ping", "```frame Ping", 1);
    assert!(std::panic::catch_unwind(|| filled(&forgotten)).is_err());
}

#[test]
fn the_tables_written_by_hand_agree_with_the_code() {
    let found = fs::read_to_string(root().join("docs/protocol-wire.md")).expect("the document");
    let mut rows = Vec::new();
    for code in 0..=u8::MAX {
        if let Some(kind) = packet::PacketKind::from_code(code) {
            rows.push(format!("\n| {code:#04x} | {kind:?} | "));
        }
    }
    let default = params::Params::default();
    for (id, name, value) in [
        (1, "max_data", default.max_data),
        (2, "max_channel_data", default.max_channel_data),
        (3, "max_channels", default.max_channels),
        (6, "keep_s", default.keep_s),
        (7, "max_datagram", default.max_datagram),
        (11, "max_legs", default.max_legs),
    ] {
        let row = found
            .lines()
            .find(|line| line.starts_with(&format!("| {id:#04x} | {name} | ")))
            .unwrap_or_else(|| panic!("no row for {name}"));
        assert!(
            row.replace(',', "").ends_with(&format!("| {value} |")),
            "{row}"
        );
    }
    for row in rows {
        assert!(found.contains(&row), "no row like {row}");
    }
    let plain = found.replace(',', "");
    for limit in [
        format!("at most {} (", packet::MAX_PACKET),
        format!("at most {}. The payload", packet::MAX_ROUTE_HEADER),
        format!("at most {} bytes long", packet::MAX_FORWARDED),
        format!("at most\n{}.", control::MAX_CONTROL),
        format!("at most {} (MAX", authority::MAX_AUTHORITY),
        format!("at most {} bytes). Pseudo", crate::names::MAX_SUFFIX),
    ] {
        assert!(plain.contains(&limit), "not found: {limit}");
    }
}
