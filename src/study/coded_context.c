#include "src/study/coded_context.h"

#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_codec.h"
#include "src/base/memory.h"

/* A chunk, whose tokens are at positions from pos0 on, with n_behind positions of the sequence behind it. */
static status pass_chunk(const coded_context *c, kv_cache *kv, slice own, int slot, const kv_chunk *k,
                         int64_t pos0, int64_t n_behind, coded_sums *sums) {
    const size_t part_bytes = kv_chunk_bytes(&k->shape), all_bytes = kv_chunk_all_bytes(k);
    const int n = kv_chunk_count_parts(k);
    const int32_t n_tokens = k->shape.n_tokens;
    char *exact = mem_new(2, all_bytes), *coded = exact + all_bytes,
         *frame = mem_new(1, kv_frame_max_bytes(k));
    kv_token *tokens = mem_new((size_t)n_tokens, sizeof *tokens);
    status st = STATUS_OK;
    for (int32_t i = 0; i < n_tokens; i++)
        tokens[i] = (kv_token){(int32_t)pos0 + i, (int32_t)n_behind + n_tokens - 1 - i};
    for (int i = 0; st == STATUS_OK && i < n; i++)
        st = kv_cache_read(kv, slot, kv_chunk_layer(k, i) - own.first_layer, kv_chunk_part(k, i), pos0,
                           n_tokens, exact + (size_t)i * part_bytes);
    size_t n_bytes = 0;
    if (st == STATUS_OK)
        n_bytes = kv_frame_encode(&c->coding, c->tables, k, tokens, exact, frame, &sums->kept);
    const size_t base_bytes = st == STATUS_OK ? kv_frame_look(frame, n_bytes).base_bytes : 0;
    if (base_bytes > 0) n_bytes = base_bytes;
    if (st == STATUS_OK)
        st = (base_bytes > 0 ? kv_frame_decode_base : kv_frame_decode)(frame, n_bytes, c->tables, k, coded);
    for (int i = 0; st == STATUS_OK && i < n; i++) {
        const kv_part part = kv_chunk_part(k, i);
        const size_t at = (size_t)i * part_bytes, n_elements = part_bytes / dtype_bytes(c->type);
        kv_cache_write(kv, slot, kv_chunk_layer(k, i) - own.first_layer, part, pos0, n_tokens, coded + at);
        kv_chunk_compare(c->type, exact + at, coded + at, n_elements, &sums->squares[part],
                         &sums->errors[part]);
        sums->n_elements[part] += (double)n_elements;
        sums->n_bytes[part] += (double)n_bytes / (double)n;
    }
    free(exact);
    free(frame);
    free(tokens);
    return st;
}

/* The layer behind those that go in one chunk with this one: as many as there may be, with the same
 * positions.
 */
static int group_end(const kv_cache *kv, slice own, int slot, int layer, int most) {
    const int64_t kept = kv_cache_first_kept(kv, slot, layer - own.first_layer);
    int end = layer + 1;
    while (end < own.last_layer && end < layer + most &&
           kv_cache_first_kept(kv, slot, end - own.first_layer) == kept)
        end++;
    return end;
}

status coded_context_pass(const coded_context *c, kv_cache *kv, slice own, int slot, int64_t n_tokens,
                          coded_sums *sums) {
    const model_config *m = c->config;
    const kv_chunking by = kv_chunking_of(c->coding.codec, c->type, m->n_kv_heads, m->head_dim);
    for (int l = own.first_layer, end; l < own.last_layer; l = end) {
        end = group_end(kv, own, slot, l, by.n_layers);
        const int64_t first = kv_cache_first_kept(kv, slot, l - own.first_layer);
        for (int part = 0; part < N_KV_PARTS; part += by.n_parts)
            for (int64_t at = first; at < n_tokens; at += by.n_tokens) {
                const int64_t n = n_tokens - at < by.n_tokens ? n_tokens - at : by.n_tokens;
                const kv_chunk k = {.shape = {c->type, (int32_t)n, m->n_kv_heads, m->head_dim},
                                    .first_layer = l,
                                    .n_layers = end - l,
                                    .part = (kv_part)part,
                                    .n_parts = by.n_parts};
                status st = pass_chunk(c, kv, own, slot, &k, at, n_tokens - at - n, sums);
                if (st != STATUS_OK) return st;
            }
    }
    return STATUS_OK;
}
