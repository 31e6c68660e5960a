#!/bin/sh
# findings/h5repack_leaves_out.sh: h5repack writes a file that lacks datasets, and its exit status says success: those
# with a filter that it cannot load, where it is told to change filters.
#
# Seen with h5repack 1.10.8 (Debian 12, hdf5-tools 1.10.8+repack1-1), where Blosc2's plugin is not on HDF5_PLUGIN_PATH.
# The input is a file of h5py 3.15.1 and hdf5plugin 6.0.0 (PyPI) with the datasets /plain and /coded. `h5repack -f NONE`
# prints
#     Warning: dataset </coded> cannot be read, user defined filter is not available
# and ends with 0; the output has /plain only: `h5repack -f NONE a.h5 b.h5 && mv b.h5 a.h5` loses /coded. Its help says
# nothing of this. Without -f it copies the chunks as they are, and all is there. This script prints
#     exit status 0; in the input: coded plain  in the output: plain
#
# Exit status: 0 as described, 1 if not, 77 if there is no h5repack 1.10.8 or the packages cannot be installed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset HDF5_PLUGIN_PATH

h5repack --version 2>"$work/log" | grep 'Version 1\.10\.8' || exit 77
python3 -m venv "$work/venv" && "$work/venv/bin/pip" -q install h5py==3.15.1 numpy==2.3.5 hdf5plugin==6.0.0 || exit 77
cat >"$work/write.py" <<'END'
import h5py, hdf5plugin, numpy, sys
with h5py.File(sys.argv[1], "w") as file:
    file.create_dataset("plain", data=numpy.arange(100))
    file.create_dataset("coded", data=numpy.arange(10000), chunks=(1000,), **hdf5plugin.Blosc2())
END
"$work/venv/bin/python" "$work/write.py" "$work/in.h5"

status=0
h5repack -f NONE "$work/in.h5" "$work/out.h5" || status=$?
echo "exit status $status; in the input: $(h5ls "$work/in.h5" | cut -d ' ' -f 1 | tr '\n' ' ')" \
    "in the output: $(h5ls "$work/out.h5" | cut -d ' ' -f 1 | tr '\n' ' ')"
[ $status -eq 0 ] && h5ls "$work/in.h5/coded" >"$work/log" && ! h5ls "$work/out.h5/coded" >"$work/log" 2>&1
