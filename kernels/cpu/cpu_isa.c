#include "kernels/cpu/cpu_isa.h"

#include <string.h>

#if defined(__x86_64__)
static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
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
    {"avx512", cpu_kernels_avx512, has_avx512},
    {"avx2", cpu_kernels_avx2, has_avx2},
#endif
    {"portable", cpu_kernels_portable, has_always},
};

const char *const cpu_isa_names[] = {
#if defined(__x86_64__)
    "avx512",
    "avx2",
#endif
    "portable",
    NULL,
};

const cpu_kernels *cpu_isa_find(const char *isa, precision p) {
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if ((!isa || !strcmp(isa, isas[i].name)) && isas[i].available())
            return &isas[i].tables[p == PRECISION_F32 ? PRECISION_F32 : PRECISION_BF16];
    return NULL;
}

bool cpu_isa_available(const char *isa) {
    return cpu_isa_find(isa, PRECISION_F32) != NULL;
}
