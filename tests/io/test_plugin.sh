#!/bin/sh
# tests/io/test_plugin.sh TEST_KV_FILTER PLUGIN_FOLDER: h5dump and h5py read frames of KV cache as plain arrays, with
# the filter plugin and nothing else of ours, and do not read damaged ones. Skipped (77) where there is neither.
set -u
writer=$1 plugins=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() { # check WHAT COMMAND...
    what=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$what"
        cat "$work/out"
    fi
}
refused() { ! "$@"; }

"$writer" "$work/frames.h5" "$work/plain" || exit 1
# The same with one byte in the middle of a frame flipped.
cp "$work/frames.h5" "$work/damaged.h5"
printf '\377' | dd of="$work/damaged.h5" bs=1 seek=12345 conv=notrunc 2>"$work/dd"
cmp -s "$work/frames.h5" "$work/damaged.h5" &&
    printf '\0' | dd of="$work/damaged.h5" bs=1 seek=12345 conv=notrunc 2>"$work/dd"

read_with_h5dump() { # read_with_h5dump PLUGINS FILE DATASET
    HDF5_PLUGIN_PATH=$1 h5dump -d "$3" -b LE -o "$work/dumped" "$2" && cmp "$work/dumped" "$work/plain"
}
if command -v h5dump >"$work/out"; then
    check "h5dump reads coded frames" read_with_h5dump "$plugins" "$work/frames.h5" /lossless
    check "h5dump reads raw frames" read_with_h5dump "$plugins" "$work/frames.h5" /none
    check "h5dump fails on a damaged frame" refused read_with_h5dump "$plugins" "$work/damaged.h5" /lossless
    check "h5dump needs the plugin" refused read_with_h5dump "$work" "$work/frames.h5" /lossless
else
    echo "h5dump is not here (package hdf5-tools)"
fi

cat >"$work/read.py" <<'END'
import sys, h5py
file, dataset, plain = sys.argv[1:]
rows = h5py.File(file, "r")[dataset][:]
assert rows.shape == (150, 3, 40) and rows.dtype == "<f4", (rows.shape, rows.dtype)
assert rows.tobytes() == open(plain, "rb").read(), "other values"
END
python=
for candidate in python3 /usr/bin/python3; do
    [ -n "$python" ] || ! "$candidate" -c 'import h5py' 2>"$work/out" || python=$candidate
done
if [ -n "$python" ]; then
    export HDF5_PLUGIN_PATH="$plugins"
    check "h5py reads coded frames" "$python" "$work/read.py" "$work/frames.h5" lossless "$work/plain"
    check "h5py reads raw frames" "$python" "$work/read.py" "$work/frames.h5" none "$work/plain"
    check "h5py fails on a damaged frame" refused "$python" "$work/read.py" "$work/damaged.h5" lossless "$work/plain"
else
    echo "no python3 here has h5py (package python3-h5py)"
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ $((passed + failed)) -gt 0 ] || exit 77
[ "$failed" -eq 0 ]
