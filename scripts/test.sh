#!/bin/bash
# Runs every test and sums up. Arguments go to the test programs, such as a part of a test's name.
set -uo pipefail
cd "$(dirname "$0")/.."
begin=$SECONDS

scripts/install-test-packages.sh || exit 1
cargo build --workspace --all-targets || exit 1

logs=${CARGO_TARGET_DIR:-target}/test-logs
mkdir -p "$logs"
code=0

# part NAME COMMAND...: runs one part, keeps what it says, remembers whether it failed.
part() {
  local name=$1
  shift
  echo
  echo "=== $name"
  "$@" 2>&1 | tee "$logs/$name.log"
  [ "${PIPESTATUS[0]}" -eq 0 ] || code=1
}

part crates cargo test --workspace --exclude underpass-lab --no-fail-fast -- "$@"
# One at a time: these share the machine's two or so processors with the programs that they start.
part lab cargo test -p underpass-lab --no-fail-fast -- --test-threads=1 "$@"

# sum WHAT...: adds up the numbers before any of these words in the closing line of each test program.
sum() {
  local words
  words=$(IFS='|'; echo "$*")
  sed -nE "s/^test result: .*[^0-9]([0-9]+) ($words);.*/\1/p" "$logs/crates.log" "$logs/lab.log" |
    awk '{ total += $1 } END { print total + 0 }'
}

echo
echo "=== summary"
failed=$(sum failed)
skipped=$(sum ignored skipped)
grep -hE '^test .* \.\.\. (FAILED|skipped|ignored)' "$logs/crates.log" "$logs/lab.log"
if [ "$failed" -ne 0 ]; then code=1; fi
took=$((SECONDS - begin))
printf '%s passed, %s failed, %s skipped\n(in %d min %d s)\n' \
  "$(sum passed)" "$failed" "$skipped" $((took / 60)) $((took % 60))
[ $code -eq 0 ] || echo "FAILED (the full output is in $logs)"
exit $code
