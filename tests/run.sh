#!/bin/sh
# tests/run.sh: install what is missing, build, and run every test; then those of the GPU backend on an emulated GPU;
# then all of the first again under AddressSanitizer and UndefinedBehaviorSanitizer. What wants a GPU: tests/gpu.sh.
#
#     tests/run.sh [--fast | --long] [--no-install]
#
#   --fast         leave the emulated GPU and the sanitizers out
#   --long         for the night: more rounds of kills, every job under Slurm, every variant under sanitizers
#   --no-install   install nothing, only say what is missing
# The last line is "N passed, N failed, N skipped"; the exit status is 0 only if nothing failed.
# A test that cannot run here (no material for it, no tool) is skipped and says why. One that is not there at all, or
# has no result, is a failure: tests/list.txt knows them all.
set -u

fast=no
setup_options=--tests
for option; do
    case $option in
    --fast) fast=yes ;;
    --long) export KVARVE_LONG=1 ;; # tests look at it themselves
    --no-install) setup_options="$setup_options --no-install" ;;
    *)
        sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"
        [ "$option" = --help ] && exit 0 || exit 2
        ;;
    esac
done

cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
. jobs/mpi_env.sh
mpi_env 4 # the most ranks that a test starts

n_passed=0 n_failed=0 n_skipped=0
start=$(date +%s)
times=

# --- Phases: each counts what it ran, and how long it took.

begin() {
    printf '\n== %s\n' "$1"
    phase=$1
    phase_start=$(date +%s)
}
end() { # end PASSED FAILED SKIPPED
    n_passed=$((n_passed + $1)) n_failed=$((n_failed + $2)) n_skipped=$((n_skipped + $3))
    times="$times$(printf '%6d s  %-32s %d passed, %d failed, %d skipped' \
        $(($(date +%s) - phase_start)) "$phase" "$1" "$2" "$3")
"
}
finish() {
    printf '\n%s%6d s  all\n%d passed, %d failed, %d skipped\n' \
        "$times" $(($(date +%s) - start)) $n_passed $n_failed $n_skipped
    [ $n_failed -eq 0 ]
    exit
}

# check NAME COMMAND...: one test; exit status 77 is a skip.
check() {
    begin "$1"
    shift
    "$@"
    case $? in
    0) end 1 0 0 ;;
    77) end 0 0 1 ;;
    *)
        echo "FAILED: $phase"
        end 0 1 0
        return 1
        ;;
    esac
}

# run_ctest NAME FOLDER [LABEL]: the tests of a build, or those of them that the list has with that label.
run_ctest() {
    begin "$1"
    folder=$2 label=${3-}
    if ! tests/check_tests.sh registered "$folder"; then
        end 0 1 0
        return
    fi
    # A test that hangs is a failure. One more than there are processors, as many wait, for a launcher or a disk.
    ctest --test-dir "$folder" -j $(($(nproc) + 1)) --timeout 300 --no-tests=error --output-on-failure \
        --output-junit junit.xml ${label:+-L "$label"}
    status=$?
    tests/check_tests.sh ran "$folder" "$label" || status=1
    n() { sed -n "s/^.*[[:space:]]$1=\"\([0-9]*\)\".*/\1/p" "$root/$folder/junit.xml" 2>/dev/null | head -n 1; }
    all=$(n tests) failed=$(n failures) skipped=$(($(n skipped) + $(n disabled)))
    # A test whose program is missing counts as not run, which looks like a skip: the exit status knows better.
    if [ $status -ne 0 ] && [ "${failed:-0}" -eq 0 ]; then
        end 0 1 0
    else
        end $((all - failed - skipped)) "$failed" $skipped
    fi
}

# --- What is run.

# Machine code for two kinds of GPU is enough to test what the compiler makes of the kernels; for all it takes minutes.
# shellcheck disable=SC2086 # several words
check "set-up and build" jobs/setup.sh $setup_options -- "-DKVARVE_CUDA_ARCHITECTURES=80;90" || finish
check "no lost test: the check finds every kind" tests/check_tests.sh --self-test
check "layers: the check finds every kind" tests/check_layers.sh --self-test
check "layers" tests/check_layers.sh
check "style: text" tests/check_style.sh text
check "style: clang-format" tests/check_style.sh format
check "style: shellcheck" tests/check_style.sh shell
run_ctest "tests" build
[ $fast = no ] || finish

# shellcheck disable=SC2086 # several words
build_emulated() {
    jobs/setup.sh $setup_options --build-dir "$root/build-emulated" --target gpu_tests -- -DKVARVE_CUDA=EMULATED
}
check "emulated GPU: build" build_emulated && run_ctest "emulated GPU: tests" build-emulated gpu

sanitize="-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined"
sanitized=$root/build-sanitize

# Warnings are errors in the first build; here the sanitizers' own code raises false ones. With -O1 asserts stay in, and
# the suite stays short.
build_sanitized() {
    jobs/setup.sh $setup_options --build-dir "$sanitized" -- -DKVARVE_SANITIZE=ON -DKVARVE_WERROR=OFF \
        -DKVARVE_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
        -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O1 -g1" || return
    compiler=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$sanitized/CMakeCache.txt")
    "$compiler" -shared -fPIC -fno-omit-frame-pointer tests/sanitizers/sanitizer_preload.c \
        -o "$sanitized/sanitizer_preload.so"
}
check "sanitizers: build" build_sanitized || finish

# No detect_stack_use_after_return: with it GCC (12 to 14 seen) misaligns AVX-512 variables on the stack.
export ASAN_OPTIONS="detect_leaks=1:verify_asan_link_order=0:detect_stack_use_after_return=0"
export LSAN_OPTIONS="suppressions=$root/tests/sanitizers/lsan.supp:print_suppressions=0"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
export LD_PRELOAD="$sanitized/sanitizer_preload.so"

probe() {
    "$compiler" -g $sanitize tests/sanitizers/sanitizer_probe.c -o "$sanitized/sanitizer_probe" || return 1
    for fault in overflow undefined leak; do
        if "$sanitized/sanitizer_probe" $fault >"$sanitized/probe.log" 2>&1; then
            echo "a fault was not reported: $fault"
            return 1
        fi
    done
    if "$sanitized/sanitizer_probe" none; then return 0; fi
    # Some containers forbid what a leak check needs.
    echo "skipped: leaks cannot be found on this machine; the other faults can"
    return 77
}
check "sanitizers: a fault is reported" probe
"$sanitized/sanitizer_probe" none >"$sanitized/probe.log" 2>&1 || ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0"
run_ctest "sanitizers: tests" build-sanitize
finish
