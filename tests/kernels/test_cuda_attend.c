/* The CUDA attention of prompt rows and of generated rows, on a GPU or an emulated one: against a float64
 * reference, with NaN wherever a row must not look, and the promise that a row's bits do not depend on its
 * company, on chunks, pages, or how a grid is cut for the GPU at hand. */
#include <stdio.h>
#ifdef KVARVE_CUDA_EMULATED
#include <sys/mman.h>
#endif

#include "kernels/cuda/attend/attend_map.h"
#include "kernels/cuda/device/cuda_ops.h"
#include "tests/fixtures/device_fixture.h"

/* The result is rounded to bf16, and so are the weights on their way to the tensor cores, which costs as much
 * once more: 3.1e-6 together on random numbers, mean over rows. */
static const double BOUND = 5e-6, ROW_BOUND = 1e-5;

static const int64_t EDGES[] = {0, 1, 15, 16, 63, 64, 65, 255, 256, 257, 1000, 2000};
enum { N_EDGES = sizeof EDGES / sizeof *EDGES, N_MAX = 2001 };

/* Do pages hold codes, or what is put? */
static bool is_coded = false;

static void with_each_format(void (*check)(void)) {
    check();
    is_coded = true;
    check();
    is_coded = false;
}

/* ---- sequences ---- */

typedef struct sequence {
    attention_shape shape;
    int n; /* positions */
    uint16_t *k, *v, *q;
    float *k_coded, *v_coded; /* what codes say of k and v */
} sequence;

static size_t q_width(const attention_shape *s) {
    return (size_t)(s->n_heads * s->head_dim);
}

static attention_shape shape_of(int n_heads, int n_kv_heads, int head_dim, int64_t window) {
    return (attention_shape){n_heads, n_kv_heads, head_dim, 1 / sqrtf((float)head_dim), window, NULL};
}

/* Rows that went through a page of codes. */
static float *new_coded(const attention_shape *shape, int n, const uint16_t *rows) {
    const size_t n_rows = (size_t)(n * shape->n_kv_heads), K = (size_t)shape->head_dim;
    const kv_format f = kv_format_of(DTYPE_BF16, KV_INT8_ROWS, 1, shape->head_dim, KV_PAGE_QUANTUM);
    float *coded = mem_new(n_rows * K, sizeof *coded), scale;
    unsigned char *page = mem_new(kv_page_bytes(&f), 1);
    for (size_t i = 0; i < n_rows; i++) {
        kv_put_rows(&f, page, KV_PART_K, 0, 0, 1, rows + i * K, 0);
        memcpy(&scale, page + kv_row_scale(&f, KV_PART_K, 0, 0), sizeof scale);
        for (size_t k = 0; k < K; k++)
            coded[i * K + k] = int8_decode(page[kv_element(&f, KV_PART_K, 0, 0) + k], scale);
    }
    free(page);
    return coded;
}

static sequence new_sequence(attention_shape shape, int n, uint64_t seed) {
    sequence s = {.shape = shape, .n = n};
    s.k = new_random_of(DTYPE_BF16, &seed, (size_t)n * kv_width(&shape), 1);
    s.v = new_random_of(DTYPE_BF16, &seed, (size_t)n * kv_width(&shape), 1);
    s.q = new_random_of(DTYPE_BF16, &seed, (size_t)n * q_width(&shape), 2);
    s.k_coded = new_coded(&shape, n, s.k);
    s.v_coded = new_coded(&shape, n, s.v);
    return s;
}

static void free_sequence(sequence *s) {
    free(s->k);
    free(s->v);
    free(s->q);
    free(s->k_coded);
    free(s->v_coded);
}

/* Rows [pos0, pos0 + n_rows) of a sequence: a span. */
typedef struct piece {
    const sequence *s;
    int pos0, n_rows;
    bool is_generated;
} piece;

