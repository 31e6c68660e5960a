/* Positions, pages and attention on every kind of device that is here, against float64, in steps of several
 * sequences: by the operations of the seam and copies alone. What a row must not read is NaN. */
#include <stdio.h>

#include "kernels/attend_blocks.h"
#include "tests/fixtures/device_arrays.h"

enum { GUARD = 64, MAX_SPANS = 6 };

/* Sums in float32; attention adds the errors of scores, which are relative errors of weights. */
static const double F32_BOUND = 1e-12, F32_ATTENTION_BOUND = 1e-11;

/* ---- steps: each span is of another sequence, all share one pool of pages ---- */

/* Rows of a span, where it is, and what its numbers are made of. */
typedef struct step_part {
    int pos0, n_rows;
    bool is_generated;
    int sequence;
} step_part;

typedef struct step {
    attention_shape shape;
    int page_tokens, n_spans, n_rows, n_pages;
    span spans[MAX_SPANS];
    int sequences[MAX_SPANS];
    int32_t *tables; /* [n_spans, table_pages] */
    int table_pages;
} step;

/* The first position of the blocks that a row of the span reads: pages before it may be gone. */
static int64_t first_seen(const step *s, int i) {
    return attend_block_of(attend_first_position(s->spans[i].pos0, s->shape.window)) * ATTEND_BLOCK;
}

static step new_step(attention_shape shape, int page_tokens, const step_part *parts, int n_parts) {
    step s = {.shape = shape, .page_tokens = page_tokens, .n_spans = n_parts};
    int used = 0;
    s.shape.scale = 1 / sqrtf((float)shape.head_dim);
    for (int i = 0; i < n_parts; i++) {
        int own = (int)kv_pages_for(parts[i].pos0 + parts[i].n_rows, page_tokens);
        s.n_pages += own;
        if (own > s.table_pages) s.table_pages = own;
    }
    s.tables = mem_new((size_t)(n_parts * s.table_pages), sizeof *s.tables);
    for (int i = 0; i < n_parts; i++) {
        s.spans[i] = (span){s.n_rows, parts[i].n_rows, parts[i].pos0, i, parts[i].is_generated};
        s.sequences[i] = parts[i].sequence;
        s.n_rows += parts[i].n_rows;
        int64_t end = parts[i].pos0 + parts[i].n_rows, seen = first_seen(&s, i);
        for (int k = 0; k < s.table_pages; k++, used++) /* 7 pages are nobody's, and the others in no order */
            if (k < seen / page_tokens || k >= kv_pages_for(end, page_tokens))
                s.tables[i * s.table_pages + k] = -1, used--;
            else
                s.tables[i * s.table_pages + k] = used % 2 ? s.n_pages + 6 - used / 2 : used / 2;
    }
    s.n_pages += 7;
    return s;
}

static kv_format format_of(const step *s, const device *dev) {
    return device_kv_format(dev, s->shape.n_kv_heads, s->shape.head_dim, s->page_tokens);
}

static size_t pool_bytes(const step *s, const device *dev) {
    const kv_format format = format_of(s, dev);
    return (size_t)s->n_pages * kv_page_bytes(&format);
}

static size_t pool_elements(const step *s, const device *dev) {
    return pool_bytes(s, dev) / dtype_bytes(dev->kv);
}

/* The CPU with pages of int8, and the GPU, where there is one. */
static void for_each_coded(void (*body)(const tested *t)) {
    const device_kind kinds[] = {DEVICE_CPU, DEVICE_CUDA};
    for (int i = 0; i < 2; i++) {
        tested t = {0};
        if (device_count(kinds[i], NULL) < 1) continue;
        snprintf(t.name, sizeof t.name, "%s int8 pages", device_kind_name(kinds[i]));
        if (!CHECK_OK(device_open(kinds[i], 0, PRECISION_BF16, 2, &t.dev))) continue;
        t.dev->kv_layout = kinds[i] == DEVICE_CPU ? KV_INT8 : KV_INT8_ROWS;
        body(&t);
        close_device(t.dev);
    }
}

/* And the devices of for_each_kind. */
static void for_each_paged(void (*body)(const tested *t)) {
    for_each_kind(body);
    for_each_coded(body);
}

/* The same pool, copied to host memory. */
static kv_layer host_layer_of(const step *s, const device *dev, const void *pool) {
    return (kv_layer){(void *)pool, format_of(s, dev), s->tables, s->table_pages, NULL};
}

/* K or V of a kv head at a position of a span's sequence, out of such a pool. */
static void get_row(const kv_layer *kv, int span_index, int64_t pos, kv_part part, int kv_head, void *row) {
    kv_get_rows(&kv->format, kv_layer_page(kv, span_index, pos), part, kv_head,
                (int)(pos % kv->format.page_tokens), 1, row, 0);
}

static size_t q_elements(const step *s) {
    return (size_t)s->n_rows * (size_t)(s->shape.n_heads * s->shape.head_dim);
}

