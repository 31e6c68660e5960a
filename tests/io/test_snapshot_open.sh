#!/bin/sh
# tests/io/test_snapshot_open.sh MAKE_SNAPSHOT PLUGIN_FOLDER: h5dump and h5py read a snapshot's segments, and all of its
# cache through the manifest, from any working directory, plain segments without our plugin; what is missing reads as
# NaN; and they find what io/snapshot/SNAPSHOT.md says where it says. Skipped (77) where there is neither program.
set -u
make_snapshot=$1 plugins=$2
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

mkdir "$work/bf16" "$work/f32" || exit 1
"$make_snapshot" "$work/bf16" || exit 1
"$make_snapshot" "$work/f32" f32 || exit 1
HDF5_PLUGIN_PATH=$plugins
export HDF5_PLUGIN_PATH
unset HDF5_VDS_PREFIX

# --- The text at the beginning.

first_lines() {
    head -n 2 "$work/bf16/small.kvs/manifest.h5" | tr '\n' ' ' | grep -q '^kvarve snapshot manifest format 2 $'
}
check "the manifest begins with a text" first_lines

# --- h5dump.

dump_f32() { # dump_f32 FILE DATASET EXPECTED
    cd / && h5dump -d "$2" -b LE -o "$work/dumped" "$1" && cmp "$work/dumped" "$3"
}
dump_rows() { # the first values of rows 99 and 100, which are of two segments
    cd / && h5dump -d /layers/2/v -s 99,0,0 -c 2,1,2 "$work/bf16/small.kvs/manifest.h5" >"$work/rows" &&
        grep -q '(99,0,0): -14.1875, 14.625' "$work/rows" && grep -q '(100,0,0): 14.25, 14.6875' "$work/rows"
}
dump_missing() { # rows 100 and on of layer 2 are nowhere
    cp -r "$work/bf16/small.kvs" "$work/missing.kvs" && rm "$work/missing.kvs/L002-003.T00000100-00000150.S0002.h5" &&
        h5dump -d /layers/2/v -s 99,0,0 -c 2,1,2 "$work/missing.kvs/manifest.h5" >"$work/rows" &&
        grep -q '(99,0,0): -14.1875, 14.625' "$work/rows" && grep -q '(100,0,0): nan, nan' "$work/rows"
}
without_plugin() (
    HDF5_PLUGIN_PATH=$work
    "$@"
)
fails() { ! "$@"; }
dump_manifest() {
    h5dump -d /manifest "$work/bf16/small.kvs/manifest.h5" >"$work/manifest" &&
        grep -q 'L001-003.T00000000-00000100.S0001.h5' "$work/manifest" && grep -q 'a \\"name' "$work/manifest"
}
if command -v h5dump >"$work/out"; then
    for layer in 0 1 2; do
        for part in k v; do
            check "h5dump: all rows of layer $layer, $part" dump_f32 "$work/f32/small.kvs/manifest.h5" \
                /layers/$layer/$part "$work/f32/$layer.$part"
        done
    done
    head -c 6400 "$work/f32/1.v" >"$work/first" # 100 rows
    check "h5dump: a segment" dump_f32 "$work/f32/small.kvs/L001-003.T00000000-00000100.S0001.h5" /layers/1/v \
        "$work/first"
    check "h5dump: bf16 across segments" dump_rows
    check "h5dump: the manifest's text" dump_manifest
    for part in k v; do
        check "h5dump: plain segments, $part" without_plugin dump_f32 "$work/f32/small.kvs/manifest.h5" \
            /layers/0/$part "$work/f32/0.$part"
    done
    check "h5dump: coded segments want the plugin" fails without_plugin dump_f32 "$work/f32/small.kvs/manifest.h5" \
        /layers/1/k "$work/f32/1.k"
    check "h5dump: a segment is missing" dump_missing
else
    echo "h5dump is not here (package hdf5-tools)"
fi

# --- h5py.

cat >"$work/read.py" <<'END'
import json, os, sys, h5py, numpy
folder, type_name = sys.argv[1:]
snapshot = os.path.join(folder, "small.kvs")
name = os.path.join(snapshot, "manifest.h5")
os.chdir("/")
parts = ["k", "v"]

def plain(layer, part):
    return numpy.fromfile(f"{folder}/{layer}.{part}", "<f4").reshape(150, 2, 8)

