/* src/command/chosen_coding.h: how a command codes K and V: what it was told, and the tables of --tables that
 * this needs, which are rank 0's on every rank, as on another host the file of that name may be another. */
#pragma once

#include "io/snapshot/manifest.h"
#include "mpi/comm.h"
#include "src/command/options.h"

typedef struct chosen_coding {
    kv_coding coding;  /* whose level is known */
    kv_tables *tables; /* NULL: the codec is exact, or none are there (chosen_coding_find) */
    char *bytes;       /* [n_bytes] of their file, which a snapshot keeps too */
    size_t n_bytes;
} chosen_coding;

/* With the tables that the coding needs, for a model of this shape: those of --tables or, where it is not
 * given, those that segments of the snapshot `dir` need, such as this one (NULL: no segment does). Neither,
 * or generic ones are to be made, or the coding is exact: without. Rank 0, before chosen_coding_share. Local.
 */
status chosen_coding_find(const options *o, const kv_coding *coding, int n_layers, int n_kv_heads,
                          int head_dim, const char *dir, const segment_info *coded, chosen_coding *out);

/* With those of a file of these bytes, which are owned from now on. Local. */
status chosen_coding_take(const kv_coding *coding, char *bytes, size_t n_bytes, chosen_coding *out);

/* What rank 0 has read, on all. Collective. */
status chosen_coding_share(comm *c, chosen_coding *k);

void chosen_coding_free(chosen_coding *k); /* zeroed is fine */

/* A NOTE where the tables were made for another model than the one of this digest, which has this name.
 * Local. */
void chosen_coding_note(const chosen_coding *k, const options *o, const char *model_name,
                        const uint64_t model_digest[2]);
