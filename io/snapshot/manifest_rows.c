/* Which rows the sequences need, and which the segments have. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/snapshot/manifest_private.h"

/* Rows [begin, end). */
typedef struct row_run {
    int64_t begin, end;
} row_run;

static int compare_runs(const void *a, const void *b) {
    const row_run *r = a, *s = b;
    return r->begin < s->begin ? -1 : r->begin > s->begin;
}

/* Sort, and join what touches or overlaps: how many are left. *overlap, where not NULL: a row that two of
 * them have, or -1. */
static int64_t merge_runs(row_run *runs, int64_t n, int64_t *overlap) {
    if (overlap) *overlap = -1;
    qsort(runs, (size_t)n, sizeof *runs, compare_runs);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (kept == 0 || runs[i].begin > runs[kept - 1].end) {
            runs[kept++] = runs[i];
            continue;
        }
        row_run *last = &runs[kept - 1];
        if (overlap && runs[i].begin < last->end) *overlap = runs[i].begin;
        if (runs[i].end > last->end) last->end = runs[i].end;
    }
    return kept;
}

/* The last merged run that begins at this row or before it; NULL: none. */
static const row_run *find_run(const row_run *runs, int64_t n, int64_t row) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (runs[middle].begin <= row)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &runs[low - 1] : NULL;
}

/* ---- what segments have ---- */

/* Every position of every sequence lies in these merged runs. */
static status check_extents(const manifest *m, int layer, const row_run *runs, int64_t n_runs,
                            const char *name) {
    for (int64_t i = 0; i < m->n_sequences; i++)
        for (int64_t k = 0; k < m->sequences[i].n_extents; k++) {
            const manifest_extent *e = &m->sequences[i].extents[k];
            const row_run *run = find_run(runs, n_runs, e->row0);
            if (run && e->row0 + e->n_tokens <= run->end) continue;
            return status_refuse("%s: sequences[%" PRId64 "]: no segment has all of rows %" PRId64
                                 " to %" PRId64 " of layer %d",
                                 name, i, e->row0, e->row0 + e->n_tokens - 1, layer);
        }
    return STATUS_OK;
}

static status check_layer(const manifest *m, int layer, row_run *runs, const char *name) {
    int64_t n = 0, overlap;
    for (int64_t i = 0; i < m->n_segments; i++) {
        const segment_info *s = &m->segments[i];
        if (s->first_layer <= layer && layer < s->last_layer)
            runs[n++] = (row_run){.begin = s->row0, .end = s->row0 + s->n_rows};
    }
    n = merge_runs(runs, n, &overlap);
    if (overlap >= 0)
        return status_refuse("%s: two segments have row %" PRId64 " of layer %d", name, overlap, layer);
    return check_extents(m, layer, runs, n, name);
}

status manifest_check_rows(const manifest *m, const char *name) {
    /* Layers at which no segment begins or ends are like the layer before. */
    bool is_new[SEGMENT_MAX_LAYERS + 1] = {true};
    for (int64_t i = 0; i < m->n_segments; i++)
        is_new[m->segments[i].first_layer] = is_new[m->segments[i].last_layer] = true;
    row_run *runs = mem_new((size_t)m->n_segments, sizeof *runs);
    status st = STATUS_OK;
    for (int layer = 0; layer < m->n_layers && st == STATUS_OK; layer++)
        if (is_new[layer]) st = check_layer(m, layer, runs, name);
    free(runs);
    return st;
}

/* ---- what sequences need ---- */

void manifest_drop_unused(manifest *m) {
    int64_t n = 0, n_runs = 0;
    for (int64_t i = 0; i < m->n_sequences; i++)
        n += m->sequences[i].n_extents;
    row_run *runs = mem_new((size_t)n, sizeof *runs);
    for (int64_t i = 0; i < m->n_sequences; i++)
        for (int64_t k = 0; k < m->sequences[i].n_extents; k++) {
            const manifest_extent *e = &m->sequences[i].extents[k];
            runs[n_runs++] = (row_run){.begin = e->row0, .end = e->row0 + e->n_tokens};
        }
    n_runs = merge_runs(runs, n_runs, NULL);
    int64_t kept = 0;
    for (int64_t i = 0; i < m->n_segments; i++) {
        const segment_info *s = &m->segments[i];
        const row_run *run = find_run(runs, n_runs, s->row0 + s->n_rows - 1);
        if (run && run->end > s->row0) m->segments[kept++] = *s;
    }
    m->n_segments = kept;
    free(runs);
}