/* Numbers of one position and head of a sequence: the same wherever they lie. */
static void fill_random(void *to, dtype type, size_t at, int K, uint64_t what) {
    uint64_t seed = what * 0x9e3779b97f4a7c15u;
    harness_random(&seed);
    void *x = new_random_of(type, &seed, (size_t)K, 1);
    memcpy(array_at(to, type, at), x, (size_t)K * dtype_bytes(type));
    free(x);
}

/* A row of K or V as it is put. */
static void fill_row(const step *s, int i, int64_t pos, kv_part part, int kv_head, dtype type, void *row) {
    const int g = (part == KV_PART_V) * s->shape.n_kv_heads + kv_head;
    fill_random(row, type, 0, s->shape.head_dim, (uint64_t)((s->sequences[i] * 100000 + pos) * 64 + g + 1));
}

/* Is the position put into these pages? Into those of codes where rows of the span see them. Into near ones
 * also where rows up to a block before would. */
static bool is_put(const step *s, int i, int64_t pos, bool is_near, const kv_format *f) {
    const int64_t begin = s->spans[i].pos0, last = begin + s->spans[i].n_rows - 1;
    if (kv_is_coded(f)) return pos >= ATTEND_EXACT_FIRST && attend_block_of(pos) < attend_block_of(last);
    return !is_near || pos < ATTEND_EXACT_FIRST || attend_block_of(pos) + 1 >= attend_block_of(begin);
}

/* All keys and values up to the last row of every span; the rest is NaN. */
static void fill_pool(const step *s, const kv_layer *kv, bool is_near) {
    void *row = mem_new((size_t)s->shape.head_dim, dtype_bytes(kv->format.type));
    for (int i = 0; i < s->n_spans; i++)
        for (int64_t pos = first_seen(s, i); pos < s->spans[i].pos0 + s->spans[i].n_rows; pos++)
            for (int g = 0; is_put(s, i, pos, is_near, &kv->format) && g < 2 * s->shape.n_kv_heads; g++) {
                const kv_part part = g < s->shape.n_kv_heads ? KV_PART_K : KV_PART_V;
                fill_row(s, i, pos, part, g % s->shape.n_kv_heads, kv->format.type, row);
                kv_put_rows(&kv->format, kv_layer_page(kv, i, pos), part, g % s->shape.n_kv_heads,
                            (int)(pos % kv->format.page_tokens), 1, row, 0);
            }
    free(row);
}

static void *new_pool(const step *s, const device *dev) {
    void *pool = new_poisoned(dev->kv, pool_elements(s, dev));
    const kv_layer kv = host_layer_of(s, dev, pool);
    fill_pool(s, &kv, false);
    return pool;
}

/* The near pages beside those of codes, filled. */
static kv_layer *new_near(const step *s, device *dev) {
    const kv_format coded = format_of(s, dev), f = kv_near_format(&coded);
    const int table_pages = (int)kv_pages_for((int64_t)s->table_pages * s->page_tokens, f.page_tokens),
              n_entries = s->n_spans * table_pages;
    int32_t *tables = mem_new((size_t)n_entries, sizeof *tables);
    for (int i = 0; i < n_entries; i++)
        tables[i] = n_entries - 1 - i;
    const size_t bytes = (size_t)n_entries * kv_page_bytes(&f);
    void *pages = new_poisoned(f.type, bytes / dtype_bytes(f.type));
    fill_pool(s, &(kv_layer){pages, f, tables, table_pages, NULL}, true);
    kv_layer *near = mem_new(1, sizeof *near);
    *near = (kv_layer){array_new(dev, pages, bytes), f,
                       array_new(dev, tables, (size_t)n_entries * sizeof *tables), table_pages, NULL};
    free(tables);
    free(pages);
    return near;
}

/* With the tables in the device's memory. */
static kv_layer layer_of(const step *s, device *dev, void *pages) {
    const kv_format f = format_of(s, dev);
    size_t n_entries = (size_t)(s->n_spans * s->table_pages);
    return (kv_layer){pages, f, array_new(dev, s->tables, n_entries * sizeof *s->tables), s->table_pages,
                      kv_is_coded(&f) ? new_near(s, dev) : NULL};
}

/* All but its pages. */
static void release_layer(device *dev, kv_layer *kv) {
    dev->ops->release(dev, (void *)kv->tables);
    if (!kv->near) return;
    dev->ops->release(dev, (void *)kv->near->tables);
    dev->ops->release(dev, kv->near->pages);
    free((void *)kv->near);
}

static void *new_queries(const step *s, dtype type) {
    int H = s->shape.n_heads, K = s->shape.head_dim;
    void *q = new_poisoned(type, q_elements(s));
    for (int i = 0; i < s->n_spans; i++)
        for (int t = 0; t < s->spans[i].n_rows; t++)
            for (int head = 0; head < H; head++)
                fill_random(
                    q, type, (size_t)(((s->spans[i].row0 + t) * H + head) * K), K,
                    (uint64_t)(((s->sequences[i] * 100000 + s->spans[i].pos0 + t) * 128 + head) * 2 + 1)
                        << 32);
    return q;
}

/* ---- rope ---- */

