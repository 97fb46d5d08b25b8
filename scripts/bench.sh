#!/bin/bash
# Measures Underpass beside a raw connection and beside rathole, and prints the table of docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."

# `dev` builds faster and shows less: for trying out this script only.
profile=${BENCH_PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}
folder=$([ "$profile" = dev ] && echo debug || echo "$profile")

scripts/install-test-packages.sh
cargo build --profile "$profile" -p underpass-cli -p underpass-lab --bin underpass --bin underpass-bench
if [ -z "${RATHOLE_BIN:-}" ]; then
  tools=$PWD/$target/bench-tools
  [ "${target:0:1}" = / ] && tools=$target/bench-tools
  if [ ! -x "$tools/bin/rathole" ]; then
    cargo install --quiet --root "$tools" --version 0.5.0 \
      --no-default-features --features server,client,noise --profile "$profile" rathole
  fi
  export RATHOLE_BIN=$tools/bin/rathole
fi
exec "$target/$folder/underpass-bench"
