#include "src/model/evictor.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attend_blocks.h"
#include "src/base/alive.h"
#include "src/base/memory.h"
#include "src/model/rope.h"

/* What a layer has seen of a sequence's queries. */
typedef struct gathered {
    float *block;    /* expected: [MOMENT_ROWS, H K] the rows of the block of positions that is not full, */
    int n_block;     /* so many; */
    double *moments; /* [H, K + K K] of the others, */
    int64_t n_rows;  /* of all */
    /* act [EVICT_QUERIES, H K]: snapkv, pyramid: q of the last rows; h2o: of those that were not counted yet,
     */
    char *rows;
    int n_uncounted; /* so many; */
    double *shares;  /* [G, stride] what the others paid */
} gathered;

typedef struct slot_state {
    int64_t from, n_prompt;
    int64_t at;     /* when it is evicted next; 0: nothing is gathered, and nothing evicted */
    int64_t stride; /* places that a layer has at most */
    gathered *layers;
} slot_state;

struct evictor {
    evict_policy policy;
    const model_config *config;
    const device_ops *ops;
    device *dev;
    kv_cache *kv;
    attention_shape shape; /* of layers without a window */
    size_t row_bytes;      /* of q */
    int first_layer, n_layers, n_slots;
    float *inverse_frequencies, rope_factor;
    slot_state *slots;
};

static bool sees_last_rows(const evict_policy *p) {
    return p->kind == EVICT_SNAPKV || p->kind == EVICT_PYRAMID;
}

static bool has_window(const evictor *e, int layer) {
    return model_config_window(e->config, e->first_layer + layer) > 0;
}

/* The layer's number among those without a window, and how many these are. */
static int number_of(const model_config *c, int layer, int *n_full) {
    int number = 0;
    *n_full = 0;
    for (int l = 0; l < c->n_layers; l++) {
        if (l == layer) number = *n_full;
        *n_full += model_config_window(c, l) == 0;
    }
    return number;
}

/* Of a prompt of n_prompt tokens, when there are n_tokens. */
static int64_t kept_of(const evict_policy *policy, const model_config *c, int layer, int64_t n_prompt,
                       int64_t n_tokens) {
    int n_full;
    const int number = number_of(c, layer, &n_full);
    return model_config_window(c, layer) > 0 ? n_tokens
                                             : evict_places(policy, n_prompt, n_tokens, number, n_full);
}

int64_t evictor_kept(const evict_policy *policy, const model_config *c, int layer, int64_t n_prompt) {
    return kept_of(policy, c, layer, n_prompt, n_prompt);
}

int64_t evictor_places_behind(const evict_policy *policy, const model_config *c, int layer, int64_t n_prompt,
                              int64_t n_tokens) {
    int n_full;
    const int number = number_of(c, layer, &n_full);
    return model_config_window(c, layer) > 0
               ? n_tokens
               : evict_places_behind(policy, n_prompt, n_tokens, number, n_full);
}

/* ---- open and close ---- */

static size_t moments_of(const model_config *c) {
    const size_t K = (size_t)c->head_dim;
    return (size_t)c->n_heads * (K + K * K);
}

static size_t row_floats(const model_config *c) {
    return (size_t)c->n_heads * (size_t)c->head_dim;
}

uint64_t evictor_layer_bytes(const evict_policy *policy, const model_config *c, int layer, int64_t n_tokens,
                             dtype act) {
    if (model_config_window(c, layer) > 0) return 0;
    if (policy->kind == EVICT_EXPECTED)
        return MOMENT_ROWS * row_floats(c) * sizeof(float) + moments_of(c) * sizeof(double);
    const uint64_t rows = EVICT_QUERIES * row_floats(c) * dtype_bytes(act);
    if (policy->kind == EVICT_H2O)
        return (uint64_t)c->n_kv_heads * (uint64_t)n_tokens * sizeof(double) + rows;
    return sees_last_rows(policy) ? rows : 0;
}

/* Near pages that hold at a time what codes say. */
enum { PAGES_AT_ONCE = 32 };

static size_t decoded_bytes(const kv_format *format) {
    const kv_format near = kv_near_format(format);
    return kv_is_coded(format) ? PAGES_AT_ONCE * kv_page_bytes(&near) : 0;
}

