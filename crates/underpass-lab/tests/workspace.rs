//! The crates depend on each other as `ARCHITECTURE.md` says, and on others within limits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

type Table = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/NAME")
        .into()
}

/// What is built for this platform, and nothing that only others need.
fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.other_options(vec![
        "--locked".into(),
        "--filter-platform".into(),
        platform,
    ]);
    command.exec().expect("cargo metadata works in a workspace")
}

fn members(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

/// The rows of the first table with the header `crate | may depend on`.
fn table(text: &str) -> Table {
    let rows = text
        .lines()
        .skip_while(|line| line.replace(' ', "") != "|crate|maydependon|")
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let names = |cell: &str| -> BTreeSet<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let name = names(cells[0])
            .pop_first()
            .unwrap_or_else(|| panic!("no crate in {row}"));
        (name, names(cells[1]))
    })
    .collect()
}

/// A row's crates and what those may depend on in turn.
fn reach(table: &Table, name: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut next: Vec<&String> = table.get(name).into_iter().flatten().collect();
    while let Some(name) = next.pop() {
        if all.insert(name.clone()) {
            next.extend(table.get(name).into_iter().flatten());
        }
    }
    all
}

fn forbidden_edges(table: &Table, edges: &[(String, String)]) -> Vec<String> {
    let bad = edges
        .iter()
        .filter(|(from, to)| !reach(table, from).contains(to));
    bad.map(|(from, to)| format!("{from} -> {to}")).collect()
}

#[test]
fn crates_depend_on_each_other_as_the_table_says() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (table, metadata) = (table(&text), metadata());
    let names: BTreeSet<String> = members(&metadata)
        .iter()
        .map(|p| p.name.to_string())
        .collect();
    assert_eq!(
        names,
        table.keys().cloned().collect(),
        "the table has a row for each crate"
    );
    for name in &names {
        assert!(
            !reach(&table, name).contains(name),
            "the table lets {name} depend on itself"
        );
    }
    let mut edges = Vec::new();
    for package in members(&metadata) {
        let own = package
            .dependencies
            .iter()
            .filter(|other| names.contains(&other.name));
        edges.extend(own.map(|other| (package.name.to_string(), other.name.clone())));
    }
    assert_eq!(forbidden_edges(&table, &edges), Vec::<String>::new());
}

#[test]
fn an_edge_that_is_not_in_the_table_is_found() {
    let table = table(
        "text\n\n| crate | may depend on |\n|---|---|\n| `a` | – |\n| `b` | `a` |\n| `c` | `b` |\n",
    );
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert!(forbidden_edges(&table, &[edge("b", "a"), edge("c", "a")]).is_empty());
    assert_eq!(
        forbidden_edges(&table, &[edge("a", "b"), edge("b", "c")]),
        ["a -> b", "b -> c"]
    );
}

/// Crates that only some of ours may name, and why.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("snow", &["underpass-seal"], "one place for the handshake"),
    ("aws-lc-rs", &["underpass-seal"], "one place for sealing"),
    ("opaque-ke", &["underpass-seal"], "one place for passwords"),
    ("argon2", &["underpass-seal"], "one place for passwords"),
    (
        "rustls",
        &["underpass-carrier"],
        "TLS is a carrier's business",
    ),
    (
        "rustls-webpki",
        &["underpass-carrier"],
        "certificates are checked where TLS is",
    ),
    ("sqlx", &["underpass-store"], "one place for the database"),
    (
        "clap",
        &["underpass-cli"],
        "only the program has a command line",
    ),
    (
        "anyhow",
        &["underpass-cli", "underpass-lab"],
        "libraries have errors of their own",
    ),
];

#[test]
fn reserved_crates_are_named_only_where_they_belong() {
    let metadata = metadata();
    for (reserved, owners, why) in RESERVED {
        for package in members(&metadata) {
            // Tests may look behind what they test.
            let names_it = package
                .dependencies
                .iter()
                .any(|other| other.name == *reserved && other.kind != DependencyKind::Development);
            let may = owners.contains(&package.name.as_str());
            assert!(!names_it || may, "{} names {reserved}: {why}", package.name);
        }
    }
}

/// Everything that is built into `name`, itself included, with the features that are on.
fn built_into(metadata: &Metadata, name: &str) -> BTreeMap<String, Vec<String>> {
    let resolve = metadata.resolve.as_ref().expect("cargo metadata resolves");
    let nodes: BTreeMap<&PackageId, _> =
        resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let start = members(metadata)
        .into_iter()
        .find(|package| package.name == name);
    let mut next = vec![&start.unwrap_or_else(|| panic!("no crate {name}")).id];
    let mut seen = BTreeSet::new();
    while let Some(id) = next.pop() {
        if !seen.insert(id) {
            continue;
        }
        let normal = nodes[id].deps.iter().filter(|dependency| {
            dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal)
        });
        next.extend(normal.map(|dependency| &dependency.pkg));
    }
    let features = |id: &PackageId| nodes[id].features.iter().map(ToString::to_string).collect();
    seen.into_iter()
        .map(|id| (metadata[id].name.to_string(), features(id)))
        .collect()
}

