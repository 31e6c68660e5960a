/* Positions, the paged KV cache and attention: against a float64 reference on every instruction set in both
 * precisions, and with pages of int8 and int4; and the promise that a row's bits do not depend on spans,
 * pages, threads or company. Positions that are not yet there are NaN, so that one that is read shows. */
#include <stdio.h>

#include "kernels/attend_blocks.h"
#include "tests/fixtures/device_fixture.h"

/* Attention in float32: a score that is a sum over K = 256 with deviation 2 sqrt(K) carries an error of about
 * 1e-6 after scaling, which is then a relative error of its weight; a few of them, squared, are 1e-11. */
static const double F32_BOUND = 1e-12, F32_ATTENTION_BOUND = 1e-11, BF16_ROUNDING_BOUND = 4e-6;

/* Of pages of int4 a query's product with the step of a key's range is off by 1/254 of the largest of its
 * products, at most: with keys and queries as here a score by 0.016, and so a weight is; a few times as much
 * where few count. */
static const double INT4_ATTENTION_BOUND = 2e-3;

/* ---- devices ---- */

static kv_layout codes = KV_PANELS; /* of devices of bf16 that are opened now; KV_PANELS: none */

static device *open_paged(const char *isa, precision p, int n_threads) {
    device *dev = open_device(isa, p, n_threads);
    if (codes != KV_PANELS) dev->kv_layout = codes;
    return dev;
}

/* As for_each_device, and with pages of codes. */
static void for_each_paged(void (*body)(const char *isa, precision p)) {
    for_each_device(body);
    for (codes = KV_INT8; codes <= KV_INT4; codes++)
        for (int i = 0; cpu_isa_name(i); i++)
            if (cpu_isa_available(cpu_isa_name(i))) body(cpu_isa_name(i), PRECISION_BF16);
    codes = KV_PANELS;
}

/* ---- a sequence ---- */

typedef struct sequence {
    attention_shape shape;
    int n; /* positions */
    char *k, *v, *q, *y;
    char *coded[N_KV_PARTS]; /* k and v as they are after they went through a page of codes */
} sequence;

static size_t q_width(const attention_shape *s) {
    return (size_t)(s->n_heads * s->head_dim);
}

/* Rows in whole groups of places, as far as there are some: those behind are never coded. */
static void code_rows(sequence *s) {
    const int G = s->shape.n_kv_heads, K = s->shape.head_dim;
    const kv_format f = kv_format_of(DTYPE_BF16, codes, G, K, KV_INT4_PLACES);
    const size_t head_bytes = (size_t)K * sizeof(uint16_t), row_bytes = (size_t)G * head_bytes;
    void *page = mem_new(kv_page_bytes(&f), 1);
    for (int part = 0; part < N_KV_PARTS; part++) {
        s->coded[part] = mem_new((size_t)s->n, row_bytes);
        for (int i = 0; i + KV_INT4_PLACES <= s->n; i += KV_INT4_PLACES)
            for (int g = 0; g < G; g++) {
                const size_t at = (size_t)i * row_bytes + (size_t)g * head_bytes;
                kv_put_rows(&f, page, (kv_part)part, g, 0, KV_INT4_PLACES,
                            (part == KV_PART_K ? s->k : s->v) + at, row_bytes);
                kv_get_rows(&f, page, (kv_part)part, g, 0, KV_INT4_PLACES, s->coded[part] + at, row_bytes);
            }
    }
    free(page);
}

static sequence new_sequence(attention_shape shape, int n, dtype type, uint64_t *seed) {
    sequence s = {.shape = shape, .n = n};
    s.shape.scale = 1 / sqrtf((float)shape.head_dim);
    s.k = new_random_of(type, seed, (size_t)n * kv_width(&shape), 1);
    s.v = new_random_of(type, seed, (size_t)n * kv_width(&shape), 1);
    s.q = new_random_of(type, seed, (size_t)n * q_width(&shape), 2);
    s.y = new_poisoned(type, (size_t)n * q_width(&shape));
    if (codes != KV_PANELS) code_rows(&s);
    return s;
}

static void free_sequence(sequence *s) {
    free(s->k);
    free(s->v);
    free(s->q);
    free(s->y);
    free(s->coded[KV_PART_K]);
    free(s->coded[KV_PART_V]);
}