/* Does the row at `pos` see position j of the sequence as its codes say? */
static bool sees_codes(int pos, int j) {
    return is_coded && j % ATTEND_BLOCK >= attend_exact_places(pos, attend_block_of(j));
}

/* Element i of such rows as that row sees it: tensor cores get codes of prompt rows in bf16, and those of
 * generated rows as whole numbers. */
static double seen(const uint16_t *put, const float *coded, size_t i, bool is_codes, bool is_generated) {
    return (double)(!is_codes      ? float_of_bf16(put[i])
                    : is_generated ? coded[i]
                                   : float_of_bf16(bf16_of_float(coded[i])));
}

static void expected_head(const sequence *s, int pos, int head, bool is_generated, double *y) {
    int K = s->shape.head_dim, G = s->shape.n_kv_heads, g = head / (s->shape.n_heads / G);
    int first = (int)attend_first_position(pos, s->shape.window);
    double *scores = mem_new((size_t)pos + 1, sizeof *scores), max = -INFINITY, sum = 0;
    const uint16_t *q = s->q + (size_t)(pos * s->shape.n_heads + head) * (size_t)K;
    for (int j = first; j <= pos; j++) {
        const size_t at = (size_t)(j * G + g) * (size_t)K;
        for (int i = 0; i < K; i++)
            scores[j] += (double)float_of_bf16(q[i]) *
                         seen(s->k, s->k_coded, at + (size_t)i, sees_codes(pos, j), is_generated);
        scores[j] *= (double)s->shape.scale;
        max = fmax(max, scores[j]);
    }
    memset(y, 0, (size_t)K * sizeof *y);
    for (int j = first; j <= pos; j++) {
        const size_t at = (size_t)(j * G + g) * (size_t)K;
        double e = exp(scores[j] - max);
        sum += e;
        for (int i = 0; i < K; i++)
            y[i] += e * seen(s->v, s->v_coded, at + (size_t)i, sees_codes(pos, j), is_generated);
    }
    for (int i = 0; i < K; i++)
        y[i] /= sum;
    free(scores);
}

/* ---- a step ---- */

static void *to_device(device *dev, const void *host, size_t bytes) {
    void *memory = NULL;
    CHECK_OK(dev->ops->alloc(dev, bytes, &memory));
    dev->ops->copy_in(dev, memory, host, bytes);
    return memory;
}

/* Is a position of a piece put into pages of this format? Into those of codes where a row sees them, and into
 * near ones where one does not. */
static bool is_put(const piece *p, const kv_format *f, bool is_near, int pos) {
    const int last = p->pos0 + p->n_rows - 1;
    if (kv_is_coded(f)) return sees_codes(last, pos);
    return !is_near || !sees_codes(p->pos0, pos) || !sees_codes(last, pos);
}

/* A pool with the pages of all pieces, of this format, and their tables; all is NaN that is not put. */
static char *fill_pool(const kv_format *f, bool is_near, const piece *pieces, int n, size_t *bytes,
                       int32_t **tables, int *table_pages) {
    char *pool = NULL;
    const int page_tokens = f->page_tokens;
    int n_pages = 0, longest = 0;
    for (int i = 0; i < n; i++)
        if (pieces[i].pos0 + pieces[i].n_rows > longest) longest = pieces[i].pos0 + pieces[i].n_rows;
    *table_pages = (int)kv_pages_for(longest, page_tokens);
    *tables = mem_new((size_t)(n * *table_pages), sizeof **tables);
    for (int i = 0; i < n; i++) {
        const piece *p = &pieces[i];
        int end = p->pos0 + p->n_rows;
        size_t head_bytes = (size_t)p->s->shape.head_dim * sizeof(uint16_t);
        cache c = new_cache_of(*f, end);
        for (int pos = 0; pos < end; pos++)
            for (int g = 0; is_put(p, f, is_near, pos) && g < p->s->shape.n_kv_heads; g++) {
                size_t at = (size_t)(pos * p->s->shape.n_kv_heads + g) * (size_t)p->s->shape.head_dim;
                char *page = kv_layer_page(&c.layer, 0, pos);
                kv_put_rows(&c.layer.format, page, KV_PART_K, g, pos % page_tokens, 1, p->s->k + at,
                            head_bytes);
                kv_put_rows(&c.layer.format, page, KV_PART_V, g, pos % page_tokens, 1, p->s->v + at,
                            head_bytes);
            }
        int own = (int)(c.bytes / c.page_bytes);
        pool = mem_resize(pool, (size_t)(n_pages + own), c.page_bytes);
        memcpy(pool + (size_t)n_pages * c.page_bytes, c.layer.pages, c.bytes);
        for (int k = 0; k < own; k++)
            (*tables)[i * *table_pages + k] = c.page_ids[k] + n_pages;
        n_pages += own;
        *bytes = (size_t)n_pages * c.page_bytes;
        free_cache(&c);
    }
    return pool;
}

