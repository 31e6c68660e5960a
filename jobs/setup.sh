#!/bin/sh
# jobs/setup.sh: make this machine able to build kvarve, then build it. Quick when there is nothing to do.
#
#     jobs/setup.sh [--tests] [--plots] [--no-install] [--build-dir DIR] [--target NAME] [-- CMAKE-OPTION...]
#
# What is missing is found by trying, so that modules of a cluster count as well as packages. It is installed with apt
# where that is possible without asking (as root, or with a sudo that asks for no password); otherwise what is missing
# is listed, and the exit status is 2. What apt and CMake have to say goes to DIR/setup.log.
#   --tests        what the tests need is needed too
#   --plots        and what the plots and the HDF5 table of jobs/scaling.sh need
#   --no-install   never install, only say what is missing
#   --build-dir    where to build (default: build)
#   --target       what to build (default: all)
#   -- ...         passed to CMake
set -eu

usage() { sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"; }
say() { printf 'setup: %s\n' "$*"; }
refuse() {
    printf 'setup: %s\n' "$*" >&2
    exit 2
}

root=$(cd "$(dirname "$0")/.." && pwd)
build=build
target=all
tests=no
plots=no
install=yes
while [ $# -gt 0 ]; do
    case $1 in
    --tests) tests=yes ;;
    --plots) plots=yes ;;
    --no-install) install=no ;;
    --build-dir)
        [ $# -ge 2 ] || refuse "--build-dir needs a folder"
        build=$2
        shift
        ;;
    --target)
        [ $# -ge 2 ] || refuse "--target needs a name"
        target=$2
        shift
        ;;
    --help) usage && exit 0 ;;
    --)
        shift
        break
        ;;
    *) refuse "unknown option $1 (see --help)" ;;
    esac
    shift
done # what is left in "$@" is for CMake
case $build in /*) ;; *) build=$root/$build ;; esac

mkdir -p "$build"
log=$build/setup.log
: >"$log"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# The end of the log, then the reason, then the way out.
fail() {
    tail -n 40 "$log" >&2
    printf 'setup: %s; all of it is in %s\n' "$1" "$log" >&2
    exit 1
}

# --- What is needed: each function tries one thing.

# try_compile SOURCE COMPILER [OPTION...]: does this compile and link? COMPILER may hold options too, as $CC does.
try_compile() {
    printf '%b\n' "$1" >"$scratch/try.c"
    compiler=$2
    shift 2
    $compiler "$scratch/try.c" -o "$scratch/try" "$@" >>"$log" 2>&1
}

# CMake takes $CC, or else `cc`, which on a cluster may be the system's old compiler beside a module's new `gcc`.
has_compiler() {
    for candidate in "${CC-}" cc gcc clang; do
        if [ -n "$candidate" ] && try_compile "#include <omp.h>
#if defined __clang__ ? __clang_major__ < 14 : __GNUC__ < 11
#error this compiler is too old
#endif
int main(void) { return omp_get_max_threads() < 1; }" "$candidate" -fopenmp; then
            [ "$candidate" = cc ] || export CC="$candidate"
            return
        fi
    done
    return 1
}
has_make() { command -v make || command -v ninja; }
has_cmake() {
    cmake --version | awk '
        NR == 1 { split($3, v, "."); exit !(v[1] > 3 || v[1] == 3 && v[2] >= 22) }
        END { if (!NR) exit 1 }'
}
has_pkg_config() { command -v pkg-config; }
mpi_program='#include <mpi.h>\nint main(int n, char **a) { return MPI_Init(&n, &a); }'
has_mpi_compiler() { try_compile "$mpi_program" mpicc || try_compile "$mpi_program" "${CC-cc}"; }
has_mpi_launcher() { command -v mpirun || command -v mpiexec || command -v srun; }
least_hdf5=$(sed -n 's/^find_package(HDF5 \([0-9.]*\) .*/\1/p' "$root/CMakeLists.txt")
hdf5_program="#include <hdf5.h>
#if !H5_VERSION_GE($(echo "$least_hdf5" | tr . ,))
#error this HDF5 is too old
#endif
int main(void) { return H5open() < 0; }"
has_hdf5() {
    try_compile "$hdf5_program" h5cc -c || try_compile "$hdf5_program" h5pcc -c ||
        try_compile "$hdf5_program" "mpicc $(pkg-config --cflags hdf5-serial || pkg-config --cflags hdf5)" -c
}
# Any library with LAPACK's names: CMake finds more of them than are tried here, as that of a module of MKL.
has_lapack() {
    lapack_program='void dsyev_(void); int main(void) { return dsyev_ == 0; }'
    [ -n "${MKLROOT-}" ] || try_compile "$lapack_program" "${CC-cc}" -llapack -lblas ||
        try_compile "$lapack_program" "${CC-cc}" -lopenblas
}
has_h5py() { python3 -c 'import h5py' || /usr/bin/python3 -c 'import h5py'; }
has_slurm() (
    PATH=$PATH:/usr/sbin:/sbin
    command -v slurmctld && command -v slurmd && command -v sbatch
)
has_links() (
    PATH=$PATH:/usr/sbin:/sbin
    command -v ip && command -v tc
)
has_cunit() { pkg-config --exists cunit; }

