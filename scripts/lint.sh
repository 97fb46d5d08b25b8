#!/bin/bash
# Everything that is wrong and can be seen without running the programs.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
  echo "=== $*"
  "$@"
}

step cargo fmt --all --check
step cargo clippy --workspace --all-targets -- -D warnings
# Dependencies between crates, their licences and sources; links in the documentation.
step cargo test -q -p underpass-lab --test workspace --test documents
if command -v shellcheck >/dev/null; then step shellcheck scripts/*.sh .ci/run; fi
echo "lint: nothing found"
