//! What each crate that has fuzz targets tests about them; its tests include this file.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The targets of a crate: names, and what takes the fuzzer's bytes.
type Targets<'a> = &'a [(&'a str, fn(&[u8]))];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// Each seed (target, file name, content) stands in the corpus; with `UNDERPASS_BLESS` set it is written there.
pub(crate) fn compare<'a>(seeds: impl IntoIterator<Item = (&'a str, String, Vec<u8>)>) {
    for (target, name, seed) in seeds {
        let folder = root().join("corpus").join(target);
        let file = folder.join(&name);
        if env::var_os("UNDERPASS_BLESS").is_some() {
            fs::create_dir_all(&folder).expect("the folder can be made");
            fs::write(&file, seed).expect("the seed can be written");
        } else {
            let same = fs::read(&file).ok() == Some(seed);
            assert!(same, "fuzz/corpus/{target}/{name} is not as it should be");
        }
    }
}

/// Everything in the corpus, what was once found included, harms no target.
pub(crate) fn replay(targets: Targets<'_>) {
    for (target, run) in targets {
        let folder = root().join("corpus").join(target);
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

/// There is a program for each target, which calls the function of that module that has the target's name without the prefix.
pub(crate) fn can_be_fuzzed(targets: Targets<'_>, module: &str, prefix: &str) {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let files = fs::read_dir(root().join("fuzz_targets")).expect("the targets");
    let of_this_module = files.filter(|file| {
        let path = file.as_ref().expect("an entry").path();
        let program = fs::read_to_string(path).expect("a target");
        program.contains(&format!("{module}::"))
    });
    assert_eq!(of_this_module.count(), targets.len());
    let programs = manifest.matches("[[bin]]").count();
    assert_eq!(programs, manifest.matches("path = \"fuzz_targets/").count());
    for (target, _) in targets {
        let path = format!("fuzz_targets/{target}.rs");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{target}");
        let program = fs::read_to_string(root().join(path)).expect("the target");
        let function = target.strip_prefix(prefix).expect("named for its module");
        let call = format!("{module}::{function}(data)");
        assert!(program.contains(&call), "{target}");
    }
}