/* The same in the device's memory. */
static kv_layer new_layer(device *dev, const kv_format *f, bool is_near, const piece *pieces, int n) {
    kv_layer layer = {.format = *f};
    size_t bytes = 0;
    int32_t *tables;
    char *pool = fill_pool(f, is_near, pieces, n, &bytes, &tables, &layer.table_pages);
    layer.pages = to_device(dev, pool, bytes);
    layer.tables = to_device(dev, tables, (size_t)(n * layer.table_pages) * sizeof *tables);
    free(pool);
    free(tables);
    return layer;
}

static void release_layer(device *dev, const kv_layer *layer) {
    dev->ops->release(dev, layer->pages);
    dev->ops->release(dev, (void *)layer->tables);
}

/* All rows of the pieces, one step; generated pieces come first. */
static uint16_t *attend_pieces(device *dev, const piece *pieces, int n, int page_tokens) {
    const attention_shape *shape = &pieces[0].s->shape;
    const kv_format f = device_kv_format(dev, shape->n_kv_heads, shape->head_dim, page_tokens),
                    near_format = kv_near_format(&f);
    kv_layer layer = new_layer(dev, &f, false, pieces, n), near = {0};
    size_t width = q_width(shape);
    span *spans = mem_new((size_t)n, sizeof *spans);
    for (int i = 0; i < n; i++)
        spans[i] = (span){i ? spans[i - 1].row0 + spans[i - 1].n_rows : 0, pieces[i].n_rows, pieces[i].pos0,
                          i, pieces[i].is_generated};
    if (is_coded) {
        near = new_layer(dev, &near_format, true, pieces, n);
        layer.near = &near;
    }
    size_t rows = (size_t)(spans[n - 1].row0 + spans[n - 1].n_rows), bytes = rows * width * sizeof(uint16_t);
    uint16_t *q = mem_new(rows * width, sizeof *q), *y = new_poisoned(DTYPE_BF16, (rows + 1) * width);
    for (int i = 0; i < n; i++)
        memcpy(q + (size_t)spans[i].row0 * width, pieces[i].s->q + (size_t)pieces[i].pos0 * width,
               (size_t)spans[i].n_rows * width * sizeof *q);
    void *device_q = to_device(dev, q, bytes), *device_y = to_device(dev, y, bytes + width * sizeof *y);
    dev->ops->begin_step(dev, n, spans);
    CU_ASSERT(cuda_attend_can(cuda_device_of(dev), shape));
    dev->ops->attend(dev, shape, &layer, device_q, device_y);
    dev->ops->copy_out(dev, y, device_y, bytes + width * sizeof *y);
    CHECK_OK(dev->ops->sync(dev));
    for (size_t i = 0; i < width; i++)
        CU_ASSERT(isnan(float_of_bf16(y[rows * width + i])));
    release_layer(dev, &layer);
    if (is_coded) release_layer(dev, &near);
    dev->ops->release(dev, device_q);
    dev->ops->release(dev, device_y);
    free(spans);
    free(q);
    return y;
}

