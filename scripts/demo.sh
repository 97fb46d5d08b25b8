#!/bin/bash
# Shows the main job: a download through two firewalls whose path is cut ten times.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install-test-packages.sh
cargo build -p underpass-cli -p underpass-lab --bin underpass --bin underpass-demo
demo=${CARGO_TARGET_DIR:-target}/debug/underpass-demo

if [ "$(id -u)" -ne 0 ] && unshare -Urnm true 2>/dev/null; then
  # Without root: the same as root of a user namespace, with a /run of its own for the names of networks.
  exec unshare -Urnm bash -c 'mount -t tmpfs tmpfs /run && exec "$0"' "$demo"
fi
exec "$demo"