static int block_begin(int pos) {
    return pos - pos % ATTEND_BLOCK;
}

static void put_positions(const kv_layer *kv, const sequence *s, size_t type_bytes, int pos, int n) {
    const kv_format *f = &kv->format;
    const size_t head_bytes = (size_t)s->shape.head_dim * type_bytes,
                 row_bytes = (size_t)s->shape.n_kv_heads * head_bytes;
    for (int g = 0; g < s->shape.n_kv_heads; g++) {
        size_t at = (size_t)pos * row_bytes + (size_t)g * head_bytes;
        char *page = kv_layer_page(kv, 0, pos);
        kv_put_rows(f, page, KV_PART_K, g, pos % f->page_tokens, n, s->k + at, row_bytes);
        kv_put_rows(f, page, KV_PART_V, g, pos % f->page_tokens, n, s->v + at, row_bytes);
    }
}

/* Positions [first, last), and of pages of codes and near ones only what rows [row0, last) see there; row0 is
 * `first` or `last`. What was open behind positions before may have become codes. */
static void fill_cache(cache *c, const sequence *s, size_t type_bytes, int first, int last, int row0) {
    const int coded_end = block_begin(last > row0 ? last - 1 : last);
    for (int pos = first; pos < last; pos++)
        if (!c->near || pos < ATTEND_EXACT_FIRST || pos >= block_begin(row0))
            put_positions(c->near ? c->layer.near : &c->layer, s, type_bytes, pos, 1);
    const int at_once = codes == KV_INT4 ? KV_INT4_PLACES : 1;
    for (int pos = first < ATTEND_BLOCK ? ATTEND_EXACT_FIRST : block_begin(first) - ATTEND_BLOCK;
         c->near && pos < coded_end; pos += at_once)
        put_positions(&c->layer, s, type_bytes, pos, at_once);
}

static int page_of(int page_tokens) {
    return codes == KV_INT4 ? (page_tokens + KV_INT4_PLACES - 1) / KV_INT4_PLACES * KV_INT4_PLACES
                            : page_tokens;
}

/* Attention of rows [first, last), one span a step of at most `chunk` rows. */
static void attend_rows(device *dev, const sequence *s, int page_tokens, int chunk, int first, int last,
                        char *y) {
    size_t type_bytes = dtype_bytes(dev->act), row_bytes = q_width(&s->shape) * type_bytes;
    cache c = new_cache(dev, &s->shape, s->n, page_of(page_tokens));
    fill_cache(&c, s, type_bytes, 0, first, first);
    for (int pos = first; pos < last; pos += chunk) {
        span whole = {0, last - pos < chunk ? last - pos : chunk, pos, 0, false};
        fill_cache(&c, s, type_bytes, pos, pos + whole.n_rows, pos);
        dev->ops->begin_step(dev, 1, &whole);
        dev->ops->attend(dev, &s->shape, &c.layer, s->q + (size_t)pos * row_bytes,
                         y + (size_t)pos * row_bytes);
    }
    CHECK_OK(dev->ops->sync(dev));
    free_cache(&c);
}

/* ---- the arithmetic of positions ---- */

static void test_blocks(void) {
    const int64_t windows[] = {0, 1, 2, 255, 256, 257, 1000};
    for (int w = 0; w < 7; w++)
        for (int64_t pos = 0; pos < 1300; pos++) {
            int64_t first = windows[w] ? pos - windows[w] + 1 : 0, next = first < 0 ? 0 : first;
            CU_ASSERT_FATAL(attend_first_position(pos, windows[w]) == next);
            for (int64_t block = 0; block < 7; block++) {
                attend_range range = attend_range_in(pos, windows[w], block);
                if (range.first >= range.last) continue;
                CU_ASSERT_FATAL(block * ATTEND_BLOCK + range.first == next && range.last <= ATTEND_BLOCK);
                next = block * ATTEND_BLOCK + range.last;
            }
            CU_ASSERT_FATAL(next == pos + 1);
        }
    CU_ASSERT(attend_block_of(255) == 0 && attend_block_of(256) == 1);
    CU_ASSERT(attend_levels(1) == 1 && attend_levels(2) == 2 && attend_levels(3) == 2 &&
              attend_levels(4) == 3);
    CU_ASSERT(attend_unit_level(7, 8) == 0 && attend_unit_level(16, 8) == 1 && attend_unit_level(31, 8) == 1);
    CU_ASSERT(attend_unit_level(32, 8) == 2 && attend_unit_level(1, 1) == 0);
}