uint64_t evictor_bytes(const evict_policy *policy, const model_config *c, const kv_format *format,
                       int64_t n_tokens) {
    const uint64_t of_head = policy->kind == EVICT_EXPECTED ? (uint64_t)c->n_heads * sizeof(double) : 0,
                   of_kv_head = (uint64_t)c->n_kv_heads * (2 * sizeof(double) + sizeof(int32_t));
    return policy->kind == EVICT_NOTHING
               ? 0
               : (uint64_t)n_tokens * (of_head + of_kv_head) + decoded_bytes(format);
}

evictor *evictor_open(const evict_policy *policy, const model_config *c, int first_layer, int last_layer,
                      kv_cache *kv) {
    evictor *e = mem_new(1, sizeof *e);
    *e = (evictor){
        .policy = *policy,
        .config = c,
        .dev = kv_cache_device(kv),
        .kv = kv,
        .shape = {.n_heads = c->n_heads,
                  .n_kv_heads = c->n_kv_heads,
                  .head_dim = c->head_dim,
                  .scale = 1 / sqrtf((float)c->head_dim)},
        .first_layer = first_layer,
        .n_layers = last_layer - first_layer,
        .n_slots = kv_cache_shape(kv)->n_slots,
        .inverse_frequencies = mem_new((size_t)c->head_dim / 2, sizeof *e->inverse_frequencies),
        .slots = mem_new((size_t)kv_cache_shape(kv)->n_slots, sizeof *e->slots),
    };
    e->ops = e->dev->ops;
    e->row_bytes = row_floats(c) * dtype_bytes(e->dev->act);
    rope_inverse_frequencies(c, e->inverse_frequencies, &e->rope_factor);
    return e;
}

void evictor_close(evictor *e) {
    if (!e) return;
    for (int slot = 0; slot < e->n_slots; slot++)
        evictor_end(e, slot);
    free(e->inverse_frequencies);
    free(e->slots);
    free(e);
}

/* ---- sequences ---- */

static bool evicts_any(const evictor *e, int64_t n_prompt) {
    bool any = e->policy.every > 0;
    for (int l = e->first_layer; l < e->first_layer + e->n_layers; l++)
        any |= evictor_kept(&e->policy, e->config, l, n_prompt) < n_prompt;
    return any;
}

/* Places that a layer of the sequence may have. */
static int64_t most_places(const evictor *e, int64_t n_prompt) {
    const int64_t behind =
        e->policy.every > 0
            ? evict_places_behind(&e->policy, n_prompt, kv_cache_shape(e->kv)->longest_tokens, 0, 2)
            : 0;
    return behind > n_prompt ? behind : n_prompt;
}

void evictor_begin(evictor *e, int slot, int64_t from, int64_t at) {
    slot_state *s = &e->slots[slot];
    evictor_end(e, slot);
    if (at == 0 || !evicts_any(e, at)) return;
    *s = (slot_state){from, at, at, most_places(e, at), mem_new((size_t)e->n_layers, sizeof *s->layers)};
    for (gathered *g = s->layers; g < s->layers + e->n_layers; g++) {
        if (has_window(e, (int)(g - s->layers))) continue;
        if (e->policy.kind == EVICT_EXPECTED) {
            g->block = mem_new(MOMENT_ROWS * row_floats(e->config), sizeof *g->block);
            g->moments = mem_new(moments_of(e->config), sizeof *g->moments);
        }
        if (sees_last_rows(&e->policy) || e->policy.kind == EVICT_H2O)
            g->rows = mem_new(EVICT_QUERIES, e->row_bytes);
        if (e->policy.kind == EVICT_H2O)
            g->shares = mem_new((size_t)(e->shape.n_kv_heads * s->stride), sizeof *g->shares);
    }
}

void evictor_end(evictor *e, int slot) {
    slot_state *s = &e->slots[slot];
    for (gathered *g = s->layers; s->layers && g < s->layers + e->n_layers; g++) {
        free(g->block);
        free(g->moments);
        free(g->rows);
        free(g->shares);
    }
    free(s->layers);
    *s = (slot_state){0};
}

/* Rows of a span that count from position `from` on. */
typedef struct counted_rows {
    gathered *of; /* NULL: none do */
    int64_t pos0;
    int first, n; /* of the step */
} counted_rows;