/* Every `stride`th row of each piece, and its last, against the reference. */
static void check_pieces(device *dev, const piece *pieces, int n, int page_tokens, int stride) {
    const attention_shape *shape = &pieces[0].s->shape;
    size_t width = q_width(shape), n_rows = 0;
    double *expected = mem_new(width, sizeof *expected), sum = 0;
    uint16_t *y = attend_pieces(dev, pieces, n, page_tokens), *row = y;
    for (int i = 0; i < n; i++)
        for (int t = 0; t < pieces[i].n_rows; t++, row += width) {
            if (t % stride && t != pieces[i].n_rows - 1) continue;
            int pos = pieces[i].pos0 + t;
            for (int head = 0; head < shape->n_heads; head++)
                expected_head(pieces[i].s, pos, head, pieces[i].is_generated,
                              expected + head * shape->head_dim);
            double error = error_of(row, DTYPE_BF16, expected, width);
            CHECK_CASE(error < ROW_BOUND, "%s row at %d: H %d G %d K %d window %d page %d: %g",
                       pieces[i].is_generated ? "generated" : "prompt", pos, shape->n_heads,
                       shape->n_kv_heads, shape->head_dim, (int)shape->window, page_tokens, error);
            sum += error;
            n_rows++;
        }
    double mean = sum / (double)n_rows;
    CHECK_CASE(mean < BOUND, "mean error of H %d G %d K %d window %d: %g", shape->n_heads, shape->n_kv_heads,
               shape->head_dim, (int)shape->window, mean);
    free(expected);
    free(y);
}

/* Whether a GPU that has a kernel of its own for prompts uses it. */
static bool with_warpgroups = true;

static device *open_cuda(int n_multiprocessors) {
    device *dev = NULL;
    CHECK_OK(cuda_device_open(PRECISION_BF16, 0, &dev));
    if (dev && n_multiprocessors >= 0) cuda_device_of(dev)->n_multiprocessors = n_multiprocessors;
    if (dev && is_coded) dev->kv_layout = KV_INT8_ROWS;
    if (dev && !with_warpgroups) cuda_device_of(dev)->has_warpgroup_products = false;
    return dev;
}

/* The emulated GPU does not: test_kernels sees to it that the kernels' bits are the same there. */
static void with_each_kernel(void (*check)(void)) {
#ifdef KVARVE_CUDA_EMULATED
    check();
#else
    for (int with = 0; with < 2; with++) {
        with_warpgroups = with;
        check();
    }
#endif
}

/* ---- the maps ---- */

static void check_tiles(const int32_t *row0, int n_spans, int first, int group, int tile_queries) {
    int n = attend_first_tile(n_spans, row0[n_spans], group, tile_queries) -
            attend_first_tile(first, row0[first], group, tile_queries);
    int at = first, query = 0;
    for (int i = 0; i < n; i++) {
        attend_tile tile = attend_find_tile(i, row0, first, n_spans, group, tile_queries);
        if (tile.query0 >= (row0[tile.span + 1] - row0[tile.span]) * group) continue; /* empty */
        CU_ASSERT(tile.span == at && tile.query0 == query);
        query += tile_queries;
        if (query >= (row0[at + 1] - row0[at]) * group) at++, query = 0;
    }
    CU_ASSERT(at == n_spans && query == 0);
}