static void check_rope_table(const tested *t) {
    enum { K = 10, HALF = K / 2, ROWS = 6 };
    const float inv_freq[HALF] = {1, 0.31622776f, 0.1f, 0.0123f, 1e-5f};
    const step_part parts[] = {{100000, 1, true, 0}, {0, 3, false, 1}, {1000000, 2, false, 2}};
    const int64_t positions[ROWS] = {100000, 0, 1, 2, 1000000, 1000001};
    device *dev = t->dev;
    step s = new_step((attention_shape){.n_heads = 1, .n_kv_heads = 1, .head_dim = K}, 4096, parts, 3);
    float *table = array_poisoned(dev, DTYPE_F32, ROWS * K + GUARD);
    dev->ops->begin_step(dev, s.n_spans, s.spans);
    dev->ops->rope_table(dev, inv_freq, 1.25f, K, table);
    float *got = array_take(dev, table, (ROWS * K + GUARD) * sizeof *got);
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < HALF; i++) {
            double angle = (double)(float)((double)positions[row] * (double)inv_freq[i]);
            CU_ASSERT_DOUBLE_EQUAL(got[row * K + i], 1.25 * cos(angle), 2e-7);
            CU_ASSERT_DOUBLE_EQUAL(got[row * K + HALF + i], 1.25 * sin(angle), 2e-7);
        }
    CU_ASSERT(count_nan(got + ROWS * K, DTYPE_F32, GUARD) == GUARD);
    free(got);
    free(s.tables);
}

static void test_rope_table(void) {
    for_each_kind(check_rope_table);
}

/* ---- append ---- */

typedef struct append_case {
    attention_shape shape;
    int page_tokens;
    bool bias, norms;
} append_case;

/* What is there before and what the layer has, on the host. */
typedef struct append_input {
    float *qkv, *bias, *norms, *cos_sin;
    float eps;
} append_input;

static append_input new_append_input(const step *s) {
    int K = s->shape.head_dim, heads = s->shape.n_heads + 2 * s->shape.n_kv_heads;
    uint64_t seed = 8;
    return (append_input){new_random(&seed, (size_t)(s->n_rows * heads * K), 1),
                          new_random(&seed, (size_t)(heads * K), 1), new_random(&seed, (size_t)(2 * K), 1),
                          new_random(&seed, (size_t)(s->n_rows * K), 1), 0.1f};
}

static void free_append_input(append_input *in) {
    free(in->qkv);
    free(in->bias);
    free(in->norms);
    free(in->cos_sin);
}

/* One head of one row as kv_append leaves it, in float64. */
static void expected_head(const append_case *c, const append_input *in, int row, int head, double *x) {
    int H = c->shape.n_heads, G = c->shape.n_kv_heads, K = c->shape.head_dim;
    const float *norm = !c->norms || head >= H + G ? NULL : head < H ? in->norms : in->norms + K;
    const float *cosines = in->cos_sin + row * K, *sines = cosines + K / 2;
    double squares = 0, y[256];
    for (int i = 0; i < K; i++) {
        y[i] = (double)in->qkv[(row * (H + 2 * G) + head) * K + i];
        if (c->bias) y[i] += (double)in->bias[head * K + i];
        squares += y[i] * y[i];
    }
    for (int i = 0; norm && i < K; i++)
        y[i] *= (double)norm[i] / sqrt(squares / K + (double)in->eps);
    for (int i = 0; i < K / 2; i++) {
        bool rotated = head < H + G;
        double a = y[i], b = y[i + K / 2], cosine = (double)cosines[i], sine = (double)sines[i];
        x[i] = rotated ? a * cosine - b * sine : a;
        x[i + K / 2] = rotated ? b * cosine + a * sine : b;
    }
}

/* q and the pool after the operation, in host memory; where that is of codes, *near is the layer of near
 * pages there. */
static void append(const tested *t, const append_case *c, const step *s, const append_input *in, void **q,
                   void **pool, kv_layer *near) {
    device *dev = t->dev;
    int K = s->shape.head_dim, heads = s->shape.n_heads + 2 * s->shape.n_kv_heads;
    size_t n = q_elements(s), n_pool = pool_elements(s, dev);
    float *qkv = array_new(dev, in->qkv, (size_t)(s->n_rows * heads * K) * sizeof *qkv);
    float *bias = array_new(dev, in->bias, (size_t)(heads * K) * sizeof *bias);
    float *norms = array_new(dev, in->norms, (size_t)(2 * K) * sizeof *norms);
    float *cos_sin = array_new(dev, in->cos_sin, (size_t)(s->n_rows * K) * sizeof *cos_sin);
    void *device_q = array_poisoned(dev, dev->act, n + GUARD), *pages = array_poisoned(dev, dev->kv, n_pool);
    qkv_weights weights = {c->bias ? bias : NULL, c->norms ? norms : NULL, c->norms ? norms + K : NULL,
                           in->eps};
    kv_layer kv = layer_of(s, dev, pages);
    dev->ops->begin_step(dev, s->n_spans, s->spans);
    dev->ops->kv_append(dev, &s->shape, &weights, cos_sin, &kv, qkv, device_q);
    *q = array_take(dev, device_q, (n + GUARD) * dtype_bytes(dev->act));
    *pool = array_take(dev, pages, n_pool * dtype_bytes(dev->kv));
    if (kv.near) {
        const size_t n_entries = (size_t)(s->n_spans * kv.near->table_pages);
        *near = *kv.near;
        near->pages = array_read(dev, kv.near->pages, n_entries * kv_page_bytes(&near->format));
        near->tables = array_read(dev, kv.near->tables, n_entries * sizeof *near->tables);
    }
    dev->ops->release(dev, qkv);
    dev->ops->release(dev, bias);
    dev->ops->release(dev, norms);
    dev->ops->release(dev, cos_sin);
    release_layer(dev, &kv);
}