/// With these `rand` draws from the system. Without them it is traits, through which a library takes what it is handed.
const DRAWING: &[&str] = &[
    "std",
    "std_rng",
    "getrandom",
    "os_rng",
    "sys_rng",
    "thread_rng",
];

#[test]
fn pure_crates_hold_nothing_that_does_io() {
    let metadata = metadata();
    for pure in ["underpass-seal", "underpass-proto"] {
        let built = built_into(&metadata, pure);
        for io in [
            "tokio", "mio", "socket2", "hyper", "rustls", "rustix", "tracing",
        ] {
            assert!(!built.contains_key(io), "{pure} is pure and has {io} in it");
        }
        let rand = built.get("rand").into_iter().flatten();
        let drawing: Vec<_> = rand.filter(|it| DRAWING.contains(&it.as_str())).collect();
        assert!(
            drawing.is_empty(),
            "{pure} is pure and has rand with {drawing:?}"
        );
    }
}

/// Licences that may be linked in. Of an expression with `OR`, one is enough; with `AND`, all must be here.
const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
];

/// Whether an SPDX expression (annex D of SPDX 2.3) is satisfied by allowed licences. The old form with a slash means
/// `OR`; an exception (`WITH`) only ever adds rights.
fn allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_ascii_whitespace().collect();
    let mut rest = words.as_slice();
    let result = any_of(&mut rest);
    result && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> bool {
    let mut result = all_of(words);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        result |= all_of(words);
    }
    result
}

fn all_of(words: &mut &[&str]) -> bool {
    let mut result = one(words);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        result &= one(words);
    }
    result
}

fn one(words: &mut &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else {
        return false;
    };
    *words = rest;
    if *first == "(" {
        let result = any_of(words);
        *words = words.strip_prefix(&[")"]).unwrap_or_default();
        return result;
    }
    if let ["WITH", _, rest @ ..] = *words {
        *words = rest;
    }
    LICENCES.contains(first)
}

#[test]
fn licences_are_read_as_their_expressions_mean() {
    for good in [
        "MIT",
        "MIT/GPL-3.0",
        "GPL-2.0 OR ISC",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
    ] {
        assert!(allowed(good), "{good}");
    }
    assert!(allowed("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
    for bad in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "",
        "(MIT OR ISC) AND AGPL-3.0",
        "MIT ISC",
    ] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_the_registry() {
    let metadata = metadata();
    let used: BTreeSet<&PackageId> = metadata
        .resolve
        .iter()
        .flat_map(|r| r.nodes.iter().map(|node| &node.id))
        .collect();
    for package in metadata
        .packages
        .iter()
        .filter(|package| used.contains(&package.id))
    {
        let licence = package.license.as_deref().unwrap_or_default();
        assert!(
            allowed(licence),
            "{} {}: licence {licence:?}",
            package.name,
            package.version
        );
        match &package.source {
            Some(source) => assert!(source.is_crates_io(), "{} is from {source}", package.name),
            None => assert!(
                metadata.workspace_members.contains(&package.id),
                "{}",
                package.name
            ),
        }
    }
}

/// Crates that must not be built in, and what to use instead.
const BANNED: &[(&str, &str)] = &[
    ("openssl", "rustls"),
    ("openssl-sys", "rustls"),
    ("native-tls", "rustls"),
    ("ring", "aws-lc-rs: one cryptographic library"),
    ("rustls-pemfile", "rustls-pki-types reads PEM itself"),
    ("async-std", "tokio"),
    ("chrono", "std::time and humantime"),
    ("reqwest", "hyper, which the carriers sit on"),
    ("serde_yaml", "toml"),
];

/// Crates of which one version must serve all: a second one doubles state, keys or what has to be trusted.
const SINGLE: &[&str] = &[
    "tokio",
    "hyper",
    "http",
    "rustls",
    "aws-lc-rs",
    "snow",
    "bytes",
    "tracing",
    "sqlx",
    "socket2",
    "zstd",
    "lz4_flex",
    "libsqlite3-sys",
    "serde",
];

/// What is really built. `cargo metadata` also names crates that only an optional feature of a dependency wants.
fn built() -> BTreeSet<(String, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [
        "tree",
        "--workspace",
        "--locked",
        "--edges",
        "normal,build,dev",
    ];
    let tree = std::process::Command::new(cargo)
        .args(arguments)
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo tree starts");
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let text = String::from_utf8(tree.stdout).expect("names of crates are ASCII");
    let pair = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    text.lines().filter_map(pair).collect()
}

#[test]
fn banned_and_doubled_crates_are_kept_out() {
    let built = built();
    assert!(built.iter().any(|(name, _)| name == "tokio"), "{built:?}");
    let versions = |wanted: &str| built.iter().filter(|(name, _)| name == wanted).count();
    for (banned, instead) in BANNED {
        assert_eq!(
            versions(banned),
            0,
            "{banned} is in the tree; use {instead}"
        );
    }
    for single in SINGLE {
        assert!(
            versions(single) <= 1,
            "several versions of {single} are in the tree"
        );
    }
}
