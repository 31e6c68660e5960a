/* io/codec/kv_filter.h: the frames of io/codec/kv_codec.h as an HDF5 filter, so that h5dump, h5py and any
 * other HDF5 program read the cache as plain arrays: within kvarve, and as a plugin for HDF5_PLUGIN_PATH.
 *
 * The filter's parameters (cd_values) are those of a whole chunk: the number of the element type (0: f32, 1:
 * bf16), n_tokens, n_kv_heads, head_dim; and, where a chunk is more than one part of one layer, n_layers and
 * n_parts. Chunks that HDF5 itself writes are encoded with KV_CODEC_LOSSLESS, or stored as they are where
 * they are more; the filter does not know which part of a layer they are of, and at which positions, so that
 * of codes (io/codec/kv_codes.h) it finds those of int8 only, and of values no wider than a key's group. */
#pragma once

#include <hdf5.h>

#include "io/codec/kv_codec.h"

/* In the range for private use (32768 .. 65535). */
enum { KV_FILTER_ID = 35670, N_KV_FILTER_VALUES = 4, MOST_KV_FILTER_VALUES = 6 };

/* What HDF5 wants to know of the filter. A frame that cannot be decoded makes it return 0, which HDF5 reports
 * as a failed read. */
extern const H5Z_class2_t kv_filter_class;

/* Make the filter known to this process's HDF5. Local. */
status kv_filter_register(void);

/* Let datasets made with `create_properties` hold frames of chunks like this one; those at the end of a
 * dataset may hold fewer layers and tokens: the rest of them reads as zeros. Local. */
status kv_filter_set(hid_t create_properties, const kv_chunk *chunk);