static void test_maps(void) {
    const int32_t rows[] = {0, 1, 2, 3, 67, 68, 196, 2244, 2245, 2300};
    for (int group = 1; group <= 16; group++)
        for (int first = 0; first < 9; first++)
            for (int tile_queries = 64; tile_queries <= 128; tile_queries *= 2)
                check_tiles(rows, 9, first, group, tile_queries);
    CU_ASSERT(attend_rounded_blocks(0) == 1 && attend_rounded_blocks(255) == 1 &&
              attend_rounded_blocks(256) == 2);
    CU_ASSERT(attend_rounded_blocks(767) == 4 && attend_rounded_blocks(1 << 20) == 8192);
    CU_ASSERT(attend_level_of(128, 8, 528, 3) == 0 && attend_level_of(16, 512, 528, 3) == 3);
    CU_ASSERT(attend_level_of(4096, 8, 528, 3) == 3 && attend_level_of(1, 1, 0, 3) == 0);
    for (int level = 0; level < 4; level++)
        for (int64_t pos = 0; pos < 9000; pos += 97) {
            int64_t next = attend_block_of(attend_first_position(pos, 3000));
            for (int64_t unit = 0; unit << level <= 9000 / ATTEND_BLOCK; unit++) {
                attend_nodes b = attend_blocks_of(pos, 3000, unit, level);
                if (b.first >= b.last) continue;
                CU_ASSERT(b.first == next && b.first >> level == unit && (b.last - 1) >> level == unit);
                next = b.last;
            }
            CU_ASSERT(next == attend_block_of(pos) + 1);
        }
    attend_place place = attend_place_of(((int64_t)1 << 24) + 7, 5);
    CU_ASSERT(place.page == ((1 << 24) + 7) / 5 && place.slot == ((1 << 24) + 7) % 5 * 16);
}

/* On the least that sm_80 has, and on the most of sm_90. */
static void test_sizes(void) {
    const int widths[] = {64, 80, 96, 128, 256};
    for (int i = 0; i < 5; i++) {
        CU_ASSERT(attend_stride(widths[i]) / 8 % 2 == 1 && 8 % attend_slots(widths[i]) == 0);
        CU_ASSERT(attend_code_stride(widths[i]) / 16 % 2 == 1 &&
                  ATTEND_QUANTUM * attend_code_stride(widths[i]) + ATTEND_SCALE_BYTES <=
                      ATTEND_QUANTUM * attend_stride(widths[i]) * 2);
        CU_ASSERT(attend_levels_that_fit(widths[i], 16, 163 << 10, 3) >= 0);
        CU_ASSERT(attend_levels_that_fit(widths[i], 4, 227 << 10, 3) == 3);
        CU_ASSERT(attend_prompt_bytes(widths[i], 1) <= 113 << 10);
    }
    CU_ASSERT(attend_generated_bytes(128, 8, attend_levels_that_fit(128, 8, 227 << 10, 3)) <= 113 << 10);
}

/* ---- against the reference ---- */

typedef struct attend_case {
    int n_heads, n_kv_heads, head_dim;
    int64_t window;
    int page_tokens;
} attend_case;

static void check_case(device *dev, const attend_case *c) {
    sequence s = new_sequence(shape_of(c->n_heads, c->n_kv_heads, c->head_dim, c->window), N_MAX, 9);
    piece pieces[N_EDGES + 4];
    for (int i = 0; i < N_EDGES; i++)
        pieces[i] = (piece){&s, (int)EDGES[i], 1, true};
    pieces[1].n_rows = 3; /* several generated rows in one span */
    pieces[N_EDGES] = (piece){&s, 0, 70, false};
    pieces[N_EDGES + 1] = (piece){&s, 250, 9, false};
    pieces[N_EDGES + 2] = (piece){&s, 1017, 1, false};
    pieces[N_EDGES + 3] = (piece){&s, 1990, 11, false};
    check_pieces(dev, pieces, N_EDGES + 4, c->page_tokens, 5);
    free_sequence(&s);
}