static void check_rope_table(const char *isa, precision p) {
    enum { K = 10, HALF = K / 2 };
    const float inv_freq[HALF] = {1, 0.31622776f, 0.1f, 0.0123f, 1e-5f};
    const span spans[] = {{0, 3, 0, 0, false}, {3, 1, 100000, 1, true}, {4, 2, 7, 2, false}};
    const int64_t positions[] = {0, 1, 2, 100000, 7, 8};
    device *dev = open_device(isa, p, 2);
    float *table = new_poisoned(DTYPE_F32, 6 * K + 1);
    dev->ops->begin_step(dev, 3, spans);
    dev->ops->rope_table(dev, inv_freq, 1.25f, K, table);
    for (int t = 0; t < 6; t++)
        for (int i = 0; i < HALF; i++) {
            double angle = (double)((float)positions[t] * inv_freq[i]);
            CU_ASSERT_DOUBLE_EQUAL(table[t * K + i], 1.25 * cos(angle), 2e-7);
            CU_ASSERT_DOUBLE_EQUAL(table[t * K + HALF + i], 1.25 * sin(angle), 2e-7);
        }
    CU_ASSERT(isnan(table[6 * K]));
    free(table);
    close_device(dev);
}

static void test_rope_table(void) {
    for_each_device(check_rope_table);
}

/* ---- append ---- */

typedef struct append_case {
    attention_shape shape;
    int page_tokens;
    bool bias, norms;
} append_case;

/* One head of one row as kv_append leaves it, in float64. */
static void expected_head(const append_case *c, const qkv_weights *w, const float *cos_sin, const float *qkv,
                          int t, int head, double *x) {
    int H = c->shape.n_heads, G = c->shape.n_kv_heads, K = c->shape.head_dim;
    const float *norm = head < H ? w->q_norm : head < H + G ? w->k_norm : NULL;
    double squares = 0, y[256];
    for (int i = 0; i < K; i++) {
        y[i] = (double)qkv[(t * (H + 2 * G) + head) * K + i];
        if (w->bias) y[i] += (double)w->bias[head * K + i];
        squares += y[i] * y[i];
    }
    for (int i = 0; norm && i < K; i++)
        y[i] *= (double)norm[i] / sqrt(squares / K + (double)w->norm_eps);
    for (int i = 0; i < K; i++) {
        double cosine = (double)cos_sin[t * K + i % (K / 2)],
               sine = (double)cos_sin[t * K + K / 2 + i % (K / 2)];
        double rotated =
            i < K / 2 ? y[i] * cosine - y[i + K / 2] * sine : y[i] * cosine + y[i - K / 2] * sine;
        x[i] = head < H + G ? rotated : y[i];
    }
}