static void check_append_case(const tested *t, const append_case *c) {
    const step_part parts[] = {{300, 1, true, 0}, {0, 1, true, 1}, {27, 63, false, 2}, {130, 2, false, 3}};
    int H = c->shape.n_heads, G = c->shape.n_kv_heads, K = c->shape.head_dim;
    size_t width = (size_t)K, at = 0;
    step s = new_step(c->shape, c->page_tokens, parts, 4);
    append_input in = new_append_input(&s);
    void *q, *pool, *got = mem_new((size_t)(s.n_rows * (H + 2 * G)) * width, dtype_bytes(t->dev->kv));
    double *expected = mem_new((size_t)(s.n_rows * (H + 2 * G)) * width, sizeof *expected);
    append(t, c, &s, &in, &q, &pool, NULL);
    const kv_layer kv = host_layer_of(&s, t->dev, pool);
    for (int i = 0; i < s.n_spans; i++)
        for (int row = s.spans[i].row0; row < s.spans[i].row0 + s.spans[i].n_rows; row++)
            for (int head = 0; head < H + 2 * G; head++, at += width) {
                int64_t pos = s.spans[i].pos0 + row - s.spans[i].row0;
                void *to = array_at(got, t->dev->kv, at);
                if (head < H)
                    memcpy(to, array_at(q, t->dev->act, (size_t)((row * H + head) * K)),
                           width * dtype_bytes(t->dev->kv));
                else
                    get_row(&kv, i, pos, head < H + G ? KV_PART_K : KV_PART_V, (head - H) % G, to);
                expected_head(c, &in, row, head, expected + at);
            }
    double error = error_of(got, t->dev->kv, expected, at),
           bound = t->dev->kv == DTYPE_F32 ? F32_BOUND : BF16_BOUND;
    CHECK_CASE(error < bound, "%s: append H %d G %d K %d: %g", t->name, H, G, K, error);
    size_t n_kv = (size_t)(s.n_rows * 2 * G) * width;
    CHECK_CASE(count_nan(pool, t->dev->kv, pool_elements(&s, t->dev)) == pool_elements(&s, t->dev) - n_kv,
               "%s: append H %d G %d K %d wrote elsewhere", t->name, H, G, K);
    CU_ASSERT(count_nan(q, t->dev->act, q_elements(&s) + GUARD) == GUARD);
    free(q);
    free(pool);
    free(got);
    free(expected);
    free_append_input(&in);
    free(s.tables);
}

