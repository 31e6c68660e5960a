/* What tokens are evicted by (src/model/evict.h): keys of a page, multiplied as they lie, with queries that
 * look at them or are expected to, and moments of queries. */
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu_device.h"

/* Scores are summed up in pieces of so many places, whatever the page size; strips are what of a page is
 * multiplied at once. */
enum { PIECE = KV_PAGE_QUANTUM, STRIP = 4 * PIECE };

/* How queries meet keys: `most` of a kv head at once. */
typedef struct look_job {
    const cpu_device *dev;
    const attention_shape *shape;
    const attend_look *look;
    const cpu_tile *tile;
    int most, group, n_queries; /* rows times query heads of a kv head */
    int n_words;                /* of a key */
    size_t row_bytes;           /* of a query */
    size_t head_bytes;          /* of the queries of a kv head, packed, `most` together */
    char *packed;               /* [G] of head_bytes */
    float *scores;              /* [most][STRIP] for each thread */
} look_job;

static size_t whole_lines(size_t bytes) {
    return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

static int at_once(const look_job *job, int query) {
    const int left = job->n_queries - query;
    return left < job->most ? left : job->most;
}

static char *packed_at(const look_job *job, int kv_head, int query) {
    return job->packed + (size_t)kv_head * job->head_bytes +
           (size_t)(query * job->n_words) * job->tile->input_word_bytes;
}

static void pack_queries(const look_job *job, int kv_head, int query, char *rows) {
    const int n = at_once(job, query);
    for (int i = 0; i < n; i++) {
        const size_t row = (size_t)((query + i) / job->group),
                     head = (size_t)(kv_head * job->group + (query + i) % job->group);
        memcpy(rows + (size_t)i * job->row_bytes,
               (const char *)job->look->q + (row * (size_t)job->shape->n_heads + head) * job->row_bytes,
               job->row_bytes);
    }
    job->tile->pack_input(rows, job->row_bytes, n, job->shape->head_dim, packed_at(job, kv_head, query));
}

/* With all queries packed; false where there is no memory for it. */
static bool begin_job(device *base, const attention_shape *shape, const attend_look *look, look_job *job) {
    cpu_device *dev = cpu_device_of(base);
    assert(look->format->layout == KV_PANELS);
    *job = (look_job){
        .dev = dev,
        .shape = shape,
        .look = look,
        .tile = &dev->kernels->tile,
        .most = dev->kernels->tile.rows,
        .group = shape->n_heads / shape->n_kv_heads,
        .n_queries = look->n_rows * (shape->n_heads / shape->n_kv_heads),
        .row_bytes = (size_t)shape->head_dim * dtype_bytes(base->act),
    };
    job->n_words = (int)(job->row_bytes / KV_WORD_BYTES);
    job->head_bytes =
        whole_lines((size_t)job->n_queries * (size_t)job->n_words * job->tile->input_word_bytes);
    const size_t G = (size_t)shape->n_kv_heads, n_threads = (size_t)dev->n_threads,
                 score_bytes = (size_t)(job->most * STRIP) * sizeof(float),
                 row_bytes = whole_lines((size_t)job->most * job->row_bytes);
    char *memory = cpu_device_scratch(dev, G * job->head_bytes + n_threads * (score_bytes + row_bytes));
    if (!memory) return false;
    char *rows = memory + n_threads * score_bytes;
    job->scores = (float *)(void *)memory;
    job->packed = rows + n_threads * row_bytes;
#pragma omp parallel for num_threads(dev->n_threads) schedule(static) collapse(2)
    for (int kv_head = 0; kv_head < shape->n_kv_heads; kv_head++)
        for (int query = 0; query < job->n_queries; query += job->most)
            pack_queries(job, kv_head, query, rows + (size_t)omp_get_thread_num() * row_bytes);
    return true;
}

static const char *page_of(const attend_look *look, int64_t place) {
    return look->pages[place / look->format->page_tokens];
}

/* From place `first` of the look's on, how many are multiplied at once. */
static int strip_at(const attend_look *look, int64_t first) {
    const int page_tokens = look->format->page_tokens;
    const int64_t left = look->n_places - first, in_page = page_tokens - first % page_tokens,
                  least = left < in_page ? left : in_page;
    return least < STRIP ? (int)least : STRIP;
}

/* Scores, not scaled, of some queries of a kv head with a strip: [queries][STRIP], this thread's. */
static float *score_strip(const look_job *job, int kv_head, int query, int64_t first) {
    const attend_look *look = job->look;
    const kv_format *f = look->format;
    float *scores = job->scores + (size_t)omp_get_thread_num() * (size_t)(job->most * STRIP);
    const char *keys =
        kv_place_in(f, page_of(look, first), KV_PART_K, kv_head, (int)(first % f->page_tokens));
    job->tile->multiply(packed_at(job, kv_head, query), at_once(job, query),
                        (const uint32_t *)(const void *)keys, (size_t)job->n_words * PANEL,
                        (strip_at(look, first) + PANEL - 1) / PANEL, job->n_words, NULL, false, scores,
                        STRIP);
    return scores;
}

/* Of the strip's n places from `first` on, those that a query sees. */
static int seen_of(const look_job *job, int query, int64_t first, int n) {
    const int64_t seen = job->look->row_place + query / job->group + 1 - job->look->place - first;
    return seen < 0 ? 0 : seen < n ? (int)seen : n;
}

static size_t norm_at(const look_job *job, int kv_head, int query) {
    return (size_t)(query / job->group * job->shape->n_heads + kv_head * job->group + query % job->group);
}

/* e[n] = exp(scale s - max), of a piece. */
static void exp_of(const look_job *job, const float *scores, int n, float max, float *e) {
    for (int i = 0; i < n; i++)
        e[i] = scores[i] * job->shape->scale - max;
    job->dev->kernels->exp(e, n, e);
}

static void add_norm(const look_job *job, const float *scores, int n, attend_norm *norm) {
    enum { CHAINS = 4 };
    float e[PIECE], max = norm->max, shrink;
    double sums[CHAINS] = {0};
    for (int i = 0; i < n; i++)
        if (scores[i] * job->shape->scale > max) max = scores[i] * job->shape->scale;
    exp_of(job, scores, n, max, e);
    for (int i = 0; i < n; i++)
        sums[i % CHAINS] += (double)e[i];
    if (norm->sum > 0 && max > norm->max) {
        shrink = norm->max - max;
        job->dev->kernels->exp(&shrink, 1, &shrink);
        norm->sum *= (double)shrink;
    }
    norm->max = max;
    norm->sum += (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

void cpu_add_norms(device *base, const attention_shape *shape, const attend_look *look, attend_norm *norms) {
    look_job job;
    if (!begin_job(base, shape, look, &job)) return;
#pragma omp parallel for num_threads(job.dev->n_threads) schedule(dynamic) collapse(2)
    for (int kv_head = 0; kv_head < shape->n_kv_heads; kv_head++)
        for (int query = 0; query < job.n_queries; query += job.most)
            for (int64_t first = 0; first < look->n_places; first += strip_at(look, first)) {
                const int n = at_once(&job, query), n_places = strip_at(look, first);
                if (seen_of(&job, query + n - 1, first, n_places) == 0) break;
                const float *scores = score_strip(&job, kv_head, query, first);
                for (int i = 0; i < n; i++) {
                    const int n_seen = seen_of(&job, query + i, first, n_places);
                    for (int at = 0; at < n_seen; at += PIECE)
                        add_norm(&job, scores + i * STRIP + at, n_seen - at < PIECE ? n_seen - at : PIECE,
                                 &norms[norm_at(&job, kv_head, query + i)]);
                }
            }
}

/* What all queries of a kv head pay to the places of a strip, one after the other. */
static void add_strip(const look_job *job, int kv_head, int64_t first, int n_places, const attend_norm *norms,
                      double *shares) {
    for (int query = 0; query < job->n_queries; query += job->most) {
        const int n = at_once(job, query);
        if (seen_of(job, query + n - 1, first, n_places) == 0) continue;
        const float *scores = score_strip(job, kv_head, query, first);
        for (int i = 0; i < n; i++) {
            const attend_norm *norm = &norms[norm_at(job, kv_head, query + i)];
            const int n_seen = seen_of(job, query + i, first, n_places);
            const double factor = 1 / norm->sum;
            float e[STRIP];
            exp_of(job, scores + i * STRIP, n_seen, norm->max, e);
            for (int k = 0; k < n_seen; k++)
                shares[k] += (double)e[k] * factor;
        }
    }
}

void cpu_add_shares(device *base, const attention_shape *shape, const attend_look *look,
                    const attend_norm *norms, double *shares, int64_t stride) {
    const int64_t n_strips = (look->n_places + PIECE - 1) / PIECE;
    look_job job;
    if (!begin_job(base, shape, look, &job)) return;
#pragma omp parallel for num_threads(job.dev->n_threads) schedule(dynamic) collapse(2)
    for (int kv_head = 0; kv_head < shape->n_kv_heads; kv_head++)
        for (int64_t piece = 0; piece < n_strips; piece++) {
            const int64_t first = piece * PIECE;
            const int page_tokens = look->format->page_tokens;
            if (first % page_tokens % STRIP == 0)
                add_strip(&job, kv_head, first, strip_at(look, first), norms,
                          shares + kv_head * stride + look->place + first);
        }
}

/* ---- rows of pages as floats ---- */

static void get_row(const attend_look *look, kv_part part, int head, int64_t place, int width, char *row,
                    float *out) {
    const kv_format *f = look->format;
    kv_get_rows(f, page_of(look, place), part, head, (int)(place % f->page_tokens), 1, row, 0);
    if (f->type == DTYPE_F32)
        memcpy(out, row, (size_t)width * sizeof *out);
    else
        for (int i = 0; i < width; i++)
            out[i] = float_of_bf16(((const uint16_t *)(const void *)row)[i]);
}

/* What keys are multiplied with: `most` of them with the covariance of a query head at once. */
typedef struct expect_job {
    const attention_shape *shape;
    const attend_look *look;
    const cpu_tile *tile;
    const float *means;
    int n_panels;
    char *panels; /* [H] of head_bytes: covariances, packed */
    size_t head_bytes;
    float *keys; /* for each thread [most][K], then as many packed, then products [most][whole panels] */
    size_t floats;
} expect_job;

/* The scores of n places of a head. */
static void expect_rows(const expect_job *job, int head, int64_t first, int n, double *scores) {
    const int K = job->shape->head_dim, width = job->n_panels * PANEL, most = job->tile->rows;
    const double scale = (double)job->shape->scale;
    float *products = job->keys + (size_t)omp_get_thread_num() * job->floats, *keys = products + most * width,
          *input = keys + most * K, *row = input + most * K;
    for (int i = 0; i < n; i++)
        get_row(job->look, KV_PART_K, head / (job->shape->n_heads / job->shape->n_kv_heads), first + i, K,
                (char *)row, keys + i * K);
    job->tile->pack_input(keys, (size_t)K * sizeof *keys, n, K, input);
    job->tile->multiply(input, n,
                        (const uint32_t *)(const void *)(job->panels + (size_t)head * job->head_bytes),
                        (size_t)(K * PANEL), job->n_panels, K, NULL, false, products, (size_t)width);
    for (int i = 0; i < n; i++) {
        double mean = 0, square = 0;
        for (int k = 0; k < K; k++) {
            mean += (double)keys[i * K + k] * (double)job->means[head * K + k];
            square += (double)keys[i * K + k] * (double)products[i * width + k];
        }
        scores[i] = scale * mean + scale * scale / 2 * square;
    }
}

void cpu_expect(device *base, const attention_shape *shape, const attend_look *look, const float *means,
                const float *covariances, double *scores, int64_t stride) {
    cpu_device *dev = cpu_device_of(base);
    const int K = shape->head_dim, n_panels = (K + PANEL - 1) / PANEL, most = dev->exact->tile.rows;
    expect_job job = {.shape = shape,
                      .look = look,
                      .tile = &dev->exact->tile,
                      .means = means,
                      .n_panels = n_panels,
                      .head_bytes = (size_t)(n_panels * PANEL * K) * sizeof(float)};
    job.floats = (size_t)(most * (n_panels * PANEL + 2 * K) + K + PANEL) / PANEL * PANEL;
    const size_t H = (size_t)shape->n_heads;
    char *memory =
        cpu_device_scratch(dev, H * job.head_bytes + (size_t)dev->n_threads * job.floats * sizeof(float));
    if (!memory) return;
    job.panels = memory;
    job.keys = (float *)(void *)(memory + H * job.head_bytes);
#pragma omp parallel num_threads(dev->n_threads)
    {
#pragma omp for schedule(static) collapse(2)
        for (int head = 0; head < shape->n_heads; head++)
            for (int first = 0; first < K; first += PANEL)
                dev->exact->pack_panel(covariances + ((size_t)head * (size_t)K + (size_t)first) * (size_t)K,
                                       (size_t)K * sizeof(float), K - first < PANEL ? K - first : PANEL, K,
                                       (uint32_t *)(void *)(memory + (size_t)head * job.head_bytes) +
                                           first * K);
#pragma omp for schedule(static) collapse(2)
        for (int head = 0; head < shape->n_heads; head++)
            for (int64_t first = 0; first < look->n_places; first += most)
                expect_rows(&job, head, first,
                            look->n_places - first < most ? (int)(look->n_places - first) : most,
                            scores + head * stride + look->place + first);
    }
}

void cpu_value_norms(device *base, const attention_shape *shape, const attend_look *look, double *norms,
                     int64_t stride) {
    cpu_device *dev = cpu_device_of(base);
    const int K = look->format->v_width;
    const size_t floats = 2 * (size_t)K;
    float *memory = cpu_device_scratch(dev, floats * sizeof(float) * (size_t)dev->n_threads);
    if (!memory) return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(static) collapse(2)
    for (int head = 0; head < shape->n_kv_heads; head++)
        for (int64_t place = 0; place < look->n_places; place++) {
            float *v = memory + (size_t)omp_get_thread_num() * floats;
            double sum = 0;
            get_row(look, KV_PART_V, head, place, K, (char *)(v + K), v);
            for (int i = 0; i < K; i++)
                sum += (double)v[i] * (double)v[i];
            norms[head * stride + look->place + place] = sqrt(sum);
        }
}

/* ---- pages of codes ---- */

void cpu_read_codes(device *base, const kv_format *f, const void *const *pages, int64_t place, int n,
                    int n_parts, void *near) {
    cpu_device *dev = cpu_device_of(base);
    const kv_format format = kv_near_format(f);
    const size_t width = (size_t)(f->k_width > f->v_width ? f->k_width : f->v_width),
                 row_bytes = width * dtype_bytes(f->type);
    const int n_heads = n_parts * f->n_heads, n_threads = cpu_threads_for(dev, (size_t)(n * n_heads) * width);
    char *rows = cpu_device_scratch(dev, (size_t)n_threads * row_bytes);
    if (!rows) return;
#pragma omp parallel for num_threads(n_threads) schedule(static) collapse(2)
    for (int i = 0; i < n_heads; i++)
        for (int k = 0; k < n; k++) {
            const kv_part part = (kv_part)(i / f->n_heads);
            const int64_t at = place + k;
            char *row = rows + (size_t)omp_get_thread_num() * row_bytes;
            kv_get_rows(f, pages[at / f->page_tokens], part, i % f->n_heads, (int)(at % f->page_tokens), 1,
                        row, row_bytes);
            kv_put_rows(&format, near, part, i % f->n_heads, k, 1, row, row_bytes);
        }
}

/* ---- moments ---- */

/* The channels of a head, MOMENT_ROWS numbers each, as panels; and those that one call multiplies them with.
 */
typedef struct moment_memory {
    float *channels; /* [K][MOMENT_ROWS] */
    uint32_t *panels;
    float *input, *products; /* [tile rows][K in whole panels] */
} moment_memory;

static void add_head(const cpu_device *dev, const float *queries, size_t row_floats, int n_rows, int K,
                     const moment_memory *m, double *moments) {
    const cpu_tile *tile = &dev->exact->tile;
    const int n_panels = (K + PANEL - 1) / PANEL, width = n_panels * PANEL;
    memset(m->channels, 0, (size_t)(K * MOMENT_ROWS) * sizeof *m->channels);
    for (int row = 0; row < n_rows; row++)
        for (int i = 0; i < K; i++) {
            const float x = queries[(size_t)row * row_floats + (size_t)i];
            m->channels[i * MOMENT_ROWS + row] = x;
            moments[i] += (double)x;
        }
    for (int panel = 0; panel < n_panels; panel++)
        dev->exact->pack_panel(m->channels + panel * PANEL * MOMENT_ROWS, MOMENT_ROWS * sizeof(float),
                               K - panel * PANEL < PANEL ? K - panel * PANEL : PANEL, MOMENT_ROWS,
                               m->panels + panel * PANEL * MOMENT_ROWS);
    for (int first = 0; first < K; first += tile->rows) {
        const int n = K - first < tile->rows ? K - first : tile->rows;
        tile->pack_input(m->channels + first * MOMENT_ROWS, MOMENT_ROWS * sizeof(float), n, MOMENT_ROWS,
                         m->input);
        tile->multiply(m->input, n, m->panels, (size_t)(MOMENT_ROWS * PANEL), n_panels, MOMENT_ROWS, NULL,
                       false, m->products, (size_t)width);
        for (int i = 0; i < n; i++)
            for (int k = 0; k < K; k++)
                moments[K + (first + i) * K + k] += (double)m->products[i * width + k];
    }
}

void cpu_add_moments(device *base, const attention_shape *shape, const float *queries, int n_rows,
                     double *moments) {
    cpu_device *dev = cpu_device_of(base);
    const cpu_tile *tile = &dev->exact->tile;
    const size_t K = (size_t)shape->head_dim, width = (K + PANEL - 1) / PANEL * PANEL,
                 rows = (size_t)tile->rows, H = (size_t)shape->n_heads;
    const size_t floats = MOMENT_ROWS * (K + width) + rows * width + PANEL, /* with what aligns `input` */
        bytes = (floats * sizeof(float) + MOMENT_ROWS * rows * tile->input_word_bytes + CACHE_LINE - 1) /
                CACHE_LINE * CACHE_LINE;
    char *memory = cpu_device_scratch(dev, bytes * (size_t)dev->n_threads);
    if (!memory) return;
#pragma omp parallel for num_threads(dev->n_threads) schedule(static)
    for (size_t head = 0; head < H; head++) {
        moment_memory m;
        m.panels = (uint32_t *)(void *)(memory + (size_t)omp_get_thread_num() * bytes);
        m.products = (float *)(m.panels + MOMENT_ROWS * width);
        m.input = m.products + rows * width;
        m.channels = m.input + MOMENT_ROWS * rows * tile->input_word_bytes / sizeof(float);
        add_head(dev, queries + head * K, H * K, n_rows, (int)K, &m, moments + head * (K + K * K));
    }
}