static void check_append_case(device *dev, const append_case *c) {
    enum { T = 40, POS0 = 27 };
    int H = c->shape.n_heads, G = c->shape.n_kv_heads, K = c->shape.head_dim, heads = H + 2 * G;
    size_t n = (size_t)(T * heads * K), type_bytes = dtype_bytes(dev->kv);
    uint64_t seed = 8;
    float *qkv = new_random(&seed, n, 1), *work = mem_new(n, sizeof *work);
    float *bias = new_random(&seed, (size_t)(heads * K), 1), *norm = new_random(&seed, (size_t)(2 * K), 1);
    float *cos_sin = new_random(&seed, (size_t)(T * K), 1);
    char *q = new_poisoned(dev->act, (size_t)(T * H * K)),
         *q_decode = new_poisoned(dev->act, (size_t)(T * H * K));
    qkv_weights weights = {.norm_eps = 0.1f};
    if (c->bias) weights.bias = bias;
    if (c->norms) weights.q_norm = norm, weights.k_norm = norm + K;
    cache all = new_cache(dev, &c->shape, POS0 + T, c->page_tokens);
    cache one = new_cache(dev, &c->shape, POS0 + T, c->page_tokens);

    memcpy(work, qkv, n * sizeof *work);
    span spans[] = {{0, 13, POS0, 0, false}, {13, T - 13, POS0 + 13, 0, false}};
    dev->ops->begin_step(dev, 2, spans);
    dev->ops->kv_append(dev, &c->shape, &weights, cos_sin, &all.layer, work, q);

    memcpy(work, qkv, n * sizeof *work); /* the same, row by row */
    for (int t = 0; t < T; t++) {
        span row = {0, 1, POS0 + t, 0, true};
        dev->ops->begin_step(dev, 1, &row);
        dev->ops->kv_append(dev, &c->shape, &weights, cos_sin + t * K, &one.layer, work + t * heads * K,
                            q_decode + (size_t)(t * H * K) * type_bytes);
    }
    CHECK_CASE(!memcmp(all.layer.pages, one.layer.pages, all.bytes), "KV bytes differ, page %d",
               c->page_tokens);
    CU_ASSERT(!memcmp(q, q_decode, (size_t)(T * H * K) * type_bytes));

    size_t n_written = 0, n_nan = 0;
    double *expected = mem_new(n, sizeof *expected),
           bound = dev->kv == DTYPE_F32 ? F32_BOUND : BF16_ROUNDING_BOUND;
    char *got = mem_new(n, type_bytes);
    for (int t = 0; t < T; t++)
        for (int head = 0; head < heads; head++, n_written += (size_t)K) {
            expected_head(c, &weights, cos_sin, qkv, t, head, expected + n_written);
            char *to = got + n_written * type_bytes;
            const size_t row_bytes = (size_t)K * type_bytes;
            if (head < H)
                memcpy(to, q + (size_t)((t * H + head) * K) * type_bytes, row_bytes);
            else
                kv_get_rows(&all.layer.format, kv_layer_page(&all.layer, 0, POS0 + t),
                            head < H + G ? KV_PART_K : KV_PART_V, (head - H) % G, (POS0 + t) % c->page_tokens,
                            1, to, row_bytes);
        }
    double error = error_of(got, dev->kv, expected, n);
    CHECK_CASE(error < bound, "%s: append H %d G %d K %d: %g", cpu_device_isa(dev), H, G, K, error);
    for (size_t i = 0; i < all.bytes / type_bytes; i++)
        n_nan += isnan(number_at(all.layer.pages, dev->kv, i)) ? 1 : 0;
    CU_ASSERT(n_nan == all.bytes / type_bytes - (size_t)(T * 2 * G * K));
    free_cache(&all);
    free_cache(&one);
    free(qkv);
    free(work);
    free(bias);
    free(norm);
    free(cos_sin);
    free(q);
    free(q_decode);
    free(expected);
    free(got);
}

