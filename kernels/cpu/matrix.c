/* Weight matrices: packing into panels, and products with few and with many rows.
 *
 * A product is cut into row blocks (whose packed input fits the caches), panels (shared out to the threads)
 * and blocks of block_words words along the sum. Each output is the sum of its blocks' sums in order, and
 * each of those one chain in order (cpu_tile): for one row and for many, for any number of threads.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/int8.h"
#include "src/base/memory.h"

enum {
    ROW_BLOCK = 192,   /* rows whose input is packed at once */
    BLOCK_WORDS = 256, /* part of the contract of sums: 512 bf16 or 256 f32; a panel's block is 16 KiB */
    INT8_BLOCK_WORDS = 4 * INT8_GROUP_WORDS, /* the same for int8 */
    MAX_TILE_PANELS = 4,
    TASKS_PER_THREAD = 8,   /* so that a thread that is held up delays little */
    SMALL_TILE_STEPS = 4096 /* below this work, waking threads costs more than it saves */
};

struct matrix {
    int64_t n_rows, n_cols, n_words, n_panels;
    uint32_t *panels; /* [n_panels][n_words][PANEL] */
};

static int64_t words_of(precision p, int64_t n_cols) {
    if (p == PRECISION_INT8) return int8_words(n_cols);
    return p == PRECISION_BF16 ? (n_cols + 1) / 2 : n_cols;
}

static int64_t panels_of(int64_t n_rows) {
    return (n_rows + PANEL - 1) / PANEL;
}

size_t cpu_matrix_bytes(precision p, int64_t n_rows, int64_t n_cols) {
    return (size_t)panels_of(n_rows) * (size_t)words_of(p, n_cols) * PANEL * sizeof(uint32_t);
}

static uint32_t *panel_at(const matrix *w, int64_t panel) {
    return w->panels + (size_t)panel * (size_t)w->n_words * PANEL;
}

/* Panels start as zeros, which the rows beyond the last keep. Each thread touches its panels first, so that
 * they lie in memory near to it. */
status cpu_matrix_open(device *base, int64_t n_rows, int64_t n_cols, matrix **out) {
    cpu_device *dev = cpu_device_of(base);
    uint32_t *panels = cpu_memory_new(cpu_matrix_bytes(dev->precision, n_rows, n_cols));
    if (!panels) return STATUS_FAILED;
    matrix *w = mem_new(1, sizeof *w);
    *w = (matrix){n_rows, n_cols, words_of(dev->precision, n_cols), panels_of(n_rows), panels};
#pragma omp parallel for num_threads(dev->n_threads) schedule(static)
    for (int64_t panel = 0; panel < w->n_panels; panel++)
        memset(panel_at(w, panel), 0, (size_t)w->n_words * PANEL * sizeof(uint32_t));
    *out = w;
    return STATUS_OK;
}

void cpu_matrix_close(device *dev, matrix *w) {
    (void)dev;
    if (!w) return;
    free(w->panels);
    free(w);
}

/* ---- loading ---- */

/* To bf16, or else to float32. */
static void convert_elements(const char *from, dtype type, int64_t n, precision to_type, char *to) {
    if (type == (to_type == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32)) {
        memcpy(to, from, (size_t)n * dtype_bytes(type));
    } else if (to_type == PRECISION_F32) {
        for (int64_t i = 0; i < n; i++) {
            float value = float_at(type, from, (size_t)i);
            memcpy(to + i * 4, &value, sizeof value);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            uint16_t value = bf16_of_float(float_at(type, from, (size_t)i));
            memcpy(to + i * 2, &value, sizeof value);
        }
    }
}

/* Rows [first, last) of one panel; host_rows is the first of them. In int8 each row is rounded for itself. */
static void load_panel_int8(matrix *w, int64_t panel, int first, int last, const char *host_rows,
                            dtype type) {
    enum { CHUNK = 8 * INT8_GROUP };
    float chunk[CHUNK];
    for (int64_t col0 = 0; col0 < w->n_cols; col0 += CHUNK) {
        int64_t n_cols = w->n_cols - col0 < CHUNK ? w->n_cols - col0 : CHUNK;
        for (int row = first; row < last; row++) {
            size_t offset = ((size_t)(row - first) * (size_t)w->n_cols + (size_t)col0) * dtype_bytes(type);
            convert_elements(host_rows + offset, type, n_cols, PRECISION_F32, (char *)chunk);
            int8_put_row(panel_at(w, panel), row, col0, n_cols, chunk);
        }
    }
}