static counted_rows rows_of(const evictor *e, int layer, const span *s, int64_t from) {
    const slot_state *slot = &e->slots[s->slot];
    counted_rows rows = {.pos0 = s->pos0 > from ? s->pos0 : from};
    const int64_t end = s->pos0 + s->n_rows;
    if (has_window(e, layer) || end > slot->at || rows.pos0 >= end) return rows;
    rows.of = &slot->layers[layer];
    rows.first = s->row0 + (int)(rows.pos0 - s->pos0);
    rows.n = (int)(end - rows.pos0);
    return rows;
}

/* ---- expected: moments of queries ---- */

static void add_block(const evictor *e, gathered *g) {
    e->ops->add_moments(e->dev, &e->shape, g->block, g->n_block, g->moments);
    g->n_rows += g->n_block;
    g->n_block = 0;
}

void evictor_see_queries(evictor *e, int layer, const attention_shape *shape, const qkv_weights *weights,
                         int n_spans, const span *spans, const float *qkv) {
    const size_t row = (size_t)shape->n_heads * (size_t)shape->head_dim;
    for (const span *s = spans; e->policy.kind == EVICT_EXPECTED && s < spans + n_spans; s++) {
        const int64_t from = e->slots[s->slot].from;
        const counted_rows r = rows_of(e, layer, s, from > EVICT_SINKS ? from : EVICT_SINKS);
        for (int done = 0, n; r.of && done < r.n; done += n) {
            const int room = MOMENT_ROWS - (int)((r.pos0 + done) % MOMENT_ROWS);
            n = r.n - done < room ? r.n - done : room;
            e->ops->take_queries(e->dev, shape, weights, qkv, r.first + done, n,
                                 r.of->block + (size_t)r.of->n_block * row);
            r.of->n_block += n;
            if (n == room) add_block(e, r.of);
        }
    }
}

/* The mean of the rope of the positions that come: of each pair its cosine, then of each its sine. */
static void mean_rope(const evictor *e, int64_t pos, double *turns) {
    const int half = e->shape.head_dim / 2;
    memset(turns, 0, (size_t)e->shape.head_dim * sizeof *turns);
    for (int ahead = 0; ahead < EVICT_AHEAD; ahead++)
        for (int i = 0; i < half; i++) {
            const float angle = (float)((double)(pos + ahead) * (double)e->inverse_frequencies[i]);
            turns[i] += cos((double)angle) * (double)e->rope_factor / EVICT_AHEAD;
            turns[half + i] += sin((double)angle) * (double)e->rope_factor / EVICT_AHEAD;
        }
}

/* x[n numbers, `step` apart] turned so. */
static void turn(const double *turns, int n, double *x, int step) {
    const int half = n / 2;
    for (int i = 0; i < half; i++) {
        const double a = x[i * step], b = x[(i + half) * step];
        x[i * step] = a * turns[i] - b * turns[half + i];
        x[(i + half) * step] = b * turns[i] + a * turns[half + i];
    }
}

/* Mean and covariance of a head's queries, as they are expected to come. */
static void expect_head(const double *moments, int64_t n_rows, const double *turns, int K, float *mean,
                        float *covariance) {
    double *m = mem_new((size_t)K, sizeof *m), *S = mem_new((size_t)(K * K), sizeof *S);
    for (int i = 0; i < K; i++)
        m[i] = moments[i] / (double)n_rows;
    for (int i = 0; i < K * K; i++)
        S[i] = moments[K + i] / (double)n_rows - m[i / K] * m[i % K];
    turn(turns, K, m, 1);
    for (int i = 0; i < K; i++)
        turn(turns, K, S + i * K, 1);
    for (int i = 0; i < K; i++)
        turn(turns, K, S + i, K);
    for (int i = 0; i < K; i++)
        mean[i] = (float)m[i];
    for (int i = 0; i < K * K; i++)
        covariance[i] = (float)S[i];
    free(m);
    free(S);
}

/* ---- looks at all pages of a sequence ---- */

typedef void page_visit(evictor *e, const attend_look *look, void *with);

/* How places of a layer are looked at. */
typedef struct page_look {
    int slot, layer;
    int64_t n_places;  /* the first ones */
    int64_t seen_from; /* where pages hold codes: as the row at this place sees them */
    int n_parts;       /* keys alone, or values as well */
    page_visit *visit;
    void *with;
} page_look;

