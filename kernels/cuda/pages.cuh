/* kernels/cuda/pages.cuh: where K and V of a position lie, for kernels and for host tests. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifndef __CUDACC__
#ifndef __host__
#define __host__
#define __device__
#endif
#endif

/* Of kv head `head` (v: behind all k heads), the element index in the pool of one layer of position `pos` of
 * a span whose page ids begin at page_ids; page_elements: of a whole page. Fits 1M positions and any pool. */
__host__ __device__ static inline size_t kv_element(const int32_t *page_ids, int page_tokens,
                                                    size_t page_elements, int n_kv_heads, int head_dim,
                                                    int64_t pos, int head, int is_v) {
    size_t page = (size_t)page_ids[pos / page_tokens], slot = (size_t)(pos % page_tokens);
    size_t row = (size_t)(head + (is_v ? n_kv_heads : 0)) * (size_t)page_tokens + slot;
    return page * page_elements + row * (size_t)head_dim;
}
