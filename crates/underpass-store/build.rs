//! Rebuilds the crate when a migration file is added, which the embedding macro alone does not see.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