static void check_cases(void) {
    const attend_case cases[] = {
        {2, 2, 64, 0, 64},   {4, 2, 64, 256, 16},  {7, 1, 64, 5, 80},    {4, 1, 80, 0, 80},
        {4, 2, 80, 100, 64}, {8, 1, 96, 0, 16},    {2, 1, 96, 700, 64},  {4, 1, 128, 0, 64},
        {7, 1, 128, 0, 16},  {8, 1, 128, 256, 80}, {2, 2, 128, 1, 64},   {16, 1, 128, 700, 4096},
        {17, 1, 64, 0, 48},  {2, 1, 256, 0, 64},   {8, 1, 256, 100, 16}, {1, 1, 256, 700, 80},
    };
    device *dev = open_cuda(-1);
    for (size_t i = 0; dev && i < sizeof cases / sizeof *cases; i++)
        check_case(dev, &cases[i]);
    if (dev) close_device(dev);
}

static void check_each_kernel(void) {
    with_each_kernel(check_cases);
}

static void test_values(void) {
    with_each_format(check_each_kernel);
}

/* More positions than a node, and than a warp's share of units. */
static void check_long(void) {
    enum { END = 16500 };
    sequence s = new_sequence(shape_of(2, 1, 64, 0), END, 10);
    const piece pieces[] = {
        {&s, END - 1, 1, true}, {&s, 9000, 1, true}, {&s, 8190, 4, false}, {&s, END - 3, 3, false}};
    for (int n = 0; n <= 200; n += 100) {
        device *dev = open_cuda(n);
        if (dev) check_pieces(dev, pieces, 4, 64, 1);
        if (dev) close_device(dev);
    }
    free_sequence(&s);
}

static void check_long_kernels(void) {
    with_each_kernel(check_long);
}

static void test_long(void) {
    with_each_format(check_long_kernels);
}

/* Scores so far apart that weights underflow, and equal ones, in blocks of their own. */
static void test_extremes(void) {
    enum { N = 600, K = 64 };
    sequence s = new_sequence(shape_of(1, 1, K, 0), N, 11);
    for (int i = 0; i < N * K; i++) {
        s.k[i] = bf16_of_float(i / K == 300 ? 100 : i / K < 256 ? -1000 : 1);
        s.q[i] = bf16_of_float(10);
    }
    device *dev = open_cuda(-1);
    for (int generated = 0; dev && generated < 2; generated++) {
        piece p = {&s, N - 1, 1, generated};
        uint16_t *y = attend_pieces(dev, &p, 1, 16);
        CU_ASSERT(!memcmp(y, s.v + 300 * K, K * sizeof *y));
        free(y);
    }
    if (dev) close_device(dev);
    free_sequence(&s);
}

/* ---- the same bits ---- */

/* Prompt rows [first, end) in chunks. */
static uint16_t *attend_chunks(device *dev, const sequence *s, int first, int end, int chunk,
                               int page_tokens) {
    size_t width = q_width(&s->shape);
    uint16_t *y = mem_new((size_t)(end - first) * width, sizeof *y);
    for (int pos = first; pos < end; pos += chunk) {
        piece p = {s, pos, end - pos < chunk ? end - pos : chunk, false};
        uint16_t *part = attend_pieces(dev, &p, 1, page_tokens);
        memcpy(y + (size_t)(pos - first) * width, part, (size_t)p.n_rows * width * sizeof *y);
        free(part);
    }
    return y;
}

static void check_chunks(attention_shape shape, int first, int end) {
    const int chunks[] = {1000, 64, 7}, pages[] = {64, 16, 80}, multiprocessors[] = {0, 4, 1000};
    sequence s = new_sequence(shape, end, 12);
    size_t bytes = (size_t)(end - first) * q_width(&shape) * sizeof(uint16_t);
    uint16_t *expected = NULL;
    for (int i = 0; i < 3; i++) {
        device *dev = open_cuda(multiprocessors[i]);
        if (!dev) break;
        uint16_t *y = attend_chunks(dev, &s, first, end, chunks[i], pages[i]);
        if (!expected) expected = y;
        CHECK_CASE(!memcmp(y, expected, bytes), "G %d K %d window %d: chunks of %d, pages of %d",
                   shape.n_kv_heads, shape.head_dim, (int)shape.window, chunks[i], pages[i]);
        if (y != expected) free(y);
        close_device(dev);
    }
    free(expected);
    free_sequence(&s);
}

