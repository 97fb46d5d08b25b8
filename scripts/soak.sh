#!/bin/bash
# The tests that take long, at full length: 10,000 cuts over all carriers (and 250 on QUIC), 10 GiB past each slow reader, every
# kind of proxy, 5 GiB and 10,000 small files sent through 50 cuts, 50 kills of relays beside an scp of 1 GiB. Takes hours.
# Arguments go to the test programs, such as a part of a test's name.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-test-packages.sh
cargo build --workspace --all-targets
export UNDERPASS_SOAK=1
# Seconds that one test may take.
export UNDERPASS_TEST_LIMIT=${UNDERPASS_TEST_LIMIT:-43200}
code=0
for name in cuts files channels hostile proxy_matrix relays; do
  cargo test -p underpass-lab --test "$name" -- --test-threads=1 "$@" || code=1
done
exit $code
