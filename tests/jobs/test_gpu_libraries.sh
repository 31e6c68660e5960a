#!/bin/sh
# tests/jobs/test_gpu_libraries.sh CMAKE SOURCE_DIR CC: what kernels/gpu_libraries.cmake says of CUDA toolkits and
# NCCL in which something is missing, or of another version. They are folders with a few lines in each file; no CUDA
# is needed.
set -u
cmake=$1 source=$2 cc=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
unset CUDACXX CUDA_PATH CUDAToolkit_ROOT NCCL_ROOT NCCL_HOME

# library FILE NAME FUNCTION: a library with one function.
library() {
    mkdir -p "$(dirname "$1")" && echo "$3" | "$cc" -shared -fPIC -Wl,-soname,"$2" -x c - -o "$1" || exit 1
}

# cuda FOLDER NVCC HEADER LIBRARY: a toolkit with these versions, as 13.0; cuBLAS of the same as the runtime.
cuda() {
    mkdir -p "$1/bin" "$1/include/nvtx3" || exit 1
    printf '#!/bin/sh\necho "Cuda compilation tools, release %s, V%s.1"\n' "$2" "$2" >"$1/bin/nvcc"
    chmod +x "$1/bin/nvcc"
    touch "$1/include/cuda_runtime.h" "$1/include/cublas_v2.h" "$1/include/nvtx3/nvToolsExt.h"
    printf '#define CUDART_VERSION %d\nint cudaRuntimeGetVersion(int *);\n' $((${3%.*} * 1000 + ${3#*.} * 10)) \
        >"$1/include/cuda_runtime_api.h"
    printf '#include <stddef.h>\nsize_t cublasLtGetVersion(void);\n' >"$1/include/cublasLt.h"
    printf '#define CUBLAS_VER_MAJOR %d\n#define CUBLAS_VER_MINOR %d\n' "${3%.*}" "${3#*.}" >>"$1/include/cublasLt.h"
    library "$1/lib/libcudart.so" libcudart.so \
        "int cudaRuntimeGetVersion(int *v) { *v = $((${4%.*} * 1000 + ${4#*.} * 10)); return 0; }"
    library "$1/lib/libcublasLt.so" libcublasLt.so \
        "unsigned long cublasLtGetVersion(void) { return $((${4%.*} * 10000 + ${4#*.} * 100)); }"
}

# nccl FOLDER HEADER LIBRARY FILE: NCCL 2.HEADER.0, whose library is called FILE.
nccl() {
    mkdir -p "$1/include" || exit 1
    printf '#define NCCL_MAJOR 2\n#define NCCL_MINOR %d\n#define NCCL_PATCH 0\nint ncclGetVersion(int *);\n' "$2" \
        >"$1/include/nccl.h"
    library "$1/lib/$4" libnccl.so.2 "int ncclGetVersion(int *v) { *v = $((20000 + $3 * 100)); return 0; }"
}

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.22)
project(try LANGUAGES C)
set(CMAKE_FIND_USE_CMAKE_SYSTEM_PATH OFF)
set(CMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH OFF)
include($source/kernels/gpu_libraries.cmake)
kvarve_find_cuda(cuda_problem)
message(STATUS "CUDA: '\${cuda_problem}' \$ENV{CUDACXX}")
if(WITH_NCCL)
    kvarve_find_nccl(nccl_problem)
    message(STATUS "NCCL: '\${nccl_problem}' \${NCCL_LIBRARY}")
endif()
END

# says NAME TEXT OPTION...: configured so, CMake says this. Nothing is looked for in the system's folders.
says() {
    name=$1 text=$2
    shift 2
    rm -f "$work/build/CMakeCache.txt" # what CMake knows of the compiler stays
    "$cmake" -S "$work/project" -B "$work/build" -DCMAKE_C_COMPILER="$cc" "$@" >"$work/out" 2>&1
    if grep -qF -e "$text" "$work/out"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s: it does not say: %s\n' "$name" "$text"
        cat "$work/out"
    fi
}
# broken NAME TEXT FILE...: a toolkit without these files.
broken() {
    name=$1 text=$2
    shift 2
    rm -rf "$work/broken" && cp -r "$work/cuda" "$work/broken"
    for file; do rm -r "$work/broken/$file"; done
    says "$name" "$text" -DCUDAToolkit_ROOT="$work/broken"
}

cuda "$work/cuda" 13.0 13.0 13.0
cuda "$work/old" 11.8 11.8 11.8
cuda "$work/new-headers" 13.0 13.2 13.0
cuda "$work/all-new" 13.2 13.2 13.2
cuda "$work/new-nvcc" 13.2 13.0 13.0

says 'all is there' "CUDA: '' $work/cuda/bin/nvcc" -DCUDAToolkit_ROOT="$work/cuda"
broken 'no nvcc' 'nvcc was not found (CUDAToolkit_ROOT, or CUDACXX, says where it is)' bin/nvcc
says 'an old one' "$work/old/bin/nvcc is of version 11.8.1: 12.0 or newer is needed" -DCUDAToolkit_ROOT="$work/old"
broken 'no headers' "cuda_runtime.h was not found in $work/broken/include" include/cuda_runtime.h
broken 'no runtime' 'libcudart.so was not found' lib/libcudart.so
broken 'no header of cuBLAS' "cublasLt.h was not found in $work/broken/include" include/cublasLt.h
broken 'no cuBLAS' 'libcublasLt.so was not found' lib/libcublasLt.so
broken 'no NVTX' "nvtx3/nvToolsExt.h was not found in $work/broken/include" include/nvtx3
says 'NVTX elsewhere' "CUDA: '' " -DCUDAToolkit_ROOT="$work/broken" -DNVTX_INCLUDE_DIR="$work/cuda/include"
mv "$work/cuda/lib/libcudart.so" "$work/cuda/lib/libcudart.so.13"
broken 'packages from PyPI' \
    "only libcudart.so.13, as packages from PyPI have it: ln -s libcudart.so.13 $work/broken/lib/libcudart.so"
mv "$work/cuda/lib/libcudart.so.13" "$work/cuda/lib/libcudart.so"

says 'headers of another place' 'nvcc is of version 13.0, but its header of 13.2 (' \
    -DCUDAToolkit_ROOT="$work/new-headers"
says 'runtime of another place' 'libcudart is of version 13.2, but its header of 13.0 (' \
    -DCUDAToolkit_ROOT="$work/cuda" -DCUDA_CUDART="$work/all-new/lib/libcudart.so"
says 'cuBLAS of another place' 'libcublasLt is of version 13.2, but its header of 13.0 (' \
    -DCUDAToolkit_ROOT="$work/cuda" -DCUDA_cublasLt_LIBRARY="$work/all-new/lib/libcublasLt.so"
says 'compiler of another place' 'nvcc is of version 13.2, but its header of 13.0 (' -DCUDAToolkit_ROOT="$work/new-nvcc"
cp -r "$work/cuda" "$work/empty" && : >"$work/empty/lib/libcublasLt.so"
says 'no library' 'a library cannot be used: ' -DCUDAToolkit_ROOT="$work/empty"
export CUDACXX="$work/new-nvcc/bin/nvcc"
says 'the compiler of CUDACXX' "$work/new-nvcc/bin/nvcc is of version 13.2, but its header of 13.0 ("
unset CUDACXX

nccl "$work/pypi" 30 30 libnccl.so.2
nccl "$work/mixed" 30 28 libnccl.so
nccl "$work/cuda" 28 28 libnccl.so
set -- -DCUDAToolkit_ROOT="$work/cuda" -DWITH_NCCL=ON
says 'NCCL of the toolkit' "NCCL: '' $work/cuda/lib/libnccl.so" "$@"
says 'NCCL of PyPI' "NCCL: '' $work/pypi/lib/libnccl.so.2" "$@" -DNCCL_ROOT="$work/pypi"
says 'NCCL of two versions' 'NCCL is of version 2.28.0, but its header of 2.30.0 (' "$@" -DNCCL_ROOT="$work/mixed"
rm "$work/mixed/lib/libnccl.so" "$work/cuda/include/nccl.h"
says 'NCCL of two places' 'NCCL is of version 2.28.0, but its header of 2.30.0 (' "$@" -DNCCL_ROOT="$work/mixed"
says 'no nccl.h' 'nccl.h was not found (NCCL_ROOT says where it is)' "$@"
rm "$work/cuda/lib/libnccl.so"
says 'no libnccl.so' "libnccl.so was not found for $work/mixed/include/nccl.h" "$@" -DNCCL_ROOT="$work/mixed"

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
