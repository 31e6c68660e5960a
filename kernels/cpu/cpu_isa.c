#include "kernels/cpu/cpu_isa.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool has_avx512f(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512(void) {
    return has_avx512f() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}

/* GCC 12 does not know the flag by name; the kernel must allow a process the tiles, which are large (Linux,
 * Documentation/arch/x86/xstate.rst). */
static bool has_amx(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
    unsigned a, b, c, d;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    return (d & AMX_BF16) && (d & AMX_TILE) && !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

static bool has_always(void) {
    return true;
}

/* Best first. */
static const struct {
    const char *name;
    const cpu_kernels *tables;
    bool (*available)(void);
} isas[] = {
#if defined(__x86_64__)
    {"amx", cpu_kernels_amx, has_amx},
    {"avx512", cpu_kernels_avx512, has_avx512},
    {"avx512f", cpu_kernels_avx512f, has_avx512f},
    {"avx2", cpu_kernels_avx2, has_avx2},
#endif
    {"portable", cpu_kernels_portable, has_always},
};

const char *cpu_isa_name(int i) {
    return i < (int)(sizeof isas / sizeof *isas) ? isas[i].name : NULL;
}

const cpu_kernels *cpu_isa_find(const char *isa, precision p) {
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if ((!isa || !strcmp(isa, isas[i].name)) && isas[i].available())
            return &isas[i].tables[p == PRECISION_F32 ? PRECISION_F32 : PRECISION_BF16];
    return NULL;
}

bool cpu_isa_available(const char *isa) {
    return cpu_isa_find(isa, PRECISION_F32) != NULL;
}
