#!/bin/sh
# tests/gpu_folder.sh BUILD DIR: gather into the new folder DIR all that tests/gpu.sh needs of BUILD and of this
# machine, for one that has a GPU and CUDA, but no compiler, no MPI, and none of the libraries that kvarve needs. DIR
# may be moved; its tests/gpu.sh is what to run. At most 60 MiB.
#
# Left out: CUDA and NCCL, which are that machine's, and what every system has: glibc and the compiler's libraries, of
# which it needs those of this machine or newer ones. MPI is Open MPI 4, whose plugins come along.
set -eu

refuse() {
    printf 'gpu_folder: %s\n' "$*" >&2
    exit 2
}
[ $# -eq 2 ] || {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
}
most_mib=60
source=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd) || refuse "$1: there is no such build"
[ -x "$build/kvarve" ] && [ -e "$build/modules/kvarve_cuda.so" ] || refuse "$1 holds no kvarve with a GPU backend"
[ ! -e "$2" ] || refuse "$2 is there already"
mkdir -p "$2"
folder=$(cd "$2" && pwd)

# ---- of the source ----

mkdir -p "$folder/jobs/demo"
for part in golden command generate fixtures; do mkdir -p "$folder/tests/$part"; done
cd "$source"
cp tests/gpu.sh "$folder/tests"
cp tests/command/test_devices.sh "$folder/tests/command"
cp tests/generate/test_kv_gpu.sh tests/generate/test_kv_host.sh "$folder/tests/generate"
cp tests/fixtures/command_test.sh tests/fixtures/snapshot_test.sh "$folder/tests/fixtures"
cp -R tests/golden/models "$folder/tests/golden"
cp -R jobs/demo/model jobs/demo/page.txt "$folder/jobs/demo"
cp jobs/mpi_env.sh "$folder/jobs"
git describe --always --dirty >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"

# ---- of the build ----

# The programs are those that gpu.sh names.
mkdir -p "$folder/build/tests" "$folder/build/modules" "$folder/lib"
cp "$build/kvarve" "$build/CMakeCache.txt" "$folder/build"
for module in "$build"/modules/*.so; do # but that of linear algebra, which only `calibrate` needs
    case $module in */kvarve_linear.so) ;; *) cp "$module" "$folder/build/modules" ;; esac
done
for name in $(sed -n 's/^[^#]*\$tests\/\([a-z_]*\).*/\1/p' tests/gpu.sh | sort -u); do
    if [ -x "$build/tests/$name" ]; then
        cp "$build/tests/$name" "$folder/build/tests"
    elif [ "$name" != test_nccl ]; then # which only a build with NCCL has
        refuse "$1 has no tests/$name"
    fi
done

# ---- of Open MPI ----

mpiexec=$(sed -n 's/^MPIEXEC_EXECUTABLE:[A-Z]*=//p' "$build/CMakeCache.txt")
info=$(dirname "$(readlink -f "$mpiexec")")/ompi_info
"$info" --version 2>/dev/null | grep -q ' v4\.' || refuse "$mpiexec is not Open MPI 4's"
mpi_folder() { "$info" --parsable --path "$1" | sed -n "s/^path:$1://p"; }
prefix=$(mpi_folder prefix)
mkdir -p "$folder/mpi/bin"
cp -L "$mpiexec" "$folder/mpi/bin/mpirun"
for part in pkglibdir pkgdatadir; do
    from=$(mpi_folder $part)
    to=$folder/mpi/${from#"$prefix"/}
    mkdir -p "$to"
    cp -RL "$from"/. "$to"
done
# Networks and OpenSHMEM are not for one machine; MPI's files, windows and topologies are not used, and neither are
# collective operations for many nodes, nor fast sums of numbers.
find "$folder/mpi" -name 'mca_*.so' | while read -r plugin; do
    case ${plugin##*/mca_} in
    io_* | fs_* | fbtl_* | fcoll_* | sharedfp_* | osc_* | topo_treematch.so) rm "$plugin" && continue ;;
    coll_adapt.so | coll_han.so | coll_monitoring.so | op_avx.so) rm "$plugin" && continue ;;
    esac
    if ldd "$plugin" | grep -q 'libuc[pt]\.\|libfabric\.\|libpsm\|libibverbs\.\|liboshmem\.'; then rm "$plugin"; fi
done
# PMIx, where Open MPI has none of its own, has plugins too.
pmix=$(ldd "$(mpi_folder pkglibdir)"/mca_pmix_*.so | sed -n 's/.*libpmix[^ ]* => \([^ ]*\).*/\1/p' | head -n 1)
if [ -n "$pmix" ]; then
    pmix=$(dirname "$(readlink -f "$pmix")")
    mkdir -p "$folder/pmix"
    cp -RL "$pmix/pmix" "$folder/pmix"
fi

# ---- the libraries of all these ----

programs() { find "$folder" -type f \( -perm -u+x -o -name '*.so' \) ! -name '*.sh'; }
programs | xargs ldd 2>/dev/null | sed -n 's/^[^/]* => \(\/[^ ]*\) .*/\1/p' | sort -u >"$folder/lib/list"
while read -r library; do
    case ${library##*/} in
    libc.so.* | libm.so.* | libmvec.so.* | libdl.so.* | librt.so.* | libpthread.so.* | libutil.so.* | libresolv.so.*) ;;
    libgcc_s.so.* | libstdc++.so.*) ;;
    libcuda* | libcublas* | libnv* | libnccl*) ;;
    *) cp -L "$library" "$folder/lib" ;;
    esac
done <"$folder/lib/list"
rm "$folder/lib/list"

chmod -R u+w "$folder"
{ programs && find "$folder/lib" -type f; } | sort -u | xargs strip
mib=$(($(du -sk "$folder" | cut -f 1) / 1024 + 1))
[ $mib -le $most_mib ] || refuse "$2 has $mib MiB, and $most_mib are the most: build for fewer kinds of GPU"
echo "gpu_folder: $2: $mib MiB; there, run tests/gpu.sh"
