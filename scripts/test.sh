#!/bin/bash
# Runs every test and sums up. Arguments go to the test programs, such as a part of a test's name.
set -uo pipefail
cd "$(dirname "$0")/.."
begin=$SECONDS

scripts/install-test-packages.sh || exit 1
cargo build --workspace --all-targets || exit 1

# These wait for paths that are cut for as long as half of the others take, so those run beside them.
beside=(cuts authority_death)
# These compare times or rates with each other, or keep both processors busy, so nothing runs beside them.
alone=(channels latency herd unmodified)
# Every kind of proxy takes too long for a test that everybody runs: scripts/soak.sh goes through them.
long=(proxy_matrix)

logs=${CARGO_TARGET_DIR:-target}/test-logs
rm -rf "$logs"
mkdir -p "$logs"
code=0

# run LOG TARGETS... -- ARGUMENTS...: one command for all crates, since a part of them would be built anew with other
# features. The lab's own harness runs the tests of a program one at a time.
run() {
  local log=$logs/$1.log
  shift
  cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
  return "${PIPESTATUS[0]}"
}

# targets NAME...: the options that choose these integration tests.
targets() { printf -- '--test\n%s\n' "$@"; }

# What is left mostly waits too, so it is dealt to two lanes.
others=()
for file in crates/*/tests/*.rs crates/*/tests/*/main.rs; do
  name=$(basename "${file%/main.rs}" .rs)
  [[ " ${beside[*]} ${alone[*]} ${long[*]} ${others[*]-} " == *" $name "* ]] || others+=("$name")
done

odd=()
even=()
for at in "${!others[@]}"; do
  if ((at % 2)); then odd+=("${others[at]}"); else even+=("${others[at]}"); fi
done

mapfile -t options < <(targets "${beside[@]}")
run beside "${options[@]}" -- "$@" > /dev/null &
waiting=($!)
mapfile -t options < <(targets "${odd[@]}")
run odd "${options[@]}" -- "$@" > /dev/null &
waiting+=($!)
mapfile -t options < <(targets "${even[@]}")
run even --lib --bins "${options[@]}" -- "$@" || code=1
run doc --doc -- "$@" || code=1
for lane in "${waiting[@]}"; do wait "$lane" || code=1; done
cat "$logs"/{odd,beside}.log
mapfile -t options < <(targets "${alone[@]}")
run alone "${options[@]}" -- "$@" || code=1

# sum WHAT...: adds up the numbers before any of these words in the closing line of each test program.
sum() {
  local words
  words=$(IFS='|'; echo "$*")
  cat "$logs"/*.log | sed -nE "s/^test result: .*[^0-9]([0-9]+) ($words);.*/\1/p" |
    awk '{ total += $1 } END { print total + 0 }'
}

echo
echo "=== summary"
failed=$(sum failed)
skipped=$(sum ignored skipped)
grep -hE '^test .* \.\.\. (FAILED|skipped|ignored)' "$logs"/*.log
if [ "$failed" -ne 0 ]; then code=1; fi
took=$((SECONDS - begin))
printf '%s passed, %s failed, %s skipped\n(in %d min %d s)\n' \
  "$(sum passed)" "$failed" "$skipped" $((took / 60)) $((took % 60))
[ $code -eq 0 ] || echo "FAILED (the full output is in $logs)"
exit $code