static void load_panel(const cpu_device *dev, matrix *w, int64_t panel, int first, int last,
                       const char *host_rows, dtype type) {
    enum { CHUNK_WORDS = 512, WORD_BYTES = 4 };
    _Alignas(CACHE_LINE) char chunk[PANEL][CHUNK_WORDS * WORD_BYTES];
    if (dev->precision == PRECISION_INT8) {
        load_panel_int8(w, panel, first, last, host_rows, type);
        return;
    }
    int64_t word_cols = dev->precision == PRECISION_BF16 ? 2 : 1;
    int64_t n_real = w->n_rows - panel * PANEL;
    bool whole = first == 0 && last == (n_real < PANEL ? n_real : PANEL);
    for (int64_t word0 = 0; word0 < w->n_words; word0 += CHUNK_WORDS) {
        int64_t n_words = w->n_words - word0 < CHUNK_WORDS ? w->n_words - word0 : CHUNK_WORDS;
        int64_t col0 = word0 * word_cols, n_cols = n_words * word_cols;
        if (n_cols > w->n_cols - col0) n_cols = w->n_cols - col0;
        for (int row = first; row < last; row++) {
            memset(chunk[row] + (n_words - 1) * WORD_BYTES, 0, WORD_BYTES); /* beside an odd last column */
            size_t offset = ((size_t)(row - first) * (size_t)w->n_cols + (size_t)col0) * dtype_bytes(type);
            convert_elements(host_rows + offset, type, n_cols, dev->precision, chunk[row]);
        }
        uint32_t *to = panel_at(w, panel) + word0 * PANEL;
        if (whole) {
            dev->kernels->pack_panel(chunk, sizeof chunk[0], last, (int)n_words, to);
            continue;
        }
        for (int64_t word = 0; word < n_words; word++)
            for (int row = first; row < last; row++)
                memcpy(to + word * PANEL + row, chunk[row] + word * WORD_BYTES, WORD_BYTES);
    }
}

void cpu_matrix_load(device *base, matrix *w, int64_t row0, int64_t n_rows, const void *host_src,
                     dtype src_type) {
    assert(row0 >= 0 && n_rows >= 0 && row0 + n_rows <= w->n_rows);
    const cpu_device *dev = cpu_device_of(base);
    const char *host_rows = host_src;
    int64_t end = row0 + n_rows;
#pragma omp parallel for num_threads(dev->n_threads) schedule(static)
    for (int64_t panel = row0 / PANEL; panel < panels_of(end); panel++) {
        int64_t first = panel * PANEL < row0 ? row0 : panel * PANEL;
        int64_t last = (panel + 1) * PANEL > end ? end : (panel + 1) * PANEL;
        size_t offset = (size_t)(first - row0) * (size_t)w->n_cols * dtype_bytes(src_type);
        load_panel(dev, w, panel, (int)(first - panel * PANEL), (int)(last - panel * PANEL),
                   host_rows + offset, src_type);
    }
}

/* ---- reading rows ---- */

static void embed_row(const cpu_device *dev, const matrix *table, int64_t row, float *x) {
    if (dev->precision == PRECISION_INT8) {
        int8_get_row(panel_at(table, row / PANEL), (int)(row % PANEL), table->n_cols, x);
        return;
    }
    const uint32_t *from = panel_at(table, row / PANEL) + row % PANEL;
    for (int64_t col = 0; col < table->n_cols; col++) {
        uint32_t word = dev->precision == PRECISION_BF16 ? from[col / 2 * PANEL] : from[col * PANEL];
        if (dev->precision == PRECISION_BF16) word = col % 2 ? word & 0xffff0000u : word << 16;
        x[col] = float_of(word);
    }
}

void cpu_embed(device *base, const matrix *table, const int32_t *host_tokens, int T, float *x) {
    const cpu_device *dev = cpu_device_of(base);
#pragma omp parallel for num_threads(T > 1 ? dev->n_threads : 1) schedule(static)
    for (int t = 0; t < T; t++) {
        assert(host_tokens[t] >= 0 && host_tokens[t] < table->n_rows);
        embed_row(dev, table, host_tokens[t], x + (size_t)t * (size_t)table->n_cols);
    }
}

/* ---- products ---- */

