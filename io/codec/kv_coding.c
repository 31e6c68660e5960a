#include "io/codec/kv_coding.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_chunk.h"
#include "io/codec/varve_private.h"

/* ---- names ---- */

static const char *const codec_names[N_KV_CODECS] = {[KV_CODEC_NONE] = "none",
                                                     [KV_CODEC_LOSSLESS] = "lossless",
                                                     [KV_CODEC_CACHEGEN] = "cachegen",
                                                     [KV_CODEC_FAST] = "kvarve:fast",
                                                     [KV_CODEC_SMALL] = "kvarve:small"};

const char *kv_codec_name(kv_codec codec) {
    return codec_names[codec];
}

bool kv_codec_find(const char *name, kv_codec *out) {
    for (int i = 0; i < N_KV_CODECS; i++)
        if (!strcmp(name, codec_names[i])) {
            *out = (kv_codec)i;
            return true;
        }
    return false;
}

/* ---- as a user says it ---- */

/* Three levels make an octave of steps, from 0.45 to 2.8. */
enum { VARVE_LEVELS = 9, FINEST_STEP_LEVEL = -36, COARSEST_STEP_LEVEL = 24 };

static int step_level_of(int level) {
    return 2 * level - 9;
}

static bool parse_level(const char *text, int n_levels, int *out) {
    *out = text[0] - '0';
    return strlen(text) == 1 && *out >= 1 && *out <= n_levels;
}

static const char with_base[] = "+base";

/* A level, or bits of an element; and a base. */
static bool parse_step(const char *text, kv_coding *out) {
    static const double least = 0.05, most = 8;
    char step[32], *end = NULL;
    const char *extra = strchr(text, with_base[0]);
    int level = 0;
    out->has_base = extra && strcmp(extra, with_base) == 0;
    const size_t n = out->has_base ? (size_t)(extra - text) : strlen(text);
    if (n >= sizeof step) return false;
    memcpy(step, text, n);
    step[n] = '\0';
    if (parse_level(step, VARVE_LEVELS, &level)) {
        out->level = step_level_of(level);
        return true;
    }
    out->bits = strtod(step, &end);
    return step[0] >= '0' && step[0] <= '9' && strcmp(end, "b") == 0 && out->bits >= least &&
           out->bits <= most;
}

status kv_coding_parse(const char *text, kv_coding *out) {
    for (int codec = 0; codec < N_KV_CODECS; codec++) {
        const size_t n = strlen(codec_names[codec]);
        if (strncmp(text, codec_names[codec], n) != 0) continue;
        *out = (kv_coding){.codec = (kv_codec)codec};
        if (kv_codec_is_exact(out->codec)) {
            if (text[n] == '\0') return STATUS_OK;
        } else if (text[n] == ':' &&
                   (codec == KV_CODEC_CACHEGEN ? parse_level(text + n + 1, CACHEGEN_LEVELS, &out->level)
                                               : parse_step(text + n + 1, out))) {
            return STATUS_OK;
        }
    }
    return status_refuse("expected none, lossless, cachegen:1 to cachegen:%d, kvarve:fast:1 to "
                         "kvarve:fast:%d, or bits of an element as in kvarve:fast:2.1b; or kvarve:small in "
                         "place of kvarve:fast; both also with a base that can be loaded first, as in "
                         "kvarve:small:3+base",
                         CACHEGEN_LEVELS, VARVE_LEVELS);
}

bool kv_coding_is_valid(const kv_coding *c) {
    if (c->has_base && c->codec < KV_CODEC_FAST) return false;
    if (kv_codec_is_exact(c->codec)) return c->level == 0;
    if (c->codec == KV_CODEC_CACHEGEN) return c->level >= 1 && c->level <= CACHEGEN_LEVELS;
    return c->level >= FINEST_STEP_LEVEL && c->level <= COARSEST_STEP_LEVEL;
}

void kv_coding_settle(kv_coding *c, const kv_tables *tables) {
    if (c->bits <= 0) return;
    const kv_tables_shape *s = &tables->shape;
    const varve_kind kind = c->codec == KV_CODEC_FAST ? VARVE_FAST : VARVE_SMALL;
    const int n_layers = kv_chunking_of(c->codec, DTYPE_BF16, s->n_kv_heads, s->head_dim).n_layers;
    c->level = FINEST_STEP_LEVEL;
    while (c->level < COARSEST_STEP_LEVEL &&
           varve_expected_bits(&tables->varve, kind, c->level, n_layers) > c->bits)
        c->level++;
    c->bits = 0;
}

double kv_coding_step(const kv_coding *c) {
    return exp2((double)c->level / VARVE_OCTAVE);
}

void kv_coding_text(const kv_coding *c, char text[KV_CODING_TEXT_BYTES]) {
    const char *name = codec_names[c->codec], *base = c->has_base ? with_base : "";
    const int level = (c->level + 9) / 2;
    if (kv_codec_is_exact(c->codec))
        snprintf(text, KV_CODING_TEXT_BYTES, "%s", name);
    else if (c->codec == KV_CODEC_CACHEGEN)
        snprintf(text, KV_CODING_TEXT_BYTES, "%s:%d", name, c->level);
    else if (c->bits > 0)
        snprintf(text, KV_CODING_TEXT_BYTES, "%s:%.9gb%s", name, c->bits, base);
    else if (level >= 1 && level <= VARVE_LEVELS && step_level_of(level) == c->level)
        snprintf(text, KV_CODING_TEXT_BYTES, "%s:%d%s", name, level, base);
    else
        snprintf(text, KV_CODING_TEXT_BYTES, "%s%s, step %.4g", name, base, kv_coding_step(c));
}

/* ---- chunks ---- */

/* So many whole units of tokens that a chunk has about these bytes, but at least one. */
static int tokens_of(size_t chunk_bytes, size_t token_bytes, int unit) {
    const size_t n = chunk_bytes / token_bytes / (size_t)unit;
    return unit * (int)(n < 1 ? 1 : n);
}

kv_chunking kv_chunking_of(kv_codec codec, dtype type, int n_kv_heads, int head_dim) {
    enum {
        PAGE_TOKENS = 64,
        GOOD_BYTES = 512 << 10, /* frames of about this size are decoded while the next is read */
        CACHEGEN_TOKENS = 1500, /* as in its paper, section 6 */
        VARVE_TOKENS = 512,
        VARVE_LAYERS = 8, /* more are few bits less, and more to be decoded for one of them */
        MOST_BYTES = 16 << 20
    };
    const kv_chunk_shape token = {type, 1, n_kv_heads, head_dim};
    kv_chunking c = {.n_layers = codec == KV_CODEC_SMALL ? VARVE_LAYERS : 1,
                     .n_parts = codec >= KV_CODEC_FAST ? N_KV_PARTS : 1};
    const size_t token_bytes = kv_chunk_bytes(&token) * (size_t)(c.n_layers * c.n_parts);
    if (kv_codec_is_exact(codec)) {
        c.n_tokens = tokens_of(GOOD_BYTES, token_bytes, 1);
        if (c.n_tokens > PAGE_TOKENS) c.n_tokens -= c.n_tokens % PAGE_TOKENS;
    } else {
        const bool is_cachegen = codec == KV_CODEC_CACHEGEN;
        const int wanted = is_cachegen ? CACHEGEN_TOKENS : VARVE_TOKENS;
        c.n_tokens = tokens_of(MOST_BYTES, token_bytes, is_cachegen ? CACHEGEN_GROUP : VARVE_TILE);
        if (c.n_tokens > wanted) c.n_tokens = wanted;
    }
    return c;
}