missing= # one line each: what TAB Debian package TAB module
# need WHAT PACKAGE MODULE COMMAND...
need() {
    what=$1 package=$2 module=$3
    shift 3
    "$@" >>"$log" 2>&1 || missing="$missing$what	$package	$module
"
}

need_plots() {
    need "gnuplot (for plots)" "gnuplot-nox fonts-dejavu-core" gnuplot command -v gnuplot
    need "h5import (for a table in HDF5)" hdf5-tools HDF5 command -v h5import
}

find_missing() {
    missing=
    need "C compiler with OpenMP (GCC 11 or clang 14, or newer)" build-essential GCC has_compiler
    need "make or ninja" build-essential make has_make
    need "CMake 3.22 or newer" cmake CMake has_cmake
    need pkg-config pkg-config pkgconf has_pkg_config
    need "MPI compiler (mpicc)" libopenmpi-dev OpenMPI has_mpi_compiler
    need "MPI launcher (mpirun)" openmpi-bin OpenMPI has_mpi_launcher
    need cJSON libcjson-dev cJSON pkg-config --exists libcjson
    need "Oniguruma 6.9.8" libonig-dev Oniguruma pkg-config --atleast-version=6.9.8 oniguruma
    need utf8proc libutf8proc-dev utf8proc pkg-config --exists libutf8proc
    need "HDF5 $least_hdf5 or newer" libhdf5-dev HDF5 has_hdf5
    need LAPACK liblapack-dev LAPACK has_lapack
    need xxHash libxxhash-dev xxHash pkg-config --exists libxxhash
    # Threads do its work where it is missing and cannot be installed.
    if may_install >>"$log" 2>&1; then
        need "liburing (KV pages on a disk)" liburing-dev liburing pkg-config --exists liburing
    fi
    if [ $tests = yes ]; then
        need "CUnit (for the tests)" libcunit1-dev CUnit has_cunit
    fi
    if [ $plots = yes ]; then need_plots; fi
    # Tests of what other programs make of our files: skipped where these are not there, and cannot be installed.
    if [ $tests = yes ] && may_install >>"$log" 2>&1; then
        need "ccache (the tests build most files three times)" ccache ccache command -v ccache
        need "h5dump (for a test)" hdf5-tools HDF5 command -v h5dump
        need "h5py (for a test)" python3-h5py h5py has_h5py
        need_plots
        # Only root can start a Slurm for the job scripts. Its packages start nothing by themselves: it has no settings.
        if [ "$(id -u)" -eq 0 ]; then
            need "Slurm (for a test)" "slurmctld slurmd slurm-client" Slurm has_slurm
            need "ip and tc (for a test)" iproute2 iproute2 has_links
        fi
    fi
}

# column N: the Nth column of what is missing, each once, on one line.
column() { printf '%s' "$missing" | awk -F '\t' -v n="$1" '!seen[$n]++ { printf "%s%s", (NR > 1 ? " " : ""), $n }'; }

refuse_missing() {
    say "$1" >&2
    printf '%s' "$missing" | awk -F '\t' '{ printf "    %-54s package %-16s module %s\n", $1, $2, $3 }' >&2
    {
        echo "On Debian or Ubuntu:    sudo apt-get install $(column 2)"
        echo "On a cluster:           module load $(column 3)    (names differ; any that provide these will do)"
        echo "Then run this again."
    } >&2
    exit 2
}

# --- Install.

# Run a command as root; `true` says whether that is possible without asking.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}
may_install() { [ $install = yes ] && command -v apt-get && as_root true; }

apt_get() {
    # On a machine that has just started, its own updates may hold the lock for a while.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1
}

find_missing
if [ -n "$missing" ]; then
    may_install >>"$log" 2>&1 || refuse_missing "this machine lacks:"
    packages=$(column 2)
    say "installing with apt: $packages"
    apt_get update || say "apt-get update failed; going on with the package lists that are here"
    # shellcheck disable=SC2086 # one word for each package
    apt_get install --no-install-recommends $packages || fail "apt-get could not install $packages"
    hash -r
    find_missing
    [ -z "$missing" ] || refuse_missing "apt installed what it has, but this machine still lacks (see $log):"
fi

# --- Build.

# The tests are built whenever they can be, so that one build folder serves every script.
with_tests=OFF
if [ $tests = yes ] || has_cunit >>"$log" 2>&1; then with_tests=ON; fi

cd "$root"
export CCACHE_BASEDIR="$root" CCACHE_NOHASHDIR=1 # what one clone compiled serves the next
say "configuring ${build#"$root"/}"
cmake -S . -B "$build" -DKVARVE_TESTS=$with_tests "$@" >>"$log" 2>&1 || fail "CMake could not configure"
say "building with $(nproc) jobs"
cmake --build "$build" --target "$target" -j "$(nproc)" >>"$log" 2>&1 || fail "the build failed"
say "${build#"$root"/} is up to date"
