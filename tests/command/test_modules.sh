#!/bin/sh
# tests/command/test_modules.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR BUILD_DIR CMAKE: the program needs no library of
# GPUs to start; what is installed works where it is put; and without its modules it does all that needs no GPU.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
build=$1 cmake=$2
place=$all/place
backend='--device cuda: no usable GPU: the GPU backend cannot be loaded'

no_gpu_libraries() {
    if ! command -v readelf >"$temp/which"; then
        skipped 'libraries' 'no readelf here'
        return
    fi
    readelf -d "$kvarve" | grep NEEDED >"$temp/needed"
    check 'libraries' 'it needs one of GPUs' eval '! grep -E "cuda|cublas|nccl" "$temp/needed"'
}

# says NAME ARGUMENTS...: the run gives the text of the one on the CPU.
says() {
    name=$1
    shift
    generate "$@" --prompt 'It was' --max-tokens 4
    expect "$name" 0 || return
    check "$name" 'another text than on the CPU' cmp "$temp/out" "$all/text"
}

# loads DEVICE: the run asks the system's loader for the GPU backend.
loads() {
    run_under='env LD_DEBUG=files'
    generate 1 --prompt 'It was' --max-tokens 4 --device "$1"
    run_under='timeout 120'
    [ "$status" -eq 0 ] && grep -q 'file=kvarve_cuda.so' "$temp/err"
}

installed() {
    check 'installed' 'it cannot be' "$cmake" --install "$build" --prefix "$place"
    kvarve=$(find "$place" -type f -name kvarve)
    module=$(find "$place" -type f -name kvarve_cuda.so)
    check 'installed: module' 'it is not there' [ -n "$module" ]
    generate 1 --prompt 'It was' --max-tokens 4 --device cpu
    cp "$temp/out" "$all/text"
    says 'installed: CPU' 2 --device cpu
    check 'installed: CPU alone' 'the module is loaded' eval '! loads cpu'
    generate 1 --prompt 'It was' --max-tokens 4 --device cuda
    if [ "$status" -eq 0 ]; then
        check 'installed: auto' 'the module is not loaded' loads auto
        return
    fi
    expect_error 'installed: no GPU' 2 'no usable GPU: '
    check 'installed: no GPU' 'the module cannot be loaded' eval '! grep "cannot be loaded" "$temp/err"'
    # A driver may be there without a GPU, and then only the backend can tell.
    if ldconfig -p | grep -q libcuda.so.1; then return; fi
    check 'installed: auto, no driver' 'the module is loaded' eval '! loads auto'
}

without() { # without NAME REASON: as the module is now
    for np in 1 2; do
        generate $np --prompt x --device cuda
        refused "$1, $np ranks" 2 "$backend: " "$2"
    done
    says "$1: auto" 2
}

no_module() {
    rm "$module"
    without 'no module' 'kvarve_cuda.so: cannot open shared object file'
}

broken_module() {
    echo 'this is no library' >"$module"
    without 'broken module' '/kvarve_cuda.so: '
}

run_chain no_gpu_libraries installed no_module broken_module
end_test
