/* src/model/kv_groups.h: rows on their way into pages of int4 (kernels/kv_page.h), which take whole groups of
 * places: those of groups that are not all there yet. All functions are Local, and for any thread. */
#pragma once

#include "kernels/kv_page.h"

typedef struct kv_groups kv_groups;

kv_groups *kv_groups_open(const kv_format *format, int n_slots, int n_layers);
void kv_groups_close(kv_groups *g); /* NULL is fine */

/* n rows (bf16, those of one head, which follow each other) of the group with this place. Returns all rows of
 * the group if these were what was missing, else NULL. Release with free. */
char *kv_groups_add(kv_groups *g, int slot, int layer, kv_part part, int head, int64_t place, int n,
                    const void *rows);

/* What is not all there of a slot will not come. */
void kv_groups_drop(kv_groups *g, int slot);
