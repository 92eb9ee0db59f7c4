#!/usr/bin/env bash
# Plants one bug after the other and runs the test that has to find it:
#
#     tests/planted/run.sh [NAME...]
#
# Each patch names its test in a line `# finds: TEST`, or `# model: TEST` for one of those that the
# model checker runs (`scripts/models.sh`). Fails if a bug is not found, does not apply, or does not
# compile.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
target="$root/target/planted"
flags=${RUSTFLAGS:-}
# Compiling is most of the time.
export CARGO_PROFILE_TEST_OPT_LEVEL=1

found=0
missed=()
for patch in "$root"/tests/planted/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
    test=$(sed -n 's/^# finds: //p' "$patch")
    model=$(sed -n 's/^# model: //p' "$patch")
    if [ -n "$model" ]; then
        test=$model
        # Built with other locks, so apart.
        export CARGO_TARGET_DIR="$target/models" RUSTFLAGS="$flags --cfg plimsoll_model"
    else
        export CARGO_TARGET_DIR="$target"
        export RUSTFLAGS="$flags"
    fi
    rm -rf "${tree:?}"/*
    git ls-files -z -co --exclude-standard -- src tests benches examples docs Cargo.toml Cargo.lock README.md |
        xargs -0 cp --parents -t "$tree"
    if ! (cd "$tree" && patch -s -p1 <"$patch"); then
        missed+=("$name: the patch does not apply")
        continue
    fi
    if ! (cd "$tree" && cargo test --features sim,lz4,zstd --lib --no-run --quiet) 2>"$tree/log"; then
        tail -n 20 "$tree/log"
        missed+=("$name: it does not compile")
        continue
    fi
    if (cd "$tree" && timeout 300 cargo test --features sim,lz4,zstd --lib --quiet -- --exact "$test") >"$tree/log" 2>&1; then
        missed+=("$name: $test passes")
    elif grep -q 'test result: FAILED\|panicked' "$tree/log"; then
        found=$((found + 1))
        echo "found   $name by $test"
    else
        tail -n 5 "$tree/log"
        missed+=("$name: $test did not run")
    fi
done
for line in "${missed[@]}"; do echo "MISSED  $line"; done
echo "$found passed, ${#missed[@]} failed"
[ ${#missed[@]} -eq 0 ]