/* The near pages of n places from `place` on, those of codes out of pages[], into `decoded`. */
static void find_near(evictor *e, const page_look *p, const void *const *pages, int64_t place, int64_t n,
                      char *decoded, const void **out) {
    const kv_format *f = &kv_cache_shape(e->kv)->format, near = kv_near_format(f);
    const int64_t page0 = place / f->page_tokens * f->page_tokens;
    for (int64_t at = place; at < place + n; at += KV_NEAR_TOKENS, out++) {
        const int64_t left = place + n - at;
        if (at % ATTEND_BLOCK < attend_exact_places(p->seen_from, attend_block_of(at))) {
            *out = kv_cache_near(e->kv, p->slot, p->layer, at);
            continue;
        }
        e->ops->read_codes(e->dev, f, pages, at - page0, left < KV_NEAR_TOKENS ? (int)left : KV_NEAR_TOKENS,
                           p->n_parts, decoded);
        *out = decoded;
        decoded += kv_page_bytes(&near);
    }
}

/* All places at once; where pages hold codes as many as there is memory for, and where memory has not all
 * pages a page after the other. False: one is lost. */
static bool visit_pages(evictor *e, attend_look look, const page_look *p) {
    const kv_format *f = &kv_cache_shape(e->kv)->format, near = kv_near_format(f);
    const bool is_coded = kv_is_coded(f), is_apart = kv_cache_tier(e->kv);
    const int64_t unit = is_coded ? KV_NEAR_TOKENS : f->page_tokens,
                  n_at_once = is_apart   ? 1
                              : is_coded ? PAGES_AT_ONCE
                                         : kv_pages_for(p->n_places, f->page_tokens);
    const void **pages = mem_new((size_t)kv_pages_for(n_at_once * unit, f->page_tokens) + 1, sizeof *pages),
               **near_pages = mem_new((size_t)n_at_once, sizeof *near_pages);
    char *decoded = mem_new(decoded_bytes(f), 1);
    status st = STATUS_OK;
    look.format = is_coded ? &near : f;
    look.pages = is_coded ? near_pages : pages;
    for (look.place = 0; st == STATUS_OK && look.place < p->n_places; look.place += look.n_places) {
        const int64_t left = p->n_places - look.place, first = look.place / f->page_tokens;
        look.n_places = left < n_at_once * unit ? left : n_at_once * unit;
        const int64_t end = kv_pages_for(look.place + look.n_places, f->page_tokens);
        for (int64_t entry = first; entry < end; entry++)
            pages[entry - first] = kv_cache_hold(e->kv, p->slot, p->layer, entry);
        if (is_coded) find_near(e, p, pages, look.place, look.n_places, decoded, near_pages);
        p->visit(e, &look, p->with);
        for (int64_t entry = first; st == STATUS_OK && entry < end; entry++)
            st = kv_cache_leave(e->kv, p->slot, p->layer, entry);
    }
    free(pages);
    free(near_pages);
    free(decoded);
    return st == STATUS_OK;
}

/* ---- attention that rows pay ---- */

typedef struct paid {
    attend_norm *norms;
    double *shares;
    int64_t stride;
} paid;

static void visit_norms(evictor *e, const attend_look *look, void *with) {
    e->ops->add_norms(e->dev, &e->shape, look, ((const paid *)with)->norms);
}

static void visit_shares(evictor *e, const attend_look *look, void *with) {
    const paid *p = with;
    e->ops->add_shares(e->dev, &e->shape, look, p->norms, p->shares, p->stride);
}

/* What n rows from place `place` on, each of which sees the places up to its own, pay to them is added to
 * shares[G, stride]. Where pages hold codes, they see them as the row at seen_from. */
static bool add_paid(evictor *e, int slot, int layer, const void *q, int n, int64_t place, int64_t seen_from,
                     double *shares, int64_t stride) {
    const size_t n_norms = (size_t)n * (size_t)e->shape.n_heads;
    paid p = {mem_new(n_norms, sizeof(attend_norm)), shares, stride};
    const attend_look look = {.q = q, .n_rows = n, .row_place = place};
    page_look pages = {slot, layer, place + n, seen_from, 1, visit_norms, &p};
    for (size_t i = 0; i < n_norms; i++)
        p.norms[i].max = -INFINITY;
    bool good = visit_pages(e, look, &pages);
    pages.visit = visit_shares;
    good = good && visit_pages(e, look, &pages);
    free(p.norms);
    return good;
}

