#!/usr/bin/env bash
# Runs every fuzz target for SECONDS each (default 60):
#
#     scripts/fuzz.sh [SECONDS]
#
# Needs a nightly toolchain; installs cargo-fuzz if it is not there. Crashing inputs are left in
# fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
for target in batch decompress segment metadata script; do
    echo "== $target, $seconds s"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -print_final_stats=1 2>&1 |
        grep -E 'stat::|ERROR|panicked|Done|DONE'
done
