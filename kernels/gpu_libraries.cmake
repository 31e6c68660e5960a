# What the GPU backend needs of others: CUDA's compiler, headers and libraries, and NCCL. They may lie in several places, in
# several versions (toolkits, packages from PyPI, modules of a cluster), and a header of one with the library of another
# builds, and then does what nobody knows. So header and library are compared, and what is missing is named.

# kvarve_compare(PROBLEM LIBRARIES INCLUDES SOURCE): SOURCE prints lines "NAME HEADER'S-VERSION OWN-VERSION", and finds functions
# by their names with find(LIBRARY, NAME), in that very file: programs that are linked may find another at run time.
# PROBLEM: a line on the first of them that differ, or on why that cannot be told; "" if they are alike.
function(kvarve_compare problem libraries includes source)
    set(folder ${CMAKE_BINARY_DIR}/CMakeFiles/kvarve_compare)
    file(WRITE ${folder}/compare.c "#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
static void *find(const char *library, const char *name) {
    void *loaded = dlopen(library, RTLD_LAZY), *function = loaded ? dlsym(loaded, name) : NULL;
    if (function) return function;
    puts(dlerror());
    exit(1);
}
${source}")
    set(${problem} "" PARENT_SCOPE)
    if(CMAKE_CROSSCOMPILING)
        return()
    endif()
    unset(compare_status CACHE)
    try_run(compare_status compare_builds ${folder} ${folder}/compare.c CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${includes}"
            LINK_LIBRARIES ${CMAKE_DL_LIBS} COMPILE_OUTPUT_VARIABLE log RUN_OUTPUT_VARIABLE versions)
    list(REMOVE_ITEM includes "")
    string(REPLACE ";" ", " libraries "${libraries}")
    string(REPLACE ";" ", " includes "${includes}")
    if(NOT compare_builds)
        string(REGEX MATCH "[^\n]*error[^\n]*" log "${log}")
        set(${problem} "headers in ${includes} cannot be used: ${log}" PARENT_SCOPE)
        return()
    elseif(NOT compare_status EQUAL 0)
        string(STRIP "${versions}" versions)
        set(${problem} "a library cannot be used: ${versions}" PARENT_SCOPE)
        return()
    endif()
    string(REGEX MATCHALL "[^\n]+" lines "${versions}")
    foreach(line IN LISTS lines)
        string(REGEX MATCH "^(.*) ([^ ]*) ([^ ]*)$" line "${line}")
        if(NOT CMAKE_MATCH_2 STREQUAL CMAKE_MATCH_3)
            set(${problem} "${CMAKE_MATCH_1} is of version ${CMAKE_MATCH_3}, but its header of ${CMAKE_MATCH_2} \
(libraries: ${libraries}; headers in ${includes})" PARENT_SCOPE)
            return()
        endif()
    endforeach()
endfunction()

# kvarve_name_library(PROBLEM NAME FOLDER): lib NAME was not found, of which FOLDER may have a file of another name.
function(kvarve_name_library problem name folder)
    file(GLOB others ${folder}/lib/lib${name}.so.* ${folder}/lib64/lib${name}.so.*)
    set(text "lib${name}.so was not found")
    if(others)
        list(GET others 0 other)
        get_filename_component(folder ${other} DIRECTORY)
        get_filename_component(other ${other} NAME)
        string(APPEND text ", only ${other}, as packages from PyPI have it: ln -s ${other} ${folder}/lib${name}.so")
    endif()
    set(${problem} "${text}" PARENT_SCOPE)
endfunction()

# kvarve_find_cuda(PROBLEM): find_package(CUDAToolkit), of the toolkit that a compiler given as CMAKE_CUDA_COMPILER or CUDACXX
# belongs to; if none is given, the toolkit's is. NVTX_INCLUDE_DIR is cached.
# PROBLEM: a line on what is missing or does not fit; "" if all is there.
macro(kvarve_find_cuda problem)
    set(${problem} "")
    set(cuda_compiler "${CMAKE_CUDA_COMPILER}")
    if(NOT cuda_compiler)
        set(cuda_compiler "$ENV{CUDACXX}")
    endif()
    if(cuda_compiler AND NOT CUDAToolkit_ROOT AND NOT DEFINED ENV{CUDAToolkit_ROOT})
        find_program(cuda_compiler_path NAMES ${cuda_compiler} NO_CACHE)
        get_filename_component(cuda_compiler_path "${cuda_compiler_path}" REALPATH)
        get_filename_component(CUDAToolkit_ROOT "${cuda_compiler_path}" DIRECTORY)
        get_filename_component(CUDAToolkit_ROOT "${CUDAToolkit_ROOT}" DIRECTORY)
    endif()
    find_package(CUDAToolkit 12.0 QUIET)
    if(CUDAToolkit_BIN_DIR)
        get_filename_component(cuda_root "${CUDAToolkit_BIN_DIR}" DIRECTORY)
        find_path(NVTX_INCLUDE_DIR nvtx3/nvToolsExt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${cuda_root}/include)
        mark_as_advanced(NVTX_INCLUDE_DIR)
    endif()
    if(NOT CUDAToolkit_NVCC_EXECUTABLE)
        set(${problem} "nvcc was not found (CUDAToolkit_ROOT, or CUDACXX, says where it is)")
    elseif(CUDAToolkit_VERSION VERSION_LESS 12.0)
        set(${problem} "${CUDAToolkit_NVCC_EXECUTABLE} is of version ${CUDAToolkit_VERSION}: 12.0 or newer is needed")
    elseif(NOT CUDAToolkit_INCLUDE_DIR)
        set(${problem} "cuda_runtime.h was not found in ${cuda_root}/include")
    elseif(NOT CUDA_CUDART)
        kvarve_name_library(${problem} cudart ${cuda_root})
    elseif(NOT EXISTS ${CUDAToolkit_INCLUDE_DIR}/cublasLt.h AND NOT EXISTS "${CUDAToolkit_MATH_INCLUDE_DIR}/cublasLt.h")
        set(${problem} "cublasLt.h was not found in ${CUDAToolkit_INCLUDE_DIR}")
    elseif(NOT CUDA_cublasLt_LIBRARY)
        kvarve_name_library(${problem} cublasLt ${cuda_root})
    elseif(NOT NVTX_INCLUDE_DIR)
        set(${problem} "nvtx3/nvToolsExt.h was not found in ${CUDAToolkit_INCLUDE_DIR} (NVTX_INCLUDE_DIR says where it is)")
    else()
        if(NOT cuda_compiler)
            set(ENV{CUDACXX} ${CUDAToolkit_NVCC_EXECUTABLE})
        endif()
        string(REGEX MATCH "^[0-9]+[.][0-9]+" cuda_version ${CUDAToolkit_VERSION})
        kvarve_compare(${problem} "${CUDA_CUDART};${CUDA_cublasLt_LIBRARY}"
            "${CUDAToolkit_INCLUDE_DIRS};${CUDAToolkit_MATH_INCLUDE_DIR}" "
#include <cublasLt.h>
#include <cuda_runtime_api.h>
int main(void) {
    int (*find_runtime)(int *) = find(\"${CUDA_CUDART}\", \"cudaRuntimeGetVersion\"), runtime = 0;
    size_t (*find_cublas)(void) = find(\"${CUDA_cublasLt_LIBRARY}\", \"cublasLtGetVersion\"), cublas = find_cublas();
    find_runtime(&runtime);
    const int header = CUDART_VERSION;
    printf(\"${CUDAToolkit_NVCC_EXECUTABLE} %d.%d ${cuda_version}\\n\", header / 1000, header / 10 % 100);
    printf(\"libcudart %d.%d %d.%d\\n\", header / 1000, header / 10 % 100, runtime / 1000, runtime / 10 % 100);
    printf(\"libcublasLt %d.%d %zu.%zu\\n\", CUBLAS_VER_MAJOR, CUBLAS_VER_MINOR, cublas / 10000, cublas / 100 % 100);
    return 0;
}
")
    endif()
endmacro()

# kvarve_find_nccl(PROBLEM): NCCL_INCLUDE_DIR and NCCL_LIBRARY, cached; the library beside the header before any other. NCCL_ROOT
# says where it is, when it is in no usual place. After kvarve_find_cuda, or find_package(CUDAToolkit).
macro(kvarve_find_nccl problem)
    set(${problem} "")
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${NCCL_ROOT} ENV NCCL_ROOT ENV NCCL_HOME ${CUDAToolkit_INCLUDE_DIRS}
                                      PATH_SUFFIXES include)
    find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 NAMES_PER_DIR
                              HINTS ${NCCL_INCLUDE_DIR}/.. ${NCCL_ROOT} ENV NCCL_ROOT ENV NCCL_HOME ${CUDAToolkit_LIBRARY_DIR}
                              PATH_SUFFIXES lib lib64)
    mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
    if(NOT CUDAToolkit_FOUND)
        set(${problem} "it needs the CUDA toolkit (CUDAToolkit_ROOT says where it is)")
    elseif(NOT NCCL_INCLUDE_DIR)
        set(${problem} "nccl.h was not found (NCCL_ROOT says where it is)")
    elseif(NOT NCCL_LIBRARY)
        set(${problem} "libnccl.so was not found for ${NCCL_INCLUDE_DIR}/nccl.h (NCCL_ROOT says where it is)")
    else()
        kvarve_compare(${problem} "${NCCL_LIBRARY}" "${NCCL_INCLUDE_DIR};${CUDAToolkit_INCLUDE_DIRS}" "
#include <nccl.h>
int main(void) {
    int (*find_nccl)(int *) = find(\"${NCCL_LIBRARY}\", \"ncclGetVersion\"), code = 0;
    find_nccl(&code);
    printf(\"NCCL %d.%d.%d %d.%d.%d\\n\", NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH, code / 10000, code / 100 % 100, code % 100);
    return 0;
}
")
    endif()
endmacro()