typedef struct product {
    const cpu_tile *tile;
    int64_t block_words;
    const matrix *w;
    const char *x; /* act [rows, n_cols] of the row block */
    char *input;   /* packed, tile after tile */
    float *y;      /* [rows, n_rows] of the row block */
    bool add;
    int n_tiles, rows;
    int panel_parts, tile_parts; /* tasks */
    int64_t grain;               /* panels that parts are multiples of */
} product;

/* The first of n things in part i of `parts`. */
static int64_t part_begin(int64_t n, int64_t parts, int64_t i) {
    return n * i / parts;
}

static int tile_begin(const product *job, int tile) {
    return (int)part_begin(job->rows, job->n_tiles, tile);
}

static char *tile_input(const product *job, int tile) {
    return job->input + (size_t)tile_begin(job, tile) * (size_t)job->w->n_words * job->tile->input_word_bytes;
}

static void pack_tile(const product *job, int tile, size_t x_row_bytes) {
    int row0 = tile_begin(job, tile), n_rows = tile_begin(job, tile + 1) - row0;
    job->tile->pack_input(job->x + (size_t)row0 * x_row_bytes, x_row_bytes, n_rows, (int)job->w->n_cols,
                          tile_input(job, tile));
}

/* sums[rows of the tiles][n_panels * PANEL] over all words, of every step-th panel. */
static void multiply_panels(const product *job, int tile0, int tile1, int64_t panel, int64_t step,
                            int n_panels, float *sums) {
    const matrix *w = job->w;
    size_t ld = (size_t)n_panels * PANEL;
    for (int64_t word0 = 0; word0 < w->n_words; word0 += job->block_words) {
        int64_t n_words = w->n_words - word0 < job->block_words ? w->n_words - word0 : job->block_words;
        for (int tile = tile0; tile < tile1; tile++) {
            int row0 = tile_begin(job, tile), n_rows = tile_begin(job, tile + 1) - row0;
            const char *input =
                tile_input(job, tile) + (size_t)(word0 * n_rows) * job->tile->input_word_bytes;
            job->tile->multiply(input, n_rows, panel_at(w, panel) + word0 * PANEL,
                                (size_t)(step * w->n_words) * PANEL, n_panels, (int)n_words, NULL, word0 > 0,
                                sums + (size_t)(row0 - tile_begin(job, tile0)) * ld, ld);
        }
    }
}

/* The sums of n_panels panels that lie beside each other. */
static void put_sums(const product *job, int row0, int n_rows, int64_t panel, int n_panels, const float *sums,
                     size_t ld) {
    int64_t N = job->w->n_rows, col0 = panel * PANEL, n_cols = n_panels * PANEL;
    if (n_cols > N - col0) n_cols = N - col0;
    for (int row = 0; row < n_rows; row++, sums += ld) {
        float *y = job->y + (size_t)(row0 + row) * (size_t)N + col0;
        if (!job->add)
            memcpy(y, sums, (size_t)n_cols * sizeof *y);
        else
            for (int64_t i = 0; i < n_cols; i++)
                y[i] += sums[i];
    }
}

/* One row tile, which waits for the weights: the panels that are walked beside each other are the first of
 * equal parts, then the second of each, so that each is one stream through memory without a break. A stream
 * that begins is slow until the processor has noticed it. Returns the first panel that is left. */
static int64_t multiply_apart(const product *job, int64_t panel, int64_t end, float *sums) {
    int n = job->tile->panels;
    int64_t step = (end - panel) / n;
    for (int64_t i = panel; i < panel + step; i++) {
        multiply_panels(job, 0, 1, i, step, n, sums);
        for (int p = 0; p < n; p++)
            put_sums(job, 0, job->rows, i + p * step, 1, sums + p * PANEL, (size_t)n * PANEL);
    }
    return panel + n * step;
}

/* Task: a part of the panels for a part of the row tiles. */
static void multiply_task(const product *job, int task) {
    _Alignas(CACHE_LINE) float sums[ROW_BLOCK * MAX_TILE_PANELS * PANEL];
    int64_t n_grains = (job->w->n_panels + job->grain - 1) / job->grain;
    int tile_part = task / job->panel_parts, panel_part = task % job->panel_parts;
    int tile0 = (int)part_begin(job->n_tiles, job->tile_parts, tile_part);
    int tile1 = (int)part_begin(job->n_tiles, job->tile_parts, tile_part + 1);
    int64_t panel = part_begin(n_grains, job->panel_parts, panel_part) * job->grain;
    int64_t end = part_begin(n_grains, job->panel_parts, panel_part + 1) * job->grain;
    if (end > job->w->n_panels) end = job->w->n_panels;
    int row0 = tile_begin(job, tile0), n_rows = tile_begin(job, tile1) - row0;
    if (job->n_tiles == 1) panel = multiply_apart(job, panel, end, sums);
    while (panel < end) {
        int n = end - panel < job->tile->panels ? (int)(end - panel) : job->tile->panels;
        multiply_panels(job, tile0, tile1, panel, 1, n, sums);
        put_sums(job, row0, n_rows, panel, n, sums, (size_t)n * PANEL);
        panel += n;
    }
}

