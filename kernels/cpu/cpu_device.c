#include "kernels/cpu/cpu_device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/memory.h"

enum { HUGE_PAGE_BYTES = 2 << 20, SMALL_PAGE_BYTES = 4096 };

/* More than the machine's memory is refused here: the system would grant it, and kill the process later. */
void *cpu_memory_new(size_t bytes) {
    size_t machine_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    void *memory = NULL;
    bool huge = bytes >= 2 * HUGE_PAGE_BYTES;
    const size_t alignment = huge                        ? HUGE_PAGE_BYTES
                             : bytes >= SMALL_PAGE_BYTES ? SMALL_PAGE_BYTES
                                                         : CACHE_LINE;
    if (bytes < machine_bytes && posix_memalign(&memory, alignment, bytes ? bytes : 1)) memory = NULL;
    if (!memory)
        status_fail(
            "out of memory: wanted %zu bytes of the machine's %zu; use more ranks on more nodes, or ask "
            "for less (context, sequences, KV memory)",
            bytes, machine_bytes);
    if (memory && huge) madvise(memory, bytes, MADV_HUGEPAGE); /* advice: a refusal changes nothing */
    return memory;
}

static void device_fail(cpu_device *dev, status st) {
    if (dev->failed) return;
    dev->failed = st;
    memcpy(dev->failed_text, status_text(), sizeof dev->failed_text);
}

void *cpu_device_scratch(cpu_device *dev, size_t bytes) {
    if (bytes <= dev->scratch_bytes) return dev->scratch;
    free(dev->scratch);
    dev->scratch = cpu_memory_new(bytes);
    dev->scratch_bytes = dev->scratch ? bytes : 0;
    if (!dev->scratch) device_fail(dev, STATUS_FAILED);
    return dev->scratch;
}

static void cpu_close(device *dev) {
    if (!dev) return;
    free(cpu_device_of(dev)->scratch);
    free(dev);
}

static status cpu_alloc(device *dev, size_t bytes, void **out) {
    (void)dev;
    void *memory = cpu_memory_new(bytes);
    if (!memory) return STATUS_FAILED;
    *out = memory;
    return STATUS_OK;
}

static void cpu_release(device *dev, void *ptr) {
    (void)dev;
    free(ptr);
}

static void cpu_copy_in(device *dev, void *dst, const void *host_src, size_t bytes) {
    (void)dev;
    if (bytes) memcpy(dst, host_src, bytes);
}

static void cpu_copy_out(device *dev, void *host_dst, const void *src, size_t bytes) {
    (void)dev;
    if (bytes) memcpy(host_dst, src, bytes);
}

/* Copies are over when they return, so that nothing is known of them. */
static status cpu_copy_open(device *dev, device_copy **out) {
    (void)dev;
    *out = NULL;
    return STATUS_OK;
}

static void cpu_copy_close(device *dev, device_copy *copy) {
    (void)dev, (void)copy;
}

static status cpu_copy_after(device *dev, device_copy *copy) {
    (void)dev, (void)copy;
    return STATUS_OK;
}

static status cpu_copy_begin(device *dev, device_copy *copy, void *dst, const void *src, size_t bytes) {
    (void)dev, (void)copy;
    if (bytes) memcpy(dst, src, bytes);
    return STATUS_OK;
}

static status cpu_copy_test(device *dev, device_copy *copy, bool *over) {
    (void)dev, (void)copy;
    *over = true;
    return STATUS_OK;
}

/* So are operations. */
static status cpu_fence_open(device *dev, device_fence **out) {
    (void)dev;
    *out = NULL;
    return STATUS_OK;
}

static void cpu_fence_close(device *dev, device_fence *fence) {
    (void)dev, (void)fence;
}

static bool cpu_fence_passed(device *dev, device_fence *fence) {
    (void)dev, (void)fence;
    return true;
}

static void cpu_begin_step(device *base, int n_spans, const span *spans) {
    cpu_device *dev = cpu_device_of(base);
    dev->n_spans = n_spans;
    dev->spans = spans;
}

static const char *cpu_bus_id(const device *dev) {
    (void)dev;
    return "";
}

static bool cpu_replay(device *dev, const void *x) {
    (void)dev, (void)x;
    return false;
}

static void cpu_record_end(device *dev) {
    (void)dev;
}

static status cpu_sync(device *base) {
    cpu_device *dev = cpu_device_of(base);
    status st = dev->failed;
    dev->failed = STATUS_OK;
    return st ? status_adopt(st, dev->failed_text) : STATUS_OK;
}

static const device_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .processor = cpu_device_isa,
    .bus_id = cpu_bus_id,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .copy_in = cpu_copy_in,
    .copy_out = cpu_copy_out,
    .alloc_host = cpu_alloc,
    .release_host = cpu_release,
    .copy_open = cpu_copy_open,
    .copy_close = cpu_copy_close,
    .copy_after = cpu_copy_after,
    .copy_begin = cpu_copy_begin,
    .copy_test = cpu_copy_test,
    .fence_open = cpu_fence_open,
    .fence_close = cpu_fence_close,
    .fence_set = cpu_fence_close,
    .fence_passed = cpu_fence_passed,
    .sync = cpu_sync,
    .measure_memory = cpu_measure_memory,
    .check = cpu_sync,
    .matrix_open = cpu_matrix_open,
    .matrix_load = cpu_matrix_load,
    .matrix_close = cpu_matrix_close,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .matmul = cpu_matmul,
    .matmul_add = cpu_matmul_add,
    .matmul_swiglu = cpu_matmul_swiglu,
    .begin_step = cpu_begin_step,
    .replay = cpu_replay,
    .record_end = cpu_record_end,
    .rope_table = cpu_rope_table,
    .kv_append = cpu_kv_append,
    .attend_part = cpu_attend_part,
    .attend_merge = cpu_attend_merge,
    .attend = cpu_attend,
    .take_queries = cpu_take_queries,
    .add_moments = cpu_add_moments,
    .add_norms = cpu_add_norms,
    .add_shares = cpu_add_shares,
    .expect = cpu_expect,
    .value_norms = cpu_value_norms,
    .read_codes = cpu_read_codes,
    .add_bias = cpu_add_bias,
    .choose = cpu_choose,
    .score = cpu_score,
    .top_logits = cpu_top_logits,
    .gather_rows = cpu_gather_rows,
};

status cpu_device_open(precision p, int n_threads, const char *isa, device **out) {
    if (n_threads < 1) return status_refuse("%d threads: at least one is needed", n_threads);
    const cpu_kernels *kernels = cpu_isa_find(isa, p);
    if (!kernels)
        return status_refuse("this processor or build has no instruction set \"%s\"; \"%s\" is there", isa,
                             cpu_isa_find(NULL, p)->isa);
    cpu_device *dev = mem_new(1, sizeof *dev);
    dev->base = (device){&cpu_ops, precision_act(p), precision_kv(p), KV_PANELS, .host_memory = true};
    dev->kernels = kernels;
    dev->exact = cpu_isa_find(kernels->isa, PRECISION_F32);
    dev->precision = p;
    dev->n_threads = n_threads;
    *out = &dev->base;
    return STATUS_OK;
}

const char *cpu_device_isa(const device *dev) {
    return ((const cpu_device *)dev)->kernels->isa;
}