static void check_append(const char *isa, precision p) {
    const append_case cases[] = {{{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16}, 32, false, false},
                                 {{.n_heads = 3, .n_kv_heads = 3, .head_dim = 6}, 96, true, false},
                                 {{.n_heads = 16, .n_kv_heads = 1, .head_dim = 80}, 64, false, true},
                                 {{.n_heads = 8, .n_kv_heads = 4, .head_dim = 128}, 4096, true, true}};
    device *dev = open_device(isa, p, 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_append_case(dev, &cases[i]);
    close_device(dev);
}

static void test_append(void) {
    for_each_device(check_append);
}

/* ---- attention against the reference ---- */

/* An element of K or V of position j, as the row at `pos` sees it. */
static double element_seen(const sequence *s, dtype type, int pos, kv_part part, int j, int g, int i) {
    const bool is_exact =
        codes == KV_PANELS || j % ATTEND_BLOCK < attend_exact_places(pos, attend_block_of(j));
    const char *rows = !is_exact ? s->coded[part] : part == KV_PART_K ? s->k : s->v;
    return (double)number_at(rows, type, (size_t)((j * s->shape.n_kv_heads + g) * s->shape.head_dim + i));
}

static void expected_attention(const sequence *s, dtype type, int pos, int head, double *y) {
    int K = s->shape.head_dim, G = s->shape.n_kv_heads, g = head / (s->shape.n_heads / G);
    int64_t window = s->shape.window;
    double *scores = mem_new((size_t)pos + 1, sizeof *scores), max = -INFINITY, sum = 0;
    for (int j = 0; j <= pos; j++) {
        for (int i = 0; i < K; i++)
            scores[j] += (double)number_at(s->q, type, (size_t)((pos * s->shape.n_heads + head) * K + i)) *
                         element_seen(s, type, pos, KV_PART_K, j, g, i);
        scores[j] = window && j <= pos - window ? -INFINITY : scores[j] * (double)s->shape.scale;
        max = fmax(max, scores[j]);
    }
    for (int i = 0; i < K; i++)
        y[i] = 0;
    for (int j = 0; j <= pos; j++) {
        double e = exp(scores[j] - max);
        sum += e;
        for (int i = 0; i < K; i++)
            y[i] += e * element_seen(s, type, pos, KV_PART_V, j, g, i);
    }
    for (int i = 0; i < K; i++)
        y[i] /= sum;
    free(scores);
}

typedef struct attend_case {
    attention_shape shape;
    int page_tokens, pos0, n_rows;
} attend_case;

static void check_attend_case(device *dev, const attend_case *c) {
    uint64_t seed = 9;
    int H = c->shape.n_heads, K = c->shape.head_dim, end = c->pos0 + c->n_rows;
    sequence s = new_sequence(c->shape, end, dev->kv, &seed);
    size_t row = q_width(&c->shape), n = (size_t)c->n_rows * row;
    double *expected = mem_new(n, sizeof *expected), bound = dev->kv == DTYPE_F32 ? F32_ATTENTION_BOUND
                                                             : codes == KV_INT8   ? INT8_ATTENTION_BOUND
                                                             : codes == KV_INT4   ? INT4_ATTENTION_BOUND
                                                                                  : BF16_ROUNDING_BOUND;
    attend_rows(dev, &s, c->page_tokens, c->n_rows, c->pos0, end, s.y);
    for (int t = 0; t < c->n_rows; t++)
        for (int head = 0; head < H; head++)
            expected_attention(&s, dev->kv, c->pos0 + t, head,
                               expected + (size_t)t * row + (size_t)(head * K));
    double error = error_of(s.y + (size_t)c->pos0 * row * dtype_bytes(dev->act), dev->act, expected, n);
    CHECK_CASE(error < bound, "%s: attend H %d G %d K %d window %d page %d rows %d at %d: %g",
               cpu_device_isa(dev), H, c->shape.n_kv_heads, K, (int)c->shape.window, c->page_tokens,
               c->n_rows, c->pos0, error);
    free(expected);
    free_sequence(&s);
}

static void check_attend(const char *isa, precision p) {
    const attend_case cases[] = {
        {{.n_heads = 1, .n_kv_heads = 1, .head_dim = 2}, 32, 0, 1},
        {{.n_heads = 4, .n_kv_heads = 4, .head_dim = 16}, 32, 0, 65},
        {{.n_heads = 8, .n_kv_heads = 2, .head_dim = 64}, 64, 250, 63},
        {{.n_heads = 6, .n_kv_heads = 1, .head_dim = 80}, 160, 500, 64},
        {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 96}, 96, 513, 7},
        {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 128}, 4096, 1023, 2},
        {{.n_heads = 2, .n_kv_heads = 2, .head_dim = 256}, 32, 255, 1},
        {{.n_heads = 3, .n_kv_heads = 3, .head_dim = 34}, 160, 240, 40},
        {{.n_heads = 71, .n_kv_heads = 1, .head_dim = 10}, 32, 300, 3},
        {{.n_heads = 4, .n_kv_heads = 1, .head_dim = 32}, 64, 2000, 1},
        {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .window = 1}, 32, 250, 20},
        {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .window = 5}, 96, 500, 30},
        {{.n_heads = 2, .n_kv_heads = 2, .head_dim = 20, .window = 100}, 32, 300, 64},
        {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .window = 256}, 64, 0, 600},
        {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 32, .window = 700}, 160, 1530, 10},
        {{.n_heads = 7, .n_kv_heads = 1, .head_dim = 32}, 64, 500, 30},
        {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .window = 480}, 64, 505, 120},
    };
    device *dev = open_paged(isa, p, 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attend_case(dev, &cases[i]);
    close_device(dev);
}

static void test_attend(void) {
    for_each_paged(check_attend);
}

