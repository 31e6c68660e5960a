#include "src/study/coded_context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_codec.h"
#include "io/codec/varve.h"
#include "kernels/convert.h"
#include "src/base/memory.h"

/* Tokens of a chunk: as in the paper of CacheGen, section 6; and of ours, whose layers go in groups. */
enum { CACHEGEN_TOKENS = 1500, VARVE_TOKENS = 512, VARVE_LAYERS = 8, VARVE_LEVELS = 9 };

static bool parse_level(const char *text, int n_levels, int *out) {
    *out = text[0] - '0';
    return strlen(text) == 1 && *out >= 1 && *out <= n_levels;
}

/* A level, three of which make an octave, of steps from 0.45 to 2.8; or bits of an element. */
static bool parse_step(const char *text, coding *out) {
    static const double least = 0.05, most = 8;
    char *end = NULL;
    int level = 0;
    if (parse_level(text, VARVE_LEVELS, &level)) {
        out->step_level = 2 * level - 9;
        return true;
    }
    out->bits = strtod(text, &end);
    return text[0] >= '0' && text[0] <= '9' && strcmp(end, "b") == 0 && out->bits >= least &&
           out->bits <= most;
}

status coding_parse(const char *text, coding *out) {
    static const char *const names[] = {
        [CODING_CACHEGEN] = "cachegen:", [CODING_FAST] = "kvarve:fast:", [CODING_SMALL] = "kvarve:small:"};
    *out = (coding){.codec = CODING_LOSSLESS};
    if (strcmp(text, "lossless") == 0) return STATUS_OK;
    for (int codec = CODING_CACHEGEN; codec <= CODING_SMALL; codec++) {
        const size_t n = strlen(names[codec]);
        if (strncmp(text, names[codec], n) != 0) continue;
        *out = (coding){.codec = codec};
        if (codec == CODING_CACHEGEN ? parse_level(text + n, CACHEGEN_LEVELS, &out->level)
                                     : parse_step(text + n, out))
            return STATUS_OK;
    }
    return status_refuse(
        "--context-codec %.60s: expected lossless, cachegen:1 to cachegen:%d, kvarve:fast:1 to "
        "kvarve:fast:%d, or bits of an element as in kvarve:fast:2.1b; or kvarve:small in place of "
        "kvarve:fast",
        text, CACHEGEN_LEVELS, VARVE_LEVELS);
}

static varve_kind kind_of(const coding *c) {
    return c->codec == CODING_FAST ? VARVE_FAST : VARVE_SMALL;
}

void coding_settle(coding *c, const kv_tables *tables) {
    enum { FINEST = -36, COARSEST = 24 };
    if (c->bits <= 0) return;
    c->step_level = FINEST;
    while (c->step_level < COARSEST &&
           varve_expected_bits(&tables->varve, kind_of(c), c->step_level, VARVE_LAYERS) > c->bits)
        c->step_level++;
}

/* ---- chunks: K and V of some layers, or one of them ---- */

/* Elements [n_layers, n_parts, n_tokens, heads, width] of layers from first_layer on. */
typedef struct chunk {
    int first_layer, n_layers;
    kv_part part; /* the only one, or the first */
    int n_parts;
    int64_t pos0;
    int32_t n_tokens;
    int64_t n_behind; /* positions of the sequence behind it */
} chunk;

static status encode_part(const coded_context *c, const chunk *k, void *elements, size_t *n_bytes) {
    const kv_chunk_shape shape = {c->type, k->n_tokens, c->config->n_kv_heads, c->config->head_dim};
    const bool is_lossless = c->coding.codec == CODING_LOSSLESS;
    uint8_t *bytes = mem_new(1, is_lossless ? kv_frame_max_bytes(&shape) : cachegen_max_bytes(&shape));
    status st;
    if (is_lossless) {
        *n_bytes = kv_frame_encode(KV_CODEC_LOSSLESS, &shape, elements, bytes);
        st = kv_frame_decode(bytes, *n_bytes, &shape, elements);
    } else {
        const cachegen_tables *t = kv_tables_cachegen(c->tables, k->first_layer, k->part);
        *n_bytes = cachegen_encode(t, c->coding.level, &shape, elements, bytes);
        st = cachegen_decode(t, c->coding.level, bytes, *n_bytes, &shape, elements);
    }
    free(bytes);
    return st;
}

