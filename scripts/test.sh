#!/bin/bash
# Runs every test and sums up. Arguments go to the test programs, such as a part of a test's name.
set -uo pipefail
cd "$(dirname "$0")/.."
begin=$SECONDS

scripts/install-test-packages.sh || exit 1
cargo build --workspace --all-targets || exit 1

logs=${CARGO_TARGET_DIR:-target}/test-logs
mkdir -p "$logs"
log=$logs/all.log
code=0

# One command for all crates: a part of them would be built anew with other features. The lab's own harness runs its
# tests one at a time, since they share the machine's processors with the programs that they start.
cargo test --workspace --no-fail-fast -- "$@" 2>&1 | tee "$log"
[ "${PIPESTATUS[0]}" -eq 0 ] || code=1

# sum WHAT...: adds up the numbers before any of these words in the closing line of each test program.
sum() {
  local words
  words=$(IFS='|'; echo "$*")
  sed -nE "s/^test result: .*[^0-9]([0-9]+) ($words);.*/\1/p" "$log" |
    awk '{ total += $1 } END { print total + 0 }'
}

echo
echo "=== summary"
failed=$(sum failed)
skipped=$(sum ignored skipped)
grep -E '^test .* \.\.\. (FAILED|skipped|ignored)' "$log"
if [ "$failed" -ne 0 ]; then code=1; fi
took=$((SECONDS - begin))
printf '%s passed, %s failed, %s skipped\n(in %d min %d s)\n' \
  "$(sum passed)" "$failed" "$skipped" $((took / 60)) $((took % 60))
[ $code -eq 0 ] || echo "FAILED (the full output is in $logs)"
exit $code