/* h2o: the rows up to `place` that were not counted yet. */
static void count_rows(evictor *e, int slot, int layer, int64_t place) {
    gathered *g = &e->slots[slot].layers[layer];
    const int64_t first = place - g->n_uncounted;
    if (g->n_uncounted > 0)
        add_paid(e, slot, layer, g->rows, g->n_uncounted, first, first, g->shares, e->slots[slot].stride);
    g->n_uncounted = 0;
}

/* h2o: n rows from this place on. They are counted many together, at every EVICT_QUERIES places; where pages
 * hold codes, those of one block, which see the same exactly. */
static void see_rows(evictor *e, int slot, int layer, const char *rows, int64_t n, int64_t place) {
    gathered *g = &e->slots[slot].layers[layer];
    const bool is_coded = kv_is_coded(&kv_cache_shape(e->kv)->format);
    for (int64_t take; n > 0; n -= take, place += take, rows += (size_t)take * e->row_bytes) {
        const int64_t to_end = EVICT_QUERIES - place % EVICT_QUERIES,
                      in_block = ATTEND_BLOCK - place % ATTEND_BLOCK;
        if (g->n_uncounted == 0 && n >= to_end) {
            take = is_coded && in_block < n ? in_block : n;
            take -= (place + take) % EVICT_QUERIES;
            add_paid(e, slot, layer, rows, (int)take, place, place, g->shares, e->slots[slot].stride);
            continue;
        }
        take = n < to_end ? n : to_end;
        memcpy(g->rows + (size_t)g->n_uncounted * e->row_bytes, rows, (size_t)take * e->row_bytes);
        g->n_uncounted += (int)take;
        if (take == to_end) count_rows(e, slot, layer, place + take);
    }
}

void evictor_see_attention(evictor *e, int layer, int n_spans, const span *spans, const void *q) {
    for (const span *s = spans; s < spans + n_spans; s++) {
        const slot_state *slot = &e->slots[s->slot];
        const int64_t last = slot->at - EVICT_QUERIES, from = slot->from;
        const bool sees_last = sees_last_rows(&e->policy);
        const counted_rows r = rows_of(e, layer, s, sees_last && last > from ? last : from);
        if (!r.of) continue;
        const char *rows = (const char *)q + (size_t)r.first * e->row_bytes;
        if (sees_last)
            memcpy(r.of->rows + (size_t)(EVICT_QUERIES - (slot->at - r.pos0)) * e->row_bytes, rows,
                   (size_t)r.n * e->row_bytes);
        if (e->policy.kind == EVICT_H2O)
            see_rows(e, s->slot, layer, rows, r.n, r.pos0 - kv_cache_removed(e->kv, layer)[s->slot]);
    }
}

/* ---- scores ---- */

typedef struct expected {
    float *means, *covariances;
    double *scores, *norms;
    int64_t stride;
} expected;

static void visit_expected(evictor *e, const attend_look *look, void *with) {
    const expected *x = with;
    e->ops->expect(e->dev, &e->shape, look, x->means, x->covariances, x->scores, x->stride);
    e->ops->value_norms(e->dev, &e->shape, look, x->norms, x->stride);
}