# Where a segment is missing.
missing = os.path.join(snapshot, "L002-003.T00000100-00000150.S0002.h5")
os.rename(missing, folder + "/aside.h5")
with h5py.File(name, "r") as manifest:
    rows = manifest["layers/2/v"][:]
    assert (rows[:100] == plain(2, "v")[:100]).all() and numpy.isnan(rows[100:]).all()
os.rename(folder + "/aside.h5", missing)

# The cache of each layer as one array.
manifest = h5py.File(name, "r")
for layer in range(3):
    for part in parts:
        rows = manifest[f"layers/{layer}/{part}"]
        assert rows.is_virtual and rows.shape == (150, 2, 8) and rows.dtype == "<f4", rows
        assert (rows[:] == plain(layer, part)).all(), f"layer {layer}, {part}"

# The text, and the arrays that it refers to, which lie where it says.
text = manifest["manifest"][()].decode()
holds = json.loads(text)
head = open(name, "rb").read(4096).rstrip(b"\0").decode().split("\n")
assert head[2] == f"bytes {os.path.getsize(name)}", head
offset, n_bytes = (int(word) for word in head[3].split()[1:])
everything = open(name, "rb").read()
assert everything[offset:offset + n_bytes].decode() == text
for array, place in holds["arrays"].items():
    data = manifest[array]
    assert data.size == place["n_elements"], array
    raw = data[()].tobytes()
    at = place["file_offset"]
    assert everything[at:at + len(raw)] == raw, array
sequence = holds["sequences"][0]
assert sequence["id"] == 'a "name"' and sequence["extents"] == [[0, 60, 0], [60, 58, 90]]
assert list(manifest["tokens"][:4]) == [0, 1, 2, 3] and manifest["tokens"].shape == (120,)
assert manifest["text"][()].tobytes().decode() == "It was a dark n\u00edght"
assert [tuple(entry) for entry in manifest["logprobs"][:]] == [(4, -0.5), (-1, -2)]
assert list(manifest["batch/is_done"][:]) == [1, 0, 1]
assert manifest["last_logits"].shape == (1, 10) and manifest["last_logits"][0, 0] == 0.5

# Each segment alone, and its index.
for segment in holds["segments"]:
    file = h5py.File(os.path.join(snapshot, segment["file"]), "r")
    layers = sorted(int(layer) for layer in file["layers"])
    index = file["index"]
    assert index.id.get_offset() == segment["index_offset"]
    for layer in layers:
        for part in parts:
            data = file[f"layers/{layer}/{part}"]
            is_plain = segment.get("plain", False)
            assert numpy.isnan(data.fillvalue) and (data.chunks is None) == is_plain
            row0 = data.attrs["row0"]
            assert data.attrs["layer"] == layer
            assert (data[:] == plain(layer, part)[row0:row0 + len(data)]).all(), (segment["file"], layer, part)
            entries = index[layer - layers[0], parts.index(part)]
            if is_plain:
                begins = data.id.get_offset() + numpy.cumsum(entries[:, 1]) - entries[:, 1]
                assert (entries[:, 0] == begins).all() and entries[:, 1].sum() == data.id.get_storage_size()
                continue
            assert data.id.get_num_chunks() == index.shape[2]
            for chunk, entry in enumerate(entries):
                info = data.id.get_chunk_info_by_coord((chunk * segment["chunk_tokens"], 0, 0))
                assert (info.byte_offset, info.size) == tuple(entry[:2]), (layer, part, chunk)
    size = data.dtype.itemsize if type_name == "f32" else 2
    assert data.id.get_type().get_size() == size
END
python=
for candidate in python3 /usr/bin/python3; do
    [ -n "$python" ] || ! "$candidate" -c 'import h5py' 2>"$work/out" || python=$candidate
done
cat >"$work/read_plain.py" <<'END'
import sys, h5py, numpy
folder = sys.argv[1]
rows = h5py.File(folder + "/small.kvs/manifest.h5", "r")["layers/0/k"][:]
assert (rows == numpy.fromfile(folder + "/0.k", "<f4").reshape(rows.shape)).all()
END
if [ -n "$python" ]; then
    for type in bf16 f32; do
        check "h5py: a snapshot of $type" "$python" "$work/read.py" "$work/$type" $type
        check "h5py: plain segments of $type" without_plugin "$python" "$work/read_plain.py" "$work/$type"
    done
else
    echo "no python3 here has h5py (package python3-h5py)"
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] || exit 1
[ "$passed" -gt 1 ] || exit 77
