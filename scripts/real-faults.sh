#!/usr/bin/env bash
# Lets real file systems die, disappear and fill up under a store that is in use, and come back
# empty (tests/it/real_faults.rs): three loop devices, with ext4 and, where mkfs.xfs is there, xfs.
# Takes root, perl, and 1 GiB of disk below TMPDIR.
#
#     scripts/real-faults.sh [TEST]
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
    echo "SKIPPED: real-faults.sh: mounting takes root" >&2
    exit 0
fi

dir=$(mktemp -d)
# A loop device goes with its last mount. Lazily: a test that failed may still hold a file.
unmount_all() {
    for number in 1 2 3; do
        while umount -l "$dir/$number" 2>/dev/null; do :; done
    done
}
trap 'unmount_all; rm -rf --one-file-system "$dir"' EXIT
trap 'exit 1' HUP INT TERM

for kind in ext4 xfs; do
    if ! command -v "mkfs.$kind" >/dev/null; then
        echo "SKIPPED: real-faults.sh: no mkfs.$kind" >&2
        continue
    fi
    unmount_all
    for number in 1 2 3; do
        # mkfs.xfs makes none that are smaller.
        rm -f "$dir/$number.image"
        truncate -s 320M "$dir/$number.image"
        "mkfs.$kind" -q "$dir/$number.image"
        mkdir -p "$dir/$number"
        mount -t "$kind" -o loop "$dir/$number.image" "$dir/$number"
    done
    echo "== $kind"
    PLIMSOLL_FILE_SYSTEMS="$dir/1:$dir/2:$dir/3" cargo test --features sim,cli --test it -- \
        --test-threads=1 --nocapture "real_faults::${1:-}"
done
