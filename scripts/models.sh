#!/usr/bin/env bash
# Runs the models of the log's races (src/log/tests/interleavings.rs), so many iterations each
# (default 2000):
#
#     scripts/models.sh [ITERATIONS]
set -euo pipefail
cd "$(dirname "$0")/.."
export PLIMSOLL_ITERATIONS=${1:-2000}
export RUSTFLAGS="${RUSTFLAGS:-} --cfg plimsoll_model"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/models"
cargo test --features sim --lib -- log::tests::interleavings