static const cpu_tile *tile_of(const cpu_device *dev) {
    return dev->precision == PRECISION_INT8 ? &dev->kernels->int8_tile : &dev->kernels->tile;
}

/* One row tile reads the weights once: an even share of panels in one piece for each thread. More rows: many
 * small tasks of whole panel groups, over the tiles too where the panels are few. */
static product plan_rows(const cpu_device *dev, const matrix *w, int rows) {
    product job = {.tile = tile_of(dev), .w = w, .rows = rows, .tile_parts = 1, .grain = 1};
    job.block_words = dev->precision == PRECISION_INT8 ? INT8_BLOCK_WORDS : BLOCK_WORDS;
    job.n_tiles = (rows + job.tile->rows - 1) / job.tile->rows;
    int64_t parts = dev->n_threads;
    if (job.n_tiles > 1) {
        job.grain = job.tile->panels;
        parts *= TASKS_PER_THREAD;
    }
    int64_t n_grains = (w->n_panels + job.grain - 1) / job.grain;
    job.panel_parts = (int)(parts < n_grains ? parts : n_grains);
    int64_t tile_parts = parts / job.panel_parts;
    job.tile_parts = (int)(tile_parts < job.n_tiles ? tile_parts : job.n_tiles);
    return job;
}

static void multiply_rows(cpu_device *dev, product *job) {
    int n_tasks = job->panel_parts * job->tile_parts;
    int64_t steps = job->w->n_words * job->w->n_panels * job->rows;
    size_t x_row_bytes = (size_t)job->w->n_cols * dtype_bytes(dev->base.act);
#pragma omp parallel num_threads(steps < SMALL_TILE_STEPS ? 1 : dev->n_threads)
    {
#pragma omp for schedule(static)
        for (int tile = 0; tile < job->n_tiles; tile++)
            pack_tile(job, tile, x_row_bytes);
        if (job->n_tiles == 1) {
#pragma omp for schedule(static)
            for (int task = 0; task < n_tasks; task++)
                multiply_task(job, task);
        } else {
#pragma omp for schedule(dynamic)
            for (int task = 0; task < n_tasks; task++)
                multiply_task(job, task);
        }
    }
}

static void multiply(cpu_device *dev, const matrix *w, const void *x, int T, float *y, bool add) {
    int most = T < ROW_BLOCK ? T : ROW_BLOCK;
    char *input = cpu_device_scratch(dev, (size_t)most * (size_t)w->n_words * tile_of(dev)->input_word_bytes);
    if (!input) return;
    for (int row0 = 0; row0 < T; row0 += ROW_BLOCK) {
        product job = plan_rows(dev, w, T - row0 < ROW_BLOCK ? T - row0 : ROW_BLOCK);
        job.x = (const char *)x + (size_t)row0 * (size_t)w->n_cols * dtype_bytes(dev->base.act);
        job.y = y + (size_t)row0 * (size_t)w->n_rows;
        job.input = input;
        job.add = add;
        multiply_rows(dev, &job);
    }
}

/* One row and many have the same order of additions: T_few makes no difference. */
void cpu_matmul(device *dev, const matrix *w, const void *x, int T, int T_few, float *y) {
    (void)T_few;
    multiply(cpu_device_of(dev), w, x, T, y, false);
}

void cpu_matmul_add(device *dev, const matrix *w, const void *x, int T, int T_few, float *y) {
    (void)T_few;
    multiply(cpu_device_of(dev), w, x, T, y, true);
}

/* Two passes: of a row, gate_up stays in the caches. */
void cpu_matmul_swiglu(device *base, const matrix *w, const void *x, int T, int T_few, float *gate_up,
                       void *y) {
    assert(w->n_rows % 2 == 0);
    cpu_matmul(base, w, x, T, T_few, gate_up);
    cpu_swiglu(cpu_device_of(base), gate_up, T, (int)(w->n_rows / 2), y);
}
