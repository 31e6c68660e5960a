#include "src/loader.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/fault.h"
#include "src/base/memory.h"

struct loader {
    char *dir;
    manifest manifest;
    slice slice;
    int n_threads;
};

/* Rows [row0, row0 + n_rows) of an open segment are positions from pos0 on: what one load moves. */
typedef struct transfer {
    segment *from;
    const segment_info *info;
    int first_layer, last_layer;
    int64_t row0, n_rows, pos0;
    kv_cache *kv;
    const int32_t *page_ids;
} transfer;

status loader_advise(status st) {
    char text[STATUS_TEXT_BYTES];
    if (st != STATUS_REFUSED) return st;
    memcpy(text, status_text(), sizeof text);
    return status_refuse("%s; without --resume it is computed afresh", text);
}

static bool has_layers_of(const segment_info *s, slice mine) {
    return s->first_layer < mine.last_layer && s->last_layer > mine.first_layer;
}

static status check_segments(const loader *l) {
    for (int64_t i = 0; i < l->manifest.n_segments; i++) {
        const segment_info *info = &l->manifest.segments[i];
        segment *s = NULL;
        if (!has_layers_of(info, l->slice)) continue;
        status st = segment_open(l->dir, info, &s);
        segment_close(s);
        if (st != STATUS_OK) return st;
    }
    return STATUS_OK;
}

status loader_open(const char *dir, const char *manifest_bytes, size_t n_bytes, slice s, int n_threads,
                   loader **out) {
    loader *l = mem_new(1, sizeof *l);
    *l = (loader){.dir = mem_copy_text(dir, strlen(dir)), .slice = s, .n_threads = n_threads};
    status st = manifest_parse(manifest_bytes, n_bytes, dir, &l->manifest);
    if (st == STATUS_OK) st = check_segments(l);
    if (st != STATUS_OK) {
        loader_close(l);
        return loader_advise(st);
    }
    *out = l;
    return STATUS_OK;
}

void loader_close(loader *l) {
    if (!l) return;
    manifest_free(&l->manifest);
    free(l->dir);
    free(l);
}

const int32_t *loader_tokens(const loader *l, int64_t source) {
    return l->manifest.sequences[source].tokens;
}

/* One chunk's rows of one layer's K or V, through scratch memory of a whole chunk. */
static status move_chunk(const transfer *t, int layer, kv_part part, int64_t a, int64_t b, void *scratch,
                         int first_layer_of_slice) {
    status st = segment_read(t->from, layer, part, a, b - a, scratch);
    if (st != STATUS_OK) return st;
    kv_cache_write(t->kv, t->page_ids, layer - first_layer_of_slice, part, t->pos0 + (a - t->row0), b - a,
                   scratch);
    return STATUS_OK;
}

/* Chunks in parallel: a frame is decoded by one thread, straight before its rows go to their pages. */
static status move_rows(const loader *l, const transfer *t) {
    const segment_info *info = t->info;
    int64_t chunk = info->chunk_tokens, first = (t->row0 - info->row0) / chunk;
    int64_t last = (t->row0 + t->n_rows - 1 - info->row0) / chunk, n_chunks = last - first + 1;
    int64_t n_tasks = n_chunks * N_KV_PARTS * (t->last_layer - t->first_layer);
    kv_chunk_shape shape = {info->type, (int32_t)chunk, info->n_kv_heads, info->head_dim};
    status all = STATUS_OK;
    char text[STATUS_TEXT_BYTES];
#pragma omp parallel num_threads(l->n_threads)
    {
        void *scratch = mem_new(1, kv_chunk_bytes(&shape));
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < n_tasks; task++) {
            int64_t at = info->row0 + (first + task % n_chunks) * chunk;
            kv_part part = (kv_part)(task / n_chunks % N_KV_PARTS);
            int layer = t->first_layer + (int)(task / n_chunks / N_KV_PARTS);
            int64_t a = at > t->row0 ? at : t->row0, b = at + chunk;
            if (b > t->row0 + t->n_rows) b = t->row0 + t->n_rows;
            status st = move_chunk(t, layer, part, a, b, scratch, l->slice.first_layer);
            if (st == STATUS_OK) continue;
#pragma omp critical(loader_failure)
            {
                if (all == STATUS_OK) memcpy(text, status_text(), sizeof text);
                all = st;
            }
        }
        free(scratch);
    }
    return all == STATUS_OK ? all : status_adopt(all, text);
}

/* The rows of an extent that this segment holds. */
static status load_from(const loader *l, const segment_info *info, const manifest_extent *x, int64_t n_tokens,
                        kv_cache *kv, int slot) {
    int64_t begin = x->row0 > info->row0 ? x->row0 : info->row0, end = x->row0 + n_tokens;
    if (end > info->row0 + info->n_rows) end = info->row0 + info->n_rows;
    if (begin >= end || !has_layers_of(info, l->slice)) return STATUS_OK;
    transfer t = {
        .info = info,
        .first_layer = info->first_layer > l->slice.first_layer ? info->first_layer : l->slice.first_layer,
        .last_layer = info->last_layer < l->slice.last_layer ? info->last_layer : l->slice.last_layer,
        .row0 = begin,
        .n_rows = end - begin,
        .pos0 = x->pos0 + (begin - x->row0),
        .kv = kv,
        .page_ids = kv_cache_page_ids(kv, slot),
    };
    status st = segment_open(l->dir, info, &t.from);
    if (st == STATUS_OK) st = move_rows(l, &t);
    segment_close(t.from);
    return st;
}

status loader_load(loader *l, kv_cache *kv, int slot, int64_t source, int64_t n_tokens) {
    assert(source >= 0 && source < l->manifest.n_sequences);
    const manifest_sequence *q = &l->manifest.sequences[source];
    assert(n_tokens <= manifest_kv_tokens(q));
    kv_cache_extend(kv, slot, n_tokens);
    status st = fault_at("load");
    for (int64_t i = 0; st == STATUS_OK && i < q->n_extents && q->extents[i].pos0 < n_tokens; i++) {
        const manifest_extent *x = &q->extents[i];
        int64_t n = n_tokens - x->pos0 < x->n_tokens ? n_tokens - x->pos0 : x->n_tokens;
        for (int64_t k = 0; st == STATUS_OK && k < l->manifest.n_segments; k++)
            st = load_from(l, &l->manifest.segments[k], x, n, kv, slot);
    }
    return loader_advise(st);
}