/* Scores so far apart that exp underflows, and equal ones, in blocks of their own. */
static void check_attend_extremes(const char *isa, precision p) {
    enum { N = 600, K = 16 };
    device *dev = open_device(isa, p, 2);
    uint64_t seed = 10;
    sequence s =
        new_sequence((attention_shape){.n_heads = 1, .n_kv_heads = 1, .head_dim = K}, N, dev->kv, &seed);
    float k[N * K], q[K], y[K];
    for (int i = 0; i < N * K; i++)
        k[i] = i / K == 300 ? 100 : i / K < 256 ? -1000 : 1;
    for (int i = 0; i < K; i++)
        q[i] = 10;
    for (int i = 0; i < N * K; i++)
        dev->kv == DTYPE_F32 ? (((float *)(void *)s.k)[i] = k[i])
                             : (((uint16_t *)(void *)s.k)[i] = bf16_of_float(k[i]));
    for (int i = 0; i < K; i++) {
        size_t at = (N - 1) * K + (size_t)i;
        dev->kv == DTYPE_F32 ? (((float *)(void *)s.q)[at] = q[i])
                             : (((uint16_t *)(void *)s.q)[at] = bf16_of_float(q[i]));
    }
    attend_rows(dev, &s, 32, 1, N - 1, N, s.y);
    for (size_t i = 0; i < K; i++) {
        y[i] = number_at(s.y, dev->act, (N - 1) * K + i);
        CU_ASSERT(y[i] == number_at(s.v, dev->kv, 300 * K + i));
    }
    free_sequence(&s);
    close_device(dev);
}

static void test_attend_extremes(void) {
    for_each_device(check_attend_extremes);
}

/* ---- the same bits ---- */

/* One value of position pos is infinite: rows before it must not notice, in whatever company. Those are all
 * rows but the last two where pos is 899. */
static void make_infinite(sequence *s, dtype type, int pos) {
    size_t at = (size_t)pos * kv_width(&s->shape);
    if (type == DTYPE_F32)
        ((float *)(void *)s->v)[at] = INFINITY;
    else
        ((uint16_t *)(void *)s->v)[at] = bf16_of_float(INFINITY);
}

static void check_same_with(const char *isa, precision p, int infinite_pos) {
    const attention_shape shapes[] = {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16},
                                      {.n_heads = 3, .n_kv_heads = 3, .head_dim = 20},
                                      {.n_heads = 2, .n_kv_heads = 2, .head_dim = 32, .window = 300},
                                      {.n_heads = 10, .n_kv_heads = 2, .head_dim = 16, .window = 3}};
    const int page_tokens[] = {32, 64, 96}, chunks[] = {7, 64, 901};
    enum { N = 901 };
    uint64_t seed = 11;
    device *alone = open_paged(isa, p, 1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        sequence s = new_sequence(shapes[i], N, alone->kv, &seed);
        make_infinite(&s, alone->kv, infinite_pos);
        size_t bytes = N * q_width(&shapes[i]) * dtype_bytes(alone->act);
        char *y = mem_new(bytes, 1);
        attend_rows(alone, &s, 4096, 1, 0, N, s.y); /* decode: later positions are not there yet */
        for (int k = 0; k < 3; k += harness_is_slow() ? 2 : 1) {
            device *dev = open_paged(isa, p, k + 1);
            for (int j = 0; j < 3; j++) {
                memset(y, 0xff, bytes);
                attend_rows(dev, &s, page_tokens[k], chunks[j], 0, N, y);
                CHECK_CASE(!memcmp(y, s.y, bytes),
                           "%s: shape %zu, page %d, chunk %d, %d threads, infinite %d", isa, i,
                           page_tokens[k], chunks[j], k + 1, infinite_pos);
            }
            close_device(dev);
        }
        free(y);
        free_sequence(&s);
    }
    close_device(alone);
}

static void check_same(const char *isa, precision p) {
    check_same_with(isa, p, 899);
    if (!harness_is_slow()) check_same_with(isa, p, 450);
}

static void test_same(void) {
    for_each_paged(check_same);
}

/* Pages of several sequences in one pool. */
typedef struct pooled {
    kv_layer layer;
    char *pages;
    int32_t *tables;
    int n_pages;
} pooled;