static void check_all_chunks(void) {
    check_chunks(shape_of(2, 1, 64, 0), 0, 200);
    check_chunks(shape_of(3, 1, 96, 70), 100, 330);
    check_chunks(shape_of(4, 1, 128, 0), 500, 600);
    check_chunks(shape_of(1, 1, 256, 100), 200, 320);
    check_chunks(shape_of(1, 1, 64, 0), 16380, 16400); /* nodes apart, and in turn */
    check_chunks(shape_of(1, 1, 64, 8200), 16380, 16400);
    check_chunks(shape_of(1, 1, 64, 0), 5 * ATTEND_NODE - 3, 5 * ATTEND_NODE + 3);
    check_chunks(shape_of(3, 1, 64, 2 * ATTEND_NODE + 500), 5 * ATTEND_NODE - 3, 5 * ATTEND_NODE + 3);
}

static void check_chunks_kernels(void) {
    with_each_kernel(check_all_chunks);
}

static void test_chunks(void) {
    with_each_format(check_chunks_kernels);
}

/* Generated rows alone and in company, and by units of every size. */
static void check_company(attention_shape shape) {
    enum { N = 6000, COMPANY = 5 };
    sequence s = new_sequence(shape, N, 13), other = new_sequence(shape, N, 14);
    const piece pieces[COMPANY] = {{&other, N - 1, 1, true},
                                   {&s, 2999, 1, true},
                                   {&s, 700, 3, true},
                                   {&other, 100, 40, false},
                                   {&s, 1300, 5, false}};
    size_t width = q_width(&shape);
    for (int n = 0; n <= 400; n = n ? 10 * n : 4) {
        device *dev = open_cuda(n), *alone = open_cuda(n == 40 ? 1000 : 1);
        if (!dev || !alone) break;
        uint16_t *y = attend_pieces(dev, pieces, COMPANY, 64), *row = y;
        for (int i = 0; i < COMPANY; i++) {
            uint16_t *own = attend_pieces(alone, &pieces[i], 1, 16);
            CHECK_CASE(!memcmp(row, own, (size_t)pieces[i].n_rows * width * sizeof *own),
                       "K %d window %d: piece %d differs in company, %d multiprocessors", shape.head_dim,
                       (int)shape.window, i, n);
            row += (size_t)pieces[i].n_rows * width;
            free(own);
        }
        free(y);
        close_device(dev);
        close_device(alone);
    }
    free_sequence(&s);
    free_sequence(&other);
}

static void check_companies(void) {
    check_company(shape_of(2, 1, 64, 0));
    check_company(shape_of(2, 1, 80, 1500));
}

static void test_company(void) {
    with_each_format(check_companies);
}

/* Hopper's kernel adds in the order of the other: on the emulated GPU, whose tensor cores are exact about
 * that, the bits are the same. */
static void check_kernels(void) {
    const attend_case cases[] = {{3, 1, 64, 0, 16},  {4, 2, 64, 1, 64},    {7, 1, 128, 70, 80},
                                 {2, 1, 128, 0, 64}, {1, 1, 64, 8200, 64}, {1, 1, 128, 130, 48}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const attend_case *c = &cases[i];
        int n = c->window > 8192 ? 16400 : 700;
        sequence s = new_sequence(shape_of(c->n_heads, c->n_kv_heads, c->head_dim, c->window), n, 16);
        const piece pieces[] = {{&s, 0, 1, false}, {&s, 30, 200, false}, {&s, n - 150, 150, false}};
        uint16_t *y[2];
        for (int with = 0; with < 2; with++) {
            with_warpgroups = with;
            device *dev = open_cuda(i % 2 ? -1 : 1);
            y[with] = attend_pieces(dev, pieces, 3, c->page_tokens);
            close_device(dev);
        }
        size_t bytes = 351 * q_width(&s.shape) * sizeof(uint16_t);
        CHECK_CASE(!memcmp(y[0], y[1], bytes), "K %d window %d: the kernels differ", c->head_dim,
                   (int)c->window);
        free(y[0]);
        free(y[1]);
        free_sequence(&s);
    }
}

