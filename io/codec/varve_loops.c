#include "io/codec/varve_loops.h"

#include <stddef.h>

#if defined(__x86_64__)
extern const varve_loops varve_loops_avx512vnni, varve_loops_avx512, varve_loops_avx2;
#endif

const varve_loops *const varve_loops_all[] = {
#if defined(__x86_64__)
    &varve_loops_avx512vnni, &varve_loops_avx512,
    &varve_loops_avx2,
#endif
    &varve_loops_portable,   NULL,
};

const varve_loops *varve_loops_best(void) {
    size_t i = 0;
    while (!varve_loops_all[i]->is_available())
        i++;
    return varve_loops_all[i];
}