/* The cache of a sequence, copied behind those of the others; that of the first one is the longest. */
static void add_to_pool(pooled *p, const cache *own, int slot, int n_slots) {
    const int own_pages = (int)(own->bytes / own->page_bytes);
    if (slot == 0) {
        p->layer = own->layer;
        p->layer.near = NULL;
        p->layer.tables = p->tables = mem_new((size_t)(n_slots * own_pages), sizeof *p->tables);
    }
    p->layer.pages = p->pages = mem_resize(p->pages, (size_t)(p->n_pages + own_pages), own->page_bytes);
    memcpy(p->pages + (size_t)p->n_pages * own->page_bytes, own->layer.pages, own->bytes);
    for (int i = 0; i < own_pages; i++)
        p->tables[slot * p->layer.table_pages + i] = own->page_ids[i] + p->n_pages;
    p->n_pages += own_pages;
}

static void free_pooled(pooled *p) {
    free(p->pages);
    free(p->tables);
}

/* A step of several sequences, rows of different ages and numbers, against each of them alone; and one long
 * context, which several threads share. */
static void check_company(const char *isa, precision p) {
    enum { N_SEQUENCES = 4, ROWS = 76 };
    const int ends[N_SEQUENCES] = {5000, 64, 300, 1000}, rows[N_SEQUENCES] = {1, 64, 10, 1};
    const attention_shape shape = {.n_heads = 4, .n_kv_heads = 1, .head_dim = 16};
    device *alone = open_paged(isa, p, 1);
    size_t row_bytes = q_width(&shape) * dtype_bytes(alone->act);
    uint64_t seed = 12;
    sequence s[N_SEQUENCES];
    for (int i = 0; i < N_SEQUENCES; i++) {
        s[i] = new_sequence(shape, ends[i], alone->kv, &seed);
        attend_rows(alone, &s[i], 64, rows[i], ends[i] - rows[i], ends[i], s[i].y);
    }
    pooled all = {0}, near = {0};
    span spans[N_SEQUENCES];
    char *q = mem_new(ROWS, row_bytes), *y = mem_new(ROWS, row_bytes);
    int row0 = 0;
    for (int i = 0; i < N_SEQUENCES; i++) {
        const int first = ends[i] - rows[i];
        cache own = new_cache(alone, &s[i].shape, ends[i], 64);
        fill_cache(&own, &s[i], dtype_bytes(alone->kv), 0, first, first);
        fill_cache(&own, &s[i], dtype_bytes(alone->kv), first, ends[i], first);
        add_to_pool(&all, &own, i, N_SEQUENCES);
        if (own.near) add_to_pool(&near, own.near, i, N_SEQUENCES);
        free_cache(&own);
        spans[i] = (span){row0, rows[i], first, i, false};
        memcpy(q + (size_t)row0 * row_bytes, s[i].q + (size_t)first * row_bytes, (size_t)rows[i] * row_bytes);
        row0 += rows[i];
    }
    if (codes != KV_PANELS) all.layer.near = &near.layer;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        device *dev = open_paged(isa, p, n_threads);
        char *long_y = mem_new((size_t)ends[0], row_bytes);
        memset(y, 0xff, ROWS * row_bytes);
        dev->ops->begin_step(dev, N_SEQUENCES, spans);
        dev->ops->attend(dev, &s[0].shape, &all.layer, q, y);
        for (int i = 0; i < N_SEQUENCES; i++)
            CHECK_CASE(!memcmp(y + (size_t)spans[i].row0 * row_bytes,
                               s[i].y + (size_t)spans[i].pos0 * row_bytes, (size_t)rows[i] * row_bytes),
                       "%s: sequence %d differs in company, %d threads", isa, i, n_threads);
        attend_rows(dev, &s[0], 96, 1, ends[0] - 1, ends[0], long_y);
        CHECK_CASE(!memcmp(long_y + (size_t)(ends[0] - 1) * row_bytes,
                           s[0].y + (size_t)(ends[0] - 1) * row_bytes, row_bytes),
                   "%s: the long context differs with %d threads", isa, n_threads);
        free(long_y);
        close_device(dev);
    }
    for (int i = 0; i < N_SEQUENCES; i++)
        free_sequence(&s[i]);
    free_pooled(&all);
    free_pooled(&near);
    free(q);
    free(y);
    close_device(alone);
}

