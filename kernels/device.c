#include "kernels/device.h"

#include <stdio.h>

#include "src/base/module.h"

#ifdef KVARVE_CUDA

static status load_cuda(const cuda_backend **out) {
    const void *backend = NULL;
    status st = module_load("kvarve_cuda.so", "kvarve_cuda_backend", &backend);
    if (st != STATUS_OK) return status_at(st, "the GPU backend cannot be loaded");
    *out = backend;
    return STATUS_OK;
}

#else

static status load_cuda(const cuda_backend **out) {
    (void)out;
    return status_refuse("this build has no CUDA (configure with -DKVARVE_CUDA=ON)");
}

#endif

/* Without NVIDIA's driver there is no GPU, and no need to load a backend with its large libraries. An
 * emulated GPU has none (KVARVE_CUDA_DRIVER is its file). */
static bool lacks_driver(void) {
#ifdef KVARVE_CUDA_DRIVER
    return !module_exists(KVARVE_CUDA_DRIVER);
#else
    return false;
#endif
}

const char *precision_weights(precision p) {
    static const char *const names[] = {"bf16", "f32", "int8"};
    return names[p];
}

const char *device_kind_name(device_kind kind) {
    static const char *const names[N_DEVICE_KINDS] = {"auto", "cpu", "cuda"};
    return names[kind];
}

int device_count(device_kind kind, const char **why) {
    static _Thread_local char why_not_loaded[STATUS_TEXT_BYTES];
    const cuda_backend *cuda = NULL;
    if (kind == DEVICE_CPU) return 1;
    if (kind == DEVICE_AUTO && lacks_driver()) {
        if (why) *why = "there is no NVIDIA driver on this host";
        return 0;
    }
    if (load_cuda(&cuda) == STATUS_OK) return cuda->count(why);
    snprintf(why_not_loaded, sizeof why_not_loaded, "%s", status_text());
    if (why) *why = why_not_loaded;
    return 0;
}

uint64_t device_free_bytes(device_kind kind, int index) {
    const cuda_backend *cuda = NULL;
    if (kind == DEVICE_CPU || load_cuda(&cuda) != STATUS_OK) return 0;
    return cuda->free_bytes(index);
}

/* On the CPU panels are filled up with rows of zeros; a GPU keeps the rows alone. */
size_t device_matrix_bytes(precision p, int64_t n_rows, int64_t n_cols) {
    return cpu_matrix_bytes(p, n_rows, n_cols);
}

status device_open(device_kind kind, int index, precision p, int n_threads, device **out) {
    const cuda_backend *cuda = NULL;
    if (kind == DEVICE_CPU) return cpu_device_open(p, n_threads, NULL, out);
    if (p == PRECISION_INT8)
        return status_refuse("--weights int8: the CPU only: give --device cpu, or leave --weights out");
    status st = load_cuda(&cuda);
    return st == STATUS_OK ? cuda->open(p, index, out) : status_at(st, "--device cuda");
}
