#!/bin/sh
# tests/gpu.sh: everything that wants a GPU: build with CUDA, the tests on the GPU, its kernels under
# compute-sanitizer, and how fast they are beside what the GPU can do. About 8 minutes; the table comes last.
#
#     tests/gpu.sh [--packages DIR] [--build-dir DIR] [--results FILE]
#
#   --packages     Debian packages to unpack for this build, where a machine has CUDA, but not what kvarve needs, and
#                  cannot install it: tests/gpu_packages.sh downloads them elsewhere
#   --build-dir    where to build (default: build-gpu)
#   --results      the file that the table is appended to, with date, GPU, driver and commit (default: none)
# The line before the table is "N passed, N failed, N skipped". Without a GPU nothing is run: exit status 77.
set -u
cd "$(dirname "$0")/.." || exit 1
packages="" build=$(pwd)/build-gpu results=""
while [ $# -gt 1 ]; do
    case $1 in
    --packages) packages=$2 ;;
    --build-dir) build=$2 ;;
    --results) results=$2 ;;
    *) break ;;
    esac
    shift 2
done
[ $# -eq 0 ] || {
    sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"
    exit 2
}
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
[ -n "$gpu" ] || {
    echo 'skipped: no GPU here (nvidia-smi shows none)'
    exit 77
}
mkdir -p "$build" || exit 1
table=$build/table.txt
: >"$table"
n_passed=0 n_failed=0 n_skipped=0
begin=$(date +%s)

# check NAME SECONDS COMMAND...: a row of the table. What the command prints is in $build/out.txt, and its end is shown
# unless it passed.
check() {
    name=$1 limit=$2 start=$(date +%s)
    shift 2
    timeout "$limit" "$@" >"$build/out.txt" 2>&1
    status=$?
    case $status in
    0) n_passed=$((n_passed + 1)) said=passed ;;
    77) n_skipped=$((n_skipped + 1)) said=skipped ;;
    *) n_failed=$((n_failed + 1)) said="FAILED ($status)" ;;
    esac
    printf '%-54s %5d s  %s\n' "$name" $(($(date +%s) - start)) "$said" | tee -a "$table"
    [ "$said" = passed ] || tail -n 30 "$build/out.txt"
    [ "$said" = passed ]
}

# measure NAME SECONDS COMMAND...: the same, and what it prints belongs to the table.
measure() {
    if check "$@"; then cat "$build/out.txt" >>"$table"; fi
}

finish() {
    {
        commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
        printf '\n## %s, %s, commit %s\n\n```\n' "$(date -u +%F)" "$gpu" "$commit"
        cat "$table"
        printf '%d s in all: %d passed, %d failed, %d skipped\n```\n' $(($(date +%s) - begin)) $n_passed $n_failed \
            $n_skipped
    } >"$build/results.md"
    [ -z "$results" ] || cat "$build/results.md" >>"$results"
    printf '\n%d passed, %d failed, %d skipped\n' $n_passed $n_failed $n_skipped
    cat "$build/results.md"
    [ $n_failed -eq 0 ]
    exit
}

# ---- what the build needs ----

# A prefix of our own: nothing of the system changes. Programs that we build find its libraries by their RPATH; those of
# Open MPI are told by scripts of the same names.
make_prefix() {
    for file in "$packages"/*.deb; do dpkg -x "$file" "$prefix" || return 1; done
    mkdir -p "$prefix/bin"
    for program in mpicc:mpicc.openmpi mpirun:orterun pkg-config:pkgconf; do
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$library_path" "$prefix/usr/bin/${program#*:}" \
            >"$prefix/bin/${program%:*}"
    done
    chmod +x "$prefix"/bin/*
}

set -- -DKVARVE_CUDA=ON
if [ -n "$packages" ]; then
    prefix=$build/prefix libraries=$build/prefix/usr/lib/x86_64-linux-gnu
    library_path=$libraries:$libraries/hdf5/serial:$libraries/openmpi/lib:$prefix/lib/x86_64-linux-gnu
    export OPAL_PREFIX="$prefix/usr" PMIX_PREFIX="$prefix/usr" PATH="$prefix/bin:$PATH"
    export OMPI_MCA_mca_base_component_show_load_errors=0 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_pml=ob1
    export OMPI_MCA_plm_rsh_agent='' PKG_CONFIG_LIBDIR="$libraries/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$prefix"
    export packages prefix library_path
    make_prefix || {
        echo "gpu.sh: $packages: packages cannot be unpacked" >&2
        exit 1
    }
    set -- "$@" -DCMAKE_PREFIX_PATH="$prefix/usr" -DHDF5_ROOT="$libraries/hdf5/serial" \
        -DMPI_C_COMPILER="$prefix/bin/mpicc" -DMPIEXEC_EXECUTABLE="$prefix/bin/mpirun" \
        -DCMAKE_BUILD_RPATH="$(echo "$library_path" | tr : ';')" \
        -DCMAKE_EXE_LINKER_FLAGS="-Wl,--disable-new-dtags,-rpath-link,$library_path"
fi
. jobs/mpi_env.sh
mpi_env 4

# ---- all of it ----

check 'configure' 120 cmake -S . -B "$build" "$@" || finish
check 'build' 400 cmake --build "$build" -j "$(nproc)" || finish
tests=$build/tests
check 'operations on the GPU, against float64' 120 "$tests/test_device_ops" cuda
check 'choices on the GPU, against float64' 120 "$tests/test_device_choose"
check 'products on the GPU' 120 "$tests/test_cuda_matmul"
check 'attention on the GPU' 120 "$tests/test_cuda_attend"
check 'models: golden logits' 120 "$tests/test_golden"
for n in 1 3; do check "engine, $n ranks on this GPU" 120 mpirun -n $n "$tests/test_engine" cuda; done
check 'saved on the GPU, gone on from on the CPU and back' 120 sh tests/test_devices.sh "$build/kvarve" \
    "$(command -v mpirun)" jobs/demo/model "$(pwd)"
# The suite's commands take the GPU by themselves (--device auto); most of its time is the start of programs.
check 'all other tests' 300 ctest --test-dir "$build" -j "$(nproc)" --timeout 250 --output-on-failure \
    -E 'test_cuda_code|test_device_ops|test_device_choose|test_cuda|test_golden|test_engine.cuda|test_devices'
for tool in memcheck racecheck; do
    for test in test_cuda_matmul test_cuda_attend test_device_choose; do
        check "compute-sanitizer $tool $test" 100 compute-sanitizer --tool $tool --error-exitcode 1 "$tests/$test"
    done
done
# Of the code that this GPU runs, or that a newer one's is translated from.
case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1) in
8.*) architecture=80 ;;
*) architecture=90 ;;
esac
measure 'machine code of the kernels' 100 sh tests/test_cuda_code.sh "$build/modules/kvarve_cuda.so" \
    "$(sed -n 's/^CUDAToolkit_BIN_DIR:PATH=//p' "$build/CMakeCache.txt")" $architecture
measure 'benchmark of operations' 100 "$tests/bench_device" cuda
measure 'benchmark: 8B shape' 150 "$build/kvarve" bench --shape llama-8b --device cuda --depths 0,1024,32768 \
    --repeats 1 --sequences 16
finish
