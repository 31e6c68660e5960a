#!/bin/sh
# findings/hdf5_bf16_halved.sh: HDF5 before 2.0 halves float32 values where it converts them to bf16: those that follow
# a subnormal number and are rounded up to a power of two.
#
# Seen with HDF5 1.14.6 (h5py 3.15.1 from PyPI) and 1.10.8 (Debian 12); 2.0.0 (h5py 3.16.0) is right. The type has 16
# bits: sign at bit 15, 8 bits of exponent from bit 7 (bias 127), 7 bits of fraction from bit 0. Writing reports no error.
# The values 1e-39, 8388204, 3, 8388204 (bf16 knows 8388608 as the nearest to 8388204) read back as
#     HDF5 1.14.6: 1.01019e-39 4194304 3 4194304
#     HDF5 2.0.0:  1.01019e-39 8388608 3 8388608
# and without the first value, both give 8388608: one subnormal number anywhere before it, in the same call, is enough.
#
# Exit status: 0 as described, 1 if not, 77 if the packages cannot be installed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/write.py" <<'END'
import h5py, numpy
from h5py import h5d, h5s, h5t
bf16 = h5t.IEEE_F32LE.copy()
bf16.set_fields(15, 7, 8, 0, 7)
bf16.set_size(2)
file = h5py.File("any.h5", "w", driver="core", backing_store=False)
def there_and_back(name, values):
    data = h5py.Dataset(h5d.create(file.id, name, bf16, h5s.create_simple((len(values),))))
    data[:] = numpy.array(values, "<f4")
    return " ".join(f"{value:.6g}" if value < 1 else f"{value:.0f}" for value in data[:])
print(f"HDF5 {h5py.version.hdf5_version}:", there_and_back(b"with", [1e-39, 8388204, 3, 8388204]),
      "| without the first:", there_and_back(b"without", [8388204, 3, 8388204]))
END

for version in 3.15.1 3.16.0; do
    python3 -m venv "$work/$version" && "$work/$version/bin/pip" -q install "h5py==$version" "numpy==2.3.5" || exit 77
    "$work/$version/bin/python" "$work/write.py" | tee -a "$work/seen"
done
cat >"$work/expected" <<'END'
HDF5 1.14.6: 1.01019e-39 4194304 3 4194304 | without the first: 8388608 3 8388608
HDF5 2.0.0: 1.01019e-39 8388608 3 8388608 | without the first: 8388608 3 8388608
END
cmp "$work/seen" "$work/expected"
