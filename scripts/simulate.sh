#!/usr/bin/env bash
# Runs the simulation of replicated partitions (src/broker/simulation_tests) over so many seeds
# (default 200000). A failure names its seed; PLIMSOLL_SEED=<seed> runs that one alone.
#
#     scripts/simulate.sh [SEEDS]
set -euo pipefail
cd "$(dirname "$0")/.."
export PLIMSOLL_SEEDS=${1:-200000}
cargo test --lib -- simulation_tests::no_schedule