static void test_kernels(void) {
#ifdef KVARVE_CUDA_EMULATED
    with_each_format(check_kernels);
#else
    (void)check_kernels;
    harness_skip("what tensor cores add first is for the emulated GPU to know");
#endif
}

/* ---- far positions ---- */

/* A row at a million, whose window is in the last pages of a pool of more than 4 GiB. */
static void test_far(void) {
#ifdef KVARVE_CUDA_EMULATED
    enum { POS = 1000000, WINDOW = 300, K = 128, PAGE = 64, N = 400, N_PAGES = POS / PAGE + 1 };
    sequence s = new_sequence(shape_of(2, 1, K, WINDOW), N, 15);
    const int shift = POS - (N - 1); /* position N - 1 of the sequence is at POS; shift % PAGE == 49 */
    const size_t page_bytes = 2 * PAGE * K * sizeof(uint16_t), n_pages = ((size_t)5 << 30) / page_bytes;
    char *pool = mmap(NULL, n_pages * page_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CU_ASSERT_FATAL(pool != MAP_FAILED);
    int32_t *ids = mem_new(N_PAGES, sizeof *ids);
    for (int i = 0; i < N_PAGES; i++)
        ids[i] = i < N_PAGES - 10 ? 0 : (int32_t)n_pages - 1 - (i - (N_PAGES - 10));
    for (int i = 0; i < N; i++) {
        int pos = shift + i;
        char *page = pool + (size_t)ids[pos / PAGE] * page_bytes, *at = page + (size_t)(pos % PAGE) * K * 2;
        memcpy(at, s.k + i * K, K * sizeof *s.k);
        memcpy(at + (size_t)PAGE * K * 2, s.v + i * K, K * sizeof *s.v);
    }
    device *dev = open_cuda(-1);
    double expected[2 * K];
    for (int head = 0; head < 2; head++)
        expected_head(&s, N - 1, head, true, expected + head * K);
    for (int generated = 0; generated < 2; generated++) {
        uint16_t y[2 * K];
        span row = {0, 1, POS, 0, generated};
        kv_layer layer = {pool, kv_format_of(DTYPE_BF16, KV_ROWS, 1, K, PAGE), ids, N_PAGES, NULL};
        dev->ops->begin_step(dev, 1, &row);
        dev->ops->attend(dev, &s.shape, &layer, s.q + (size_t)(N - 1) * 2 * K, y);
        CHECK_OK(dev->ops->sync(dev));
        double error = error_of(y, DTYPE_BF16, expected, 2 * K);
        CHECK_CASE(error < BOUND, "%s row far away: %g", generated ? "generated" : "prompt", error);
    }
    close_device(dev);
    munmap(pool, n_pages * page_bytes);
    free(ids);
    free_sequence(&s);
#else
    harness_skip("a pool of 5 GiB, mostly untouched, is for the emulated GPU");
#endif
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"maps", test_maps},         {"sizes", test_sizes},
                           {"values", test_values},     {"long", test_long},
                           {"chunks", test_chunks},     {"company", test_company},
                           {"extremes", test_extremes}, {"far", test_far},
                           {"kernels", test_kernels},   CU_TEST_INFO_NULL};
    if (cuda_device_count(NULL) == 0) {
        printf("skipped  cuda attend: no GPU here\n");
        return 77;
    }
    return harness_run(&argc, &argv, "cuda attend", tests);
}