static status encode_group(const coded_context *c, const chunk *k, void *elements, size_t *n_bytes) {
    const varve_chunk shape = {c->type, k->n_tokens, k->first_layer, k->n_layers};
    varve_token *tokens = mem_new((size_t)k->n_tokens, sizeof *tokens);
    varve_report report = {.n_numbers = 0};
    text_buffer payload = {0};
    for (int32_t i = 0; i < k->n_tokens; i++)
        tokens[i] = (varve_token){(int32_t)k->pos0 + i, (int32_t)(k->n_behind + k->n_tokens - 1 - i)};
    varve_encode(&c->tables->varve, kind_of(&c->coding), c->coding.step_level, &shape, tokens, elements,
                 &payload, &report);
    status st = varve_decode(&c->tables->varve, payload.data, payload.n, &shape, elements);
    *n_bytes = payload.n;
    free(payload.data);
    free(tokens);
    return st;
}

/* Of a part of a layer. */
static void add_errors(dtype type, const char *exact, const char *coded, size_t n, kv_part part,
                       coded_sums *sums) {
    for (size_t i = 0; i < n; i++) {
        const double x = (double)float_at(type, exact, i), d = (double)float_at(type, coded, i) - x;
        sums->squares[part] += x * x;
        sums->errors[part] += d * d;
    }
    sums->n_elements[part] += (double)n;
}

static status pass_chunk(const coded_context *c, kv_cache *kv, slice own, int slot, const chunk *k,
                         coded_sums *sums) {
    const kv_chunk_shape shape = {c->type, k->n_tokens, c->config->n_kv_heads, c->config->head_dim};
    const size_t part_bytes = kv_chunk_bytes(&shape), n_all = (size_t)(k->n_layers * k->n_parts);
    char *exact = mem_new(2 * n_all, part_bytes), *coded = exact + n_all * part_bytes;
    size_t n_bytes = 0;
    status st = STATUS_OK;
    for (int i = 0; st == STATUS_OK && i < (int)n_all; i++)
        st = kv_cache_read(kv, slot, k->first_layer + i / k->n_parts - own.first_layer,
                           (kv_part)((int)k->part + i % k->n_parts), k->pos0, k->n_tokens,
                           exact + (size_t)i * part_bytes);
    memcpy(coded, exact, n_all * part_bytes);
    if (st == STATUS_OK) st = (k->n_parts == 1 ? encode_part : encode_group)(c, k, coded, &n_bytes);
    for (int i = 0; st == STATUS_OK && i < (int)n_all; i++) {
        const kv_part part = (kv_part)((int)k->part + i % k->n_parts);
        const size_t at = (size_t)i * part_bytes;
        kv_cache_write(kv, slot, k->first_layer + i / k->n_parts - own.first_layer, part, k->pos0,
                       k->n_tokens, coded + at);
        add_errors(c->type, exact + at, coded + at, part_bytes / dtype_bytes(c->type), part, sums);
        sums->n_bytes[part] += (double)n_bytes / (double)n_all;
    }
    free(exact);
    return st;
}

/* The layer behind those that go in one chunk with this one: of its group, and with the same positions. */
static int group_end(const coded_context *c, const kv_cache *kv, slice own, int slot, int layer) {
    if (c->coding.codec < CODING_FAST) return layer + 1;
    const int64_t kept = kv_cache_first_kept(kv, slot, layer - own.first_layer);
    int end = layer + 1;
    while (end < own.last_layer && end % VARVE_LAYERS != 0 &&
           kv_cache_first_kept(kv, slot, end - own.first_layer) == kept)
        end++;
    return end;
}

status coded_context_pass(const coded_context *c, kv_cache *kv, slice own, int slot, int64_t n_tokens,
                          coded_sums *sums) {
    const bool is_group = c->coding.codec >= CODING_FAST;
    const int64_t most = is_group ? VARVE_TOKENS : CACHEGEN_TOKENS;
    for (int l = own.first_layer, end; l < own.last_layer; l = end) {
        end = group_end(c, kv, own, slot, l);
        const int64_t first = kv_cache_first_kept(kv, slot, l - own.first_layer);
        for (int part = 0; part < (is_group ? 1 : N_KV_PARTS); part++)
            for (int64_t at = first; at < n_tokens; at += most) {
                const int64_t n = n_tokens - at < most ? n_tokens - at : most;
                const chunk k = {l,  end - l,    (kv_part)part,    is_group ? N_KV_PARTS : 1,
                                 at, (int32_t)n, n_tokens - at - n};
                status st = pass_chunk(c, kv, own, slot, &k, sums);
                if (st != STATUS_OK) return st;
            }
    }
    return STATUS_OK;
}
