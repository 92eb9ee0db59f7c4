#!/usr/bin/env bash
# Runs everything at once, and checks the history of it, for SECONDS (default 20) at each durability:
#
#     scripts/concurrency.sh [SECONDS]
#
# A failure prints a seed: PLIMSOLL_SEED=N scripts/concurrency.sh begins with the same.
set -euo pipefail
cd "$(dirname "$0")/.."
# Two tests share the time.
export PLIMSOLL_SECONDS=$((2 * ${1:-20}))
cargo test --features sim --lib -- --test-threads=1 --nocapture broker::concurrency_tests
