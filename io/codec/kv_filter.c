#include "io/codec/kv_filter.h"

status kv_filter_register(void) {
    if (H5Zregister(&kv_filter_class) < 0) return status_fail("HDF5 does not take the filter of KV frames");
    return STATUS_OK;
}

status kv_filter_set(hid_t create_properties, const kv_chunk_shape *chunk) {
    const unsigned values[N_KV_FILTER_VALUES] = {
        kv_type_number(chunk->type),
        (unsigned)chunk->n_tokens,
        (unsigned)chunk->n_kv_heads,
        (unsigned)chunk->head_dim,
    };
    if (H5Pset_filter(create_properties, KV_FILTER_ID, H5Z_FLAG_MANDATORY, N_KV_FILTER_VALUES, values) < 0)
        return status_fail("HDF5 does not take the filter of KV frames for a dataset");
    return STATUS_OK;
}
