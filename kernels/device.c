#include "kernels/device.h"

#include "src/base/host.h"

#ifndef KVARVE_CUDA

static const char no_cuda[] = "this build has no CUDA (configure with -DKVARVE_CUDA=ON)";

int cuda_device_count(const char **why_none) {
    if (why_none) *why_none = no_cuda;
    return 0;
}

status cuda_device_open(precision p, int index, device **out) {
    (void)p, (void)index, (void)out;
    return status_refuse("--device cuda: %s", no_cuda);
}

uint64_t cuda_device_free_bytes(int index) {
    (void)index;
    return 0;
}

#endif

const char *device_kind_name(device_kind kind) {
    static const char *const names[N_DEVICE_KINDS] = {"auto", "cpu", "cuda"};
    return names[kind];
}

int device_count(device_kind kind, const char **why) {
    return kind == DEVICE_CPU ? 1 : cuda_device_count(why);
}

uint64_t device_free_bytes(device_kind kind, int index) {
    return kind == DEVICE_CPU ? host_available_bytes() : cuda_device_free_bytes(index);
}

status device_open(device_kind kind, int index, precision p, int n_threads, device **out) {
    return kind == DEVICE_CPU ? cpu_device_open(p, n_threads, NULL, out) : cuda_device_open(p, index, out);
}
