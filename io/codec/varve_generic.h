/* io/codec/varve_generic.h: tables of the codec kvarve of a model of which nothing is known but its shape,
 * how its keys turn, and how large K and V of each layer are. Local.
 *
 * Components are the numbers themselves, around 0, and no layer says anything of the next. All are taken for
 * as large as their part is on the whole; what they are like, chunks say by levels of their own
 * (io/codec/varve.h). Classes are Laplacian distributions. All of that is computed, by additions,
 * multiplications and divisions of float64 alone, which are the same everywhere, so that a file of such
 * tables has none of it. */
#pragma once

#include "io/codec/varve_tables.h"

/* What is known of a layer. */
typedef struct varve_scale {
    float units[N_KV_PARTS], sink_norm; /* as of varve_layer */
} varve_scale;

/* Take the scales of a layer out of bytes, none of which is trusted; frequencies [width / 2]. Release with
 * varve_tables_free, also after a failure. */
status varve_read_scale(byte_reader *r, const varve_shape *s, bool is_first, const float *frequencies,
                        varve_layer *out);

/* [VARVE_CLASSES]. */
varve_class *varve_generic_classes(void);