static void check_append(const tested *t) {
    const append_case cases[] = {{{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16}, 32, false, false},
                                 {{.n_heads = 1, .n_kv_heads = 1, .head_dim = 2}, 32, true, true},
                                 {{.n_heads = 3, .n_kv_heads = 3, .head_dim = 10}, 96, true, false},
                                 {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 34}, 64, true, true},
                                 {{.n_heads = 16, .n_kv_heads = 1, .head_dim = 80}, 64, false, true},
                                 {{.n_heads = 8, .n_kv_heads = 4, .head_dim = 128}, 4096, true, true},
                                 {{.n_heads = 2, .n_kv_heads = 2, .head_dim = 256}, 160, true, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_append_case(t, &cases[i]);
}

static void test_append(void) {
    for_each_kind(check_append);
}

/* Of a head whose numbers are not finite, of one of zeros, and of others: the codes are those of kv_put_rows,
 * bit by bit, and nothing else is written. */
static void check_append_codes_of(const tested *t, const append_case *c) {
    const step_part parts[] = {{300, 1, true, 0}, {0, 1, true, 1}, {27, 63, false, 2}, {255, 3, false, 3}};
    const int H = c->shape.n_heads, G = c->shape.n_kv_heads, K = c->shape.head_dim;
    step s = new_step(c->shape, c->page_tokens, parts, 4);
    append_input in = new_append_input(&s);
    for (int i = 0; i < K; i++)
        in.qkv[((s.n_rows - 1) * (H + 2 * G) + H) * K + i] = i % 2 ? INFINITY : 1;
    in.qkv[((s.n_rows - 1) * (H + 2 * G) + H + G) * K] = NAN;
    memset(in.qkv + ((s.n_rows - 2) * (H + 2 * G) + H) * K, 0, (size_t)K * sizeof *in.qkv);
    void *q, *pool, *expected = new_poisoned(t->dev->kv, pool_elements(&s, t->dev));
    uint16_t *row = mem_new((size_t)K, sizeof *row);
    kv_layer near;
    append(t, c, &s, &in, &q, &pool, &near);
    const kv_layer kv = host_layer_of(&s, t->dev, expected);
    for (int i = 0; i < s.n_spans; i++)
        for (int64_t pos = s.spans[i].pos0; pos < s.spans[i].pos0 + s.spans[i].n_rows; pos++)
            for (int g = 0; g < 2 * G; g++) {
                get_row(&near, i, pos, g < G ? KV_PART_K : KV_PART_V, g % G, row);
                kv_put_rows(&kv.format, kv_layer_page(&kv, i, pos), g < G ? KV_PART_K : KV_PART_V, g % G,
                            (int)(pos % c->page_tokens), 1, row, 0);
            }
    CHECK_CASE(!memcmp(pool, expected, pool_bytes(&s, t->dev)), "%s: append H %d G %d K %d: other codes",
               t->name, H, G, K);
    free(near.pages);
    free((void *)near.tables);
    free(row);
    free(q);
    free(pool);
    free(expected);
    free_append_input(&in);
    free(s.tables);
}

static void check_append_codes(const tested *t) {
    const append_case cases[] = {{{.n_heads = 2, .n_kv_heads = 1, .head_dim = 34}, 64, false, false},
                                 {{.n_heads = 1, .n_kv_heads = 1, .head_dim = 10}, 32, true, false},
                                 {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 128}, 96, true, true},
                                 {{.n_heads = 2, .n_kv_heads = 2, .head_dim = 256}, 160, true, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_append_codes_of(t, &cases[i]);
}

static void test_append_codes(void) {
    for_each_coded(check_append_codes);
}

/* ---- attention ---- */

/* A step's pages and queries on the device. */
typedef struct loaded {
    kv_layer kv;
    void *q;
} loaded;

static loaded load(const tested *t, const step *s) {
    void *pool = new_pool(s, t->dev), *q = new_queries(s, t->dev->act);
    void *pages = array_new(t->dev, pool, pool_elements(s, t->dev) * dtype_bytes(t->dev->kv));
    loaded l = {layer_of(s, t->dev, pages), array_new(t->dev, q, q_elements(s) * dtype_bytes(t->dev->act))};
    free(pool);
    free(q);
    return l;
}

static void unload(const tested *t, loaded *l) {
    t->dev->ops->release(t->dev, l->kv.pages);
    release_layer(t->dev, &l->kv);
    t->dev->ops->release(t->dev, l->q);
}

static void *attend_loaded(const tested *t, const step *s, const loaded *l) {
    device *dev = t->dev;
    size_t n = q_elements(s) + GUARD;
    void *y = array_poisoned(dev, dev->act, n);
    dev->ops->begin_step(dev, s->n_spans, s->spans);
    dev->ops->attend(dev, &s->shape, &l->kv, l->q, y);
    return array_take(dev, y, n * dtype_bytes(dev->act));
}

/* y of all rows, in host memory. */
static void *attend(const tested *t, const step *s) {
    loaded l = load(t, s);
    void *y = attend_loaded(t, s, &l);
    unload(t, &l);
    return y;
}

/* As the row at `pos` sees it. */
static void get_seen(const step *s, const kv_layer *kv, int i, int64_t pos, int64_t j, kv_part part,
                     int kv_head, void *row) {
    if (kv_is_coded(&kv->format) && j % ATTEND_BLOCK < attend_exact_places(pos, attend_block_of(j)))
        fill_row(s, i, j, part, kv_head, kv->format.type, row);
    else
        get_row(kv, i, j, part, kv_head, row);
}

static void expected_row(const step *s, const kv_layer *kv, const void *q, int i, int t, int head,
                         double *y) {
    int K = s->shape.head_dim, g = head / (s->shape.n_heads / s->shape.n_kv_heads);
    const dtype type = kv->format.type;
    int64_t pos = s->spans[i].pos0 + t, first = attend_first_position(pos, s->shape.window);
    size_t query = (size_t)(((s->spans[i].row0 + t) * s->shape.n_heads + head) * K);
    double *scores = mem_new((size_t)pos + 1, sizeof *scores), max = -INFINITY, sum = 0;
    void *row = mem_new((size_t)K, dtype_bytes(type));
    for (int64_t j = first; j <= pos; j++) {
        get_seen(s, kv, i, pos, j, KV_PART_K, g, row);
        for (int k = 0; k < K; k++)
            scores[j] +=
                (double)number_at(q, type, query + (size_t)k) * (double)number_at(row, type, (size_t)k);
        scores[j] *= (double)s->shape.scale;
        max = fmax(max, scores[j]);
    }
    for (int k = 0; k < K; k++)
        y[k] = 0;
    for (int64_t j = first; j <= pos; j++) {
        double weight = exp(scores[j] - max);
        get_seen(s, kv, i, pos, j, KV_PART_V, g, row);
        sum += weight;
        for (int k = 0; k < K; k++)
            y[k] += weight * (double)number_at(row, type, (size_t)k);
    }
    for (int k = 0; k < K; k++)
        y[k] /= sum;
    free(scores);
    free(row);
}

static double attention_error(const tested *t, const step *s, const void *y) {
    dtype type = t->dev->kv;
    size_t n = q_elements(s), row = n / (size_t)s->n_rows;
    void *pool = new_pool(s, t->dev), *q = new_queries(s, type);
    const kv_layer kv = host_layer_of(s, t->dev, pool);
    double *expected = mem_new(n, sizeof *expected);
    for (int i = 0; i < s->n_spans; i++)
        for (int r = 0; r < s->spans[i].n_rows; r++)
            for (int head = 0; head < s->shape.n_heads; head++)
                expected_row(s, &kv, q, i, r, head,
                             expected + (size_t)(s->spans[i].row0 + r) * row +
                                 (size_t)(head * s->shape.head_dim));
    double error = error_of(y, t->dev->act, expected, n);
    free(pool);
    free(q);
    free(expected);
    return error;
}

/* Generated rows first, of other ages; prompt rows at the edges of blocks and pages. */
static const step_part company[] = {
    {260, 1, true, 0}, {0, 1, true, 1}, {63, 1, true, 2}, {0, 65, false, 3}, {250, 7, false, 4}};

static const attention_shape shapes[] = {
    {.n_heads = 1, .n_kv_heads = 1, .head_dim = 2},
    {.n_heads = 3, .n_kv_heads = 1, .head_dim = 10},
    {.n_heads = 2, .n_kv_heads = 2, .head_dim = 34, .window = 5},
    {.n_heads = 4, .n_kv_heads = 2, .head_dim = 64},
    {.n_heads = 2, .n_kv_heads = 1, .head_dim = 64, .window = 100},
    {.n_heads = 2, .n_kv_heads = 1, .head_dim = 80},
    {.n_heads = 2, .n_kv_heads = 2, .head_dim = 128, .window = 256},
    {.n_heads = 8, .n_kv_heads = 1, .head_dim = 128},
    {.n_heads = 1, .n_kv_heads = 1, .head_dim = 256, .window = 1},
};

static void check_attend_step(const tested *t, const step *s) {
    void *y = attend(t, s);
    double error = attention_error(t, s, y), bound = t->dev->kv == DTYPE_F32        ? F32_ATTENTION_BOUND
                                                     : t->dev->kv_layout == KV_INT8 ? INT8_ATTENTION_BOUND
                                                                                    : BF16_BOUND;
    CHECK_CASE(error < bound, "%s: attend H %d G %d K %d window %d page %d: %g", t->name, s->shape.n_heads,
               s->shape.n_kv_heads, s->shape.head_dim, (int)s->shape.window, s->page_tokens, error);
    CU_ASSERT(count_nan(array_at(y, t->dev->act, q_elements(s)), t->dev->act, GUARD) == GUARD);
    free(y);
}

static void check_attend(const tested *t) {
    const step_part old[] = {{2047, 1, true, 0}, {1500, 3, false, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        step s = new_step(shapes[i], i % 2 ? 64 : 32, company, 5);
        check_attend_step(t, &s);
        free(s.tables);
    }
    for (size_t i = 1; i < sizeof shapes / sizeof *shapes; i += 3) {
        step s = new_step(shapes[i], 160, old, 2);
        check_attend_step(t, &s);
        free(s.tables);
    }
}

static void test_attend(void) {
    for_each_paged(check_attend);
}

/* Every span has in company the bits that it has alone, in other pages, and in pieces. */
static void check_company(const tested *t) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        step all = new_step(shapes[i], 64, company, 5), other = new_step(shapes[i], 96, company, 5);
        size_t row = q_elements(&all) / (size_t)all.n_rows;
        char *y = attend(t, &all), *y_other = attend(t, &other);
        CHECK_CASE(same_bits(y, y_other, t->dev->act, q_elements(&all)), "%s: shape %zu, other pages",
                   t->name, i);
        int n_differ = 0;
        for (int k = 0; k < 5; k++) {
            for (int r = 0; r < company[k].n_rows; r += 16) {
                int n = company[k].n_rows - r < 16 ? company[k].n_rows - r : 16;
                step_part part = {company[k].pos0 + r, n, company[k].is_generated, company[k].sequence};
                step one = new_step(shapes[i], 64, &part, 1);
                void *alone = attend(t, &one);
                n_differ += !same_bits(alone, array_at(y, t->dev->act, (size_t)(all.spans[k].row0 + r) * row),
                                       t->dev->act, (size_t)n * row);
                free(alone);
                free(one.tables);
            }
        }
        CHECK_CASE(n_differ == 0, "%s: shape %zu: %d pieces differ in company", t->name, i, n_differ);
        free(y);
        free(y_other);
        free(all.tables);
        free(other.tables);
    }
}

static void test_company(void) {
    for_each_paged(check_company);
}

/* ---- attention as two operations ---- */

enum { MAX_CELLS = 64 };

/* Rows at the edges of nodes and pages, and a context of several nodes. */
static const step_part long_parts[] = {{ATTEND_NODE - 1, 2, true, 0},
                                       {4 * ATTEND_NODE + 9, 1, true, 1},
                                       {2 * ATTEND_NODE - 2, 3, false, 2},
                                       {60, 9, false, 3}};
enum { LONG_PARTS = sizeof long_parts / sizeof *long_parts };

static int random_below(uint64_t *seed, int n) {
    return (int)(harness_random(seed) % (uint64_t)n);
}

/* Extents that together have each span's nodes once: random runs of spans, each in random runs of nodes, in
 * no order. */
static int cut(uint64_t *seed, int n_nodes, attend_extent *extents) {
    int n = 0;
    for (int first = 0, last; first < LONG_PARTS; first = last) {
        last = first + 1 + random_below(seed, LONG_PARTS - first);
        for (int node = 0, end; node < n_nodes; node = end) {
            end = node + 1 + random_below(seed, n_nodes - node);
            extents[n++] = (attend_extent){first, last, {node, end}};
        }
    }
    for (int i = n - 1; i > 0; i--) {
        int other = random_below(seed, i + 1);
        attend_extent one = extents[i];
        extents[i] = extents[other];
        extents[other] = one;
    }
    return n;
}

/* The partial results of an extent of a step, put where the rows and nodes of another step have theirs, which
 * begins with `row0` of that. */
static void add_part(const tested *t, const step *s, const loaded *l, const attend_extent *e,
                     const attend_partials *all, int row0, float *partials) {
    device *dev = t->dev;
    const attend_partials own = {e->nodes.first, 0, s->n_rows, s->shape.n_heads, s->shape.head_dim};
    size_t n = (size_t)(e->nodes.last - e->nodes.first) * attend_node_floats(&own);
    float *device_part = array_poisoned(dev, DTYPE_F32, n + GUARD);
    dev->ops->begin_step(dev, s->n_spans, s->spans);
    dev->ops->attend_part(dev, &s->shape, &l->kv, e, l->q, device_part);
    float *part = array_take(dev, device_part, (n + GUARD) * sizeof *part);
    CU_ASSERT(count_nan(part + n, DTYPE_F32, GUARD) == GUARD);
    for (int i = e->first_span; i < e->last_span; i++)
        for (int row = s->spans[i].row0; row < s->spans[i].row0 + s->spans[i].n_rows; row++)
            for (int64_t node = e->nodes.first; node < e->nodes.last; node++)
                memcpy(partials + attend_partial_at(all, node, row0 + row, 0),
                       part + attend_partial_at(&own, node, row, 0),
                       (size_t)s->shape.n_heads * attend_partial_floats(own.width) * sizeof *part);
    free(part);
}

/* y of such partial results, by random runs of spans. */
static void *merge_parts(const tested *t, uint64_t *seed, const step *s, const float *partials, size_t n,
                         int n_nodes) {
    device *dev = t->dev;
    size_t n_y = q_elements(s) + GUARD;
    void *device_partials = array_new(dev, partials, n * sizeof *partials);
    void *y = array_poisoned(dev, dev->act, n_y);
    dev->ops->begin_step(dev, s->n_spans, s->spans);
    for (int first = 0, last; first < s->n_spans; first = last) {
        last = first + 1 + random_below(seed, s->n_spans - first);
        const attend_extent e = {first, last, {0, n_nodes}};
        dev->ops->attend_merge(dev, &s->shape, &e, device_partials, y);
    }
    dev->ops->release(dev, device_partials);
    return array_take(dev, y, n_y * dtype_bytes(dev->act));
}

/* Whoever computes which nodes, in whatever order: all spans in company, or each alone, in other pages. */
static void check_parts_of(const tested *t, attention_shape shape, uint64_t *seed) {
    step all = new_step(shape, 64, long_parts, LONG_PARTS), alone[LONG_PARTS];
    loaded of_all = load(t, &all), of_one[LONG_PARTS];
    for (int i = 0; i < LONG_PARTS; i++) {
        alone[i] = new_step(shape, i % 2 ? 96 : 32, &long_parts[i], 1);
        of_one[i] = load(t, &alone[i]);
    }
    void *expected = attend_loaded(t, &all, &of_all);
    double error = attention_error(t, &all, expected),
           bound = t->dev->kv == DTYPE_F32 ? F32_ATTENTION_BOUND : BF16_BOUND;
    CHECK_CASE(error < bound, "%s: K %d window %d: %g", t->name, shape.head_dim, (int)shape.window, error);

    const int n_nodes = 5;
    const attend_partials layout = {0, 0, all.n_rows, shape.n_heads, shape.head_dim};
    const size_t n = (size_t)n_nodes * attend_node_floats(&layout);
    for (int trial = 0; trial < (harness_is_slow() ? 1 : 3); trial++) {
        attend_extent extents[MAX_CELLS];
        float *partials = new_poisoned(DTYPE_F32, n);
        for (int i = 0, n_extents = cut(seed, n_nodes, extents); i < n_extents; i++) {
            const attend_extent *e = &extents[i];
            if (random_below(seed, 2)) {
                add_part(t, &all, &of_all, e, &layout, 0, partials);
                continue;
            }
            for (int k = e->first_span; k < e->last_span; k++) {
                const attend_extent own = {0, 1, e->nodes};
                add_part(t, &alone[k], &of_one[k], &own, &layout, all.spans[k].row0, partials);
            }
        }
        void *y = merge_parts(t, seed, &all, partials, n, n_nodes);
        CHECK_CASE(same_bits(y, expected, t->dev->act, q_elements(&all) + GUARD),
                   "%s: H %d G %d K %d window %d: parts differ from the whole", t->name, shape.n_heads,
                   shape.n_kv_heads, shape.head_dim, (int)shape.window);
        free(y);
        free(partials);
    }
    free(expected);
    unload(t, &of_all);
    free(all.tables);
    for (int i = 0; i < LONG_PARTS; i++) {
        unload(t, &of_one[i]);
        free(alone[i].tables);
    }
}

static void check_parts(const tested *t) {
    const attention_shape long_shapes[] = {
        {.n_heads = 2, .n_kv_heads = 1, .head_dim = 10},
        {.n_heads = 2, .n_kv_heads = 2, .head_dim = 16, .window = 9000},
        {.n_heads = 2, .n_kv_heads = 1, .head_dim = 64, .window = ATTEND_NODE + 300},
        {.n_heads = 1, .n_kv_heads = 1, .head_dim = 80},
    };
    uint64_t seed = 21;
    for (size_t i = 0; i < sizeof long_shapes / sizeof *long_shapes; i++)
        check_parts_of(t, long_shapes[i], &seed);
}

static void test_parts(void) {
    for_each_paged(check_parts);
}

/* ---- steps that a device may know by heart ---- */

/* Two sequences get a token each in step after step, from the third block of positions into the fourth: with
 * what a device remembers of steps, and without. */
typedef struct decoding {
    float *qkv, *cos_sin;
    void *q, *y, *pages;
    kv_layer kv;
} decoding;

static void queue_step(device *dev, const step *s, const decoding *d) {
    const float inv_freq[] = {1, 0.5f, 0.1f, 0.02f, 0.01f, 0.005f, 0.001f, 1e-4f};
    const qkv_weights weights = {0};
    dev->ops->rope_table(dev, inv_freq, 1, s->shape.head_dim, d->cos_sin);
    dev->ops->kv_append(dev, &s->shape, &weights, d->cos_sin, &d->kv, d->qkv, d->q);
    dev->ops->attend(dev, &s->shape, &d->kv, d->q, d->y);
}

static void check_replay(const tested *t) {
    enum { STEPS = 9, K = 16, HEADS = 4, POS0 = 3 * ATTEND_BLOCK - 5 };
    device *dev = t->dev;
    const attention_shape shape = {.n_heads = 2, .n_kv_heads = 1, .head_dim = K};
    const step_part last[] = {{POS0 + STEPS, 1, true, 0}, {STEPS, 1, true, 1}};
    step s = new_step(shape, 32, last, 2);
    size_t n = 2 * (size_t)(shape.n_heads * K), n_qkv = 2 * HEADS * K, n_pool = pool_elements(&s, dev);
    void *pool = new_pool(&s, dev), *results[2];
    float *qkv = new_random_of(DTYPE_F32, &(uint64_t){9}, STEPS * n_qkv, 1);
    for (int with_replay = 0; with_replay < 2; with_replay++) {
        decoding d = {array_poisoned(dev, DTYPE_F32, n_qkv),
                      array_poisoned(dev, DTYPE_F32, 2 * K),
                      array_poisoned(dev, dev->act, n),
                      array_poisoned(dev, dev->act, n),
                      array_new(dev, pool, n_pool * dtype_bytes(dev->kv)),
                      {0}};
        d.kv = layer_of(&s, dev, d.pages);
        char *all = results[with_replay] = mem_new(STEPS * n, dtype_bytes(dev->act));
        for (size_t i = 0; i < STEPS; i++) {
            s.spans[0].pos0 = POS0 + (int64_t)i;
            s.spans[1].pos0 = (int64_t)i;
            dev->ops->begin_step(dev, s.n_spans, s.spans);
            dev->ops->copy_in(dev, d.qkv, qkv + i * n_qkv, n_qkv * sizeof *qkv);
            if (!with_replay) queue_step(dev, &s, &d);
            if (with_replay && !dev->ops->replay(dev, d.qkv)) {
                queue_step(dev, &s, &d);
                dev->ops->record_end(dev);
            }
            dev->ops->copy_out(dev, array_at(all, dev->act, i * n), d.y, n * dtype_bytes(dev->act));
            CHECK_OK(dev->ops->sync(dev));
        }
        dev->ops->release(dev, d.qkv);
        dev->ops->release(dev, d.cos_sin);
        dev->ops->release(dev, d.q);
        dev->ops->release(dev, d.y);
        dev->ops->release(dev, d.pages);
        release_layer(dev, &d.kv);
    }
    CHECK_CASE(same_bits(results[0], results[1], dev->act, STEPS * n), "%s: a replayed step differs",
               t->name);
    CU_ASSERT(count_nan(results[0], dev->act, STEPS * n) == 0);
    free(results[0]);
    free(results[1]);
    free(pool);
    free(qkv);
    free(s.tables);
}

static void test_replay(void) {
    for_each_paged(check_replay);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"rope table", test_rope_table}, {"append", test_append},   {"append codes", test_append_codes},
        {"attend", test_attend},         {"company", test_company}, {"parts", test_parts},
        {"replay", test_replay},         CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "device attend", tests);
}
