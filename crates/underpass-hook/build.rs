//! Builds the library that is preloaded, from the same sources as the crate.
//!
//! It cannot be a target of Cargo's own. Without the standard library nothing unwinds, so it must be compiled with
//! `panic = "abort"`, and a profile sets that for a whole workspace or not at all. It also brings its own panic handler,
//! which must not meet that of the standard library in the tests of this crate. So the compiler is called once more.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rustc-check-cfg=cfg(preload)");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("Cargo sets {name}"));
    let library = PathBuf::from(variable("OUT_DIR")).join("libunderpass_hook.so");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--crate-name", "underpass_hook", "--crate-type", "cdylib"]);
    rustc.args([
        "--edition",
        "2024",
        "--cfg",
        "preload",
        "--cap-lints",
        "allow",
    ]);
    rustc.args(["--target", &variable("TARGET")]);
    for option in [
        "panic=abort",
        "opt-level=2",
        "lto=fat",
        "codegen-units=1",
        "strip=symbols",
    ] {
        rustc.args(["-C", option]);
    }
    // No library is named as needed, and so no version of a symbol either: what is missing comes from whatever C library
    // the program has.
    rustc.args(["-C", "link-args=-nostdlib -Wl,-soname,libunderpass_hook.so"]);
    if variable("CARGO_CFG_TARGET_ENV") == "musl" {
        rustc.args(["-C", "target-feature=-crt-static"]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    rustc.arg("-o").arg(&library).arg("src/lib.rs");
    let status = rustc.status().expect("the compiler that Cargo uses starts");
    assert!(
        status.success(),
        "the preloaded library does not build: {status}"
    );
}