static void test_company(void) {
    for_each_paged(check_company);
}

/* Each node by as many threads as it may be, later ones first, and their merge. */
static void check_parts(const char *isa, precision p) {
    enum { ROWS = 3, END = 2 * ATTEND_NODE + 2 };
    uint64_t seed = 14;
    device *alone = open_paged(isa, p, 1);
    sequence s =
        new_sequence((attention_shape){.n_heads = 4, .n_kv_heads = 1, .head_dim = 20}, END, alone->kv, &seed);
    size_t bytes = ROWS * q_width(&s.shape) * dtype_bytes(alone->act), first = END - ROWS;
    const char *q = s.q + first * q_width(&s.shape) * dtype_bytes(alone->act);
    attend_rows(alone, &s, 64, ROWS, (int)first, END, s.y);
    const char *expected = s.y + (q - s.q);

    cache c = new_cache(alone, &s.shape, END, page_of(160));
    fill_cache(&c, &s, dtype_bytes(alone->kv), 0, (int)first, (int)first);
    fill_cache(&c, &s, dtype_bytes(alone->kv), (int)first, END, (int)first);
    const span rows = {0, ROWS, (int64_t)first, 0, false};
    const attend_partials layout = {0, 0, ROWS, s.shape.n_heads, s.shape.head_dim};
    float *partials = new_poisoned(DTYPE_F32, 3 * attend_node_floats(&layout));
    for (int n = 3; n > 0; n--) {
        device *dev = open_paged(isa, p, n);
        const attend_extent node = {0, 1, {n - 1, n}}, all = {0, 1, {0, 3}};
        dev->ops->begin_step(dev, 1, &rows);
        dev->ops->attend_part(dev, &s.shape, &c.layer, &node, q,
                              partials + attend_partial_at(&layout, n - 1, 0, 0));
        if (n == 1) {
            char *y = new_poisoned(dev->act, ROWS * q_width(&s.shape));
            dev->ops->attend_merge(dev, &s.shape, &all, partials, y);
            CHECK_CASE(!memcmp(y, expected, bytes), "%s: nodes apart differ from all", isa);
            free(y);
        }
        close_device(dev);
    }
    free(partials);
    free_cache(&c);
    free_sequence(&s);
    close_device(alone);
}

static void test_parts(void) {
    for_each_paged(check_parts);
}

/* ---- failure ---- */

/* One row of attention, which fails on a device with absurdly many threads: no machine has the workspace. */
static void attend_one(device *dev, int head_dim) {
    uint64_t seed = 13;
    attention_shape shape = {.n_heads = 1, .n_kv_heads = 1, .head_dim = head_dim};
    sequence s = new_sequence(shape, 1, dev->kv, &seed);
    cache c = new_cache(dev, &shape, 1, 32);
    span row = {0, 1, 0, 0, false};
    dev->ops->begin_step(dev, 1, &row);
    dev->ops->attend(dev, &shape, &c.layer, s.q, s.y);
    free_cache(&c);
    free_sequence(&s);
}

static void check_failed(device *dev, const char *text) {
    harness_check(__FILE__, __LINE__, dev->ops->sync(dev), STATUS_FAILED, text);
    CHECK_OK(dev->ops->sync(dev));
}

/* A failure waits for sync, which tells the first of several, once. */
static void test_sticky_failure(void) {
    device *dev = NULL;
    char text[STATUS_TEXT_BYTES];
    CHECK_OK(cpu_device_open(PRECISION_BF16, 1 << 30, NULL, &dev));
    attend_one(dev, 16);
    snprintf(text, sizeof text, "%s", status_text());
    check_failed(dev, "out of memory: wanted ");
    attend_one(dev, 16);
    attend_one(dev, 256);
    CU_ASSERT(strcmp(text, status_text()) != 0); /* the second wanted more */
    check_failed(dev, text);
    dev->ops->close(dev);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"blocks", test_blocks},
                           {"rope table", test_rope_table},
                           {"append", test_append},
                           {"attend", test_attend},
                           {"attend extremes", test_attend_extremes},
                           {"same bits", test_same},
                           {"company", test_company},
                           {"parts", test_parts},
                           {"sticky failure", test_sticky_failure},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "attend", tests);
}
