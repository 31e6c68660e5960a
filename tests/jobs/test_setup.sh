#!/bin/sh
# tests/jobs/test_setup.sh SOURCE_DIR CC: jobs/setup.sh says that an HDF5 is too old, which this project's calls do
# not have.
set -u
source=$1 cc=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/bin" "$work/include" || exit 1
cat >"$work/include/hdf5.h" <<'END'
#define H5_VERSION_GE(a, b, c) (1 > (a) || (1 == (a) && (10 > (b) || (10 == (b) && 4 >= (c)))))
static int H5open(void) { return 0; }
END
for name in h5cc h5pcc; do printf '#!/bin/sh\nexec %s -I%s "$@"\n' "$cc" "$work/include" >"$work/bin/$name"; done
real=$(command -v cmake) # so that nothing is built where HDF5 is good enough
printf '#!/bin/sh\n[ "$1" != --version ] || exec %s --version\nexit 1\n' "$real" >"$work/bin/cmake"
real=$(command -v pkg-config)
printf '#!/bin/sh\ncase "$*" in *hdf5*) exit 1 ;; esac\nexec %s "$@"\n' "$real" >"$work/bin/pkg-config"
chmod +x "$work/bin"/*

PATH=$work/bin:$PATH "$source/jobs/setup.sh" --no-install --build-dir "$work/build" >"$work/out" 2>&1
status=$?
if [ $status -eq 2 ] && grep -q '^    HDF5 1\.10\.5 or newer ' "$work/out"; then
    echo '1 passed, 0 failed'
else
    echo "FAILED: exit status $status, and it says:"
    cat "$work/out"
    exit 1
fi
