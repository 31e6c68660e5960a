#include "io/codec/kv_blocks.h"

#include <stddef.h>

extern const kv_blocks kv_blocks_portable;
#if defined(__x86_64__)
extern const kv_blocks kv_blocks_avx512, kv_blocks_avx2;
#endif

const kv_blocks *const kv_blocks_all[] = {
#if defined(__x86_64__)
    &kv_blocks_avx512,
    &kv_blocks_avx2,
#endif
    &kv_blocks_portable,
    NULL,
};

const kv_blocks *kv_blocks_best(void) {
    size_t i = 0;
    while (!kv_blocks_all[i]->is_available())
        i++;
    return kv_blocks_all[i];
}
