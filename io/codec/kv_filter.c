#include "io/codec/kv_filter.h"

status kv_filter_register(void) {
    if (H5Zregister(&kv_filter_class) < 0) return status_fail("HDF5 does not take the filter of KV frames");
    return STATUS_OK;
}

status kv_filter_set(hid_t create_properties, const kv_chunk *chunk) {
    const unsigned values[MOST_KV_FILTER_VALUES] = {
        kv_type_number(chunk->shape.type), (unsigned)chunk->shape.n_tokens, (unsigned)chunk->shape.n_kv_heads,
        (unsigned)chunk->shape.head_dim,   (unsigned)chunk->n_layers,       (unsigned)chunk->n_parts,
    };
    const size_t n = kv_chunk_count_parts(chunk) == 1 ? N_KV_FILTER_VALUES : MOST_KV_FILTER_VALUES;
    if (H5Pset_filter(create_properties, KV_FILTER_ID, H5Z_FLAG_MANDATORY, n, values) < 0)
        return status_fail("HDF5 does not take the filter of KV frames for a dataset");
    return STATUS_OK;
}
