#!/bin/bash
# The tests that take longer the more one asks of them, at full length. Arguments go to the test programs.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-test-packages.sh
cargo build --workspace --all-targets
export UNDERPASS_SOAK=1 UNDERPASS_TEST_LIMIT=${UNDERPASS_TEST_LIMIT:-14400}
exec cargo test -p underpass-lab --no-fail-fast -- --test-threads=1 "$@"