/* x[n] becomes exp(x) / sum. */
static void softmax(double *x, int64_t n) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    for (int64_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - max);
    for (int64_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* scores[G, n] */
static bool score_expected(evictor *e, int slot, int layer, int64_t n, double *scores) {
    static const double floor_share = 0.3; /* of a place: it must fall as places become more */
    const int H = e->shape.n_heads, G = e->shape.n_kv_heads, K = e->shape.head_dim, group = H / G;
    gathered *g = &e->slots[slot].layers[layer];
    expected x = {mem_new((size_t)(H * K), sizeof(float)),
                  mem_new((size_t)H * (size_t)(K * K), sizeof(float)),
                  mem_new((size_t)(H * n), sizeof(double)), mem_new((size_t)(G * n), sizeof(double)), n};
    double *turns = mem_new((size_t)K, sizeof *turns);
    if (g->n_block > 0) add_block(e, g);
    mean_rope(e, e->slots[slot].at, turns);
    for (int head = 0; head < H && g->n_rows > 0; head++)
        expect_head(g->moments + head * (K + K * K), g->n_rows, turns, K, x.means + head * K,
                    x.covariances + (size_t)head * (size_t)(K * K));
    const bool good =
        visit_pages(e, (attend_look){0}, &(page_look){slot, layer, n, n, N_KV_PARTS, visit_expected, &x});
    for (int head = 0; head < H; head++) {
        softmax(x.scores + head * n, n);
        for (int64_t i = 0; i < n; i++)
            scores[head / group * n + i] += x.scores[head * n + i] / group;
    }
    for (int64_t i = 0; i < G * n; i++)
        scores[i] = (scores[i] + floor_share / (double)n) * x.norms[i];
    free(turns);
    free(x.means);
    free(x.covariances);
    free(x.scores);
    free(x.norms);
    return good;
}

/* scores[G, n], of the last rows that were seen. */
static bool score_last_rows(evictor *e, int slot, int layer, int64_t n, double *scores) {
    const slot_state *s = &e->slots[slot];
    const int64_t n_seen = s->at - s->from, n_rows = n_seen < EVICT_QUERIES ? n_seen : EVICT_QUERIES;
    const char *rows = s->layers[layer].rows + (size_t)(EVICT_QUERIES - n_rows) * e->row_bytes;
    const bool good = add_paid(e, slot, layer, rows, (int)n_rows, n - n_rows, n, scores, n);
    for (int head = 0; head < e->shape.n_kv_heads; head++)
        evict_smooth(scores + head * n, n);
    return good;
}

/* ---- eviction ---- */

/* h2o: scores[n, of each head], and what is left to be added to. */
static void score_paid(evictor *e, int slot, int layer, int64_t n, double *scores) {
    const slot_state *s = &e->slots[slot];
    count_rows(e, slot, layer, n);
    for (int head = 0; head < e->shape.n_kv_heads; head++)
        memcpy(scores + head * n, s->layers[layer].shares + head * s->stride, (size_t)n * sizeof *scores);
}

static void keep_shares(evictor *e, int slot, int layer, const double *scores, int64_t n, const int32_t *kept,
                        int64_t n_kept) {
    const slot_state *s = &e->slots[slot];
    for (int head = 0; head < e->shape.n_kv_heads; head++) {
        double *shares = s->layers[layer].shares + head * s->stride;
        memset(shares, 0, (size_t)s->stride * sizeof *shares);
        for (int64_t i = 0; i < n_kept; i++)
            shares[i] = scores[head * n + kept[head * n_kept + i]];
    }
}

static void evict_layer(evictor *e, int slot, int layer, int64_t n, int64_t n_kept) {
    const int G = e->shape.n_kv_heads;
    double *scores = mem_new((size_t)(G * n), sizeof *scores);
    int32_t *kept = mem_new((size_t)(G * n_kept), sizeof *kept);
    bool good = true;
    if (e->policy.kind == EVICT_EXPECTED) good = score_expected(e, slot, layer, n, scores);
    if (sees_last_rows(&e->policy)) good = score_last_rows(e, slot, layer, n, scores);
    if (e->policy.kind == EVICT_H2O) score_paid(e, slot, layer, n, scores);
    if (!good) kv_cache_give_up(e->kv, slot);
    for (int head = 0; head < G; head++)
        evict_choose(&e->policy, e->policy.kind == EVICT_WINDOW ? NULL : scores + head * n, n, n_kept,
                     kept + head * n_kept);
    kv_cache_evict(e->kv, slot, layer, n, n_kept, kept);
    if (e->policy.kind == EVICT_H2O) keep_shares(e, slot, layer, scores, n, kept, n_kept);
    free(scores);
    free(kept);
}

bool evictor_is_due(const evictor *e, int slot, int64_t n_tokens) {
    return n_tokens > 0 && e->slots[slot].at == n_tokens;
}

void evictor_run(evictor *e, int slot) {
    slot_state *s = &e->slots[slot];
    for (int layer = 0; layer < e->n_layers; layer++) {
        alive_say();
        if (has_window(e, layer)) continue;
        const int64_t n = s->at - kv_cache_removed(e->kv, layer)[slot],
                      n_kept = kept_of(&e->policy, e->config, e->first_layer + layer, s->n_prompt, s->at);
        if (n_kept < n) evict_layer(e, slot, layer, n, n_kept);
    }
    s->at += e->policy.every;
    if (e->policy.every == 0) evictor_end(e, slot);
}
