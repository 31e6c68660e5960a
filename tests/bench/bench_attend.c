/* tests/bench/bench_attend.c: how near attention of the CPU comes to what a sweep through the same pages
 * reaches.
 *
 *     bench_attend [SECONDS [THREADS [ISA]]]
 *
 * Of each shape, number of sequences and context: generated rows, one of each sequence, by every instruction
 * set that this processor has (or by ISA alone), and a sweep, which reads the same pages once, each thread
 * its part from begin to end. They take turns for about SECONDS (1) each, and the medians count. Layers
 * follow each other as in a model, so many that no cache holds what comes next. Rows of prompts are measured
 * by the same turns; what counts for them is operations. All with pages of bf16, of int8 and of int4. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

enum { PAGE_TOKENS = 64, MAX_ISAS = 8, MAX_ROUNDS = 64, SWEEP = MAX_ISAS, N_TIMED };

static const size_t least_bytes = 512u << 20; /* of all layers together */

typedef struct shape {
    const char *name;
    int n_heads, n_kv_heads, head_dim;
} shape;

typedef struct job {
    shape shape;
    int n_sequences, n_rows, context; /* rows of each, the last of so many positions */
} job;

/* What the job reads and writes. */
typedef struct setting {
    attention_shape shape;
    int n_layers, n_threads;
    size_t layer_bytes;
    kv_layer *layers, *near;
    span *spans;
    int32_t *table, *near_table;
    void *pages, *near_pages, *q, *y;
} setting;

static void check(status st) {
    if (st == STATUS_OK) return;
    fprintf(stderr, "bench_attend: %s\n", status_text());
    exit(status_exit_code(st));
}

/* bf16 numbers between -1 and 1. */
static void *new_numbers(device *dev, size_t bytes) {
    enum { PATTERN = 1 << 16 };
    static uint16_t pattern[PATTERN];
    uint64_t random = 1;
    for (int i = 0; i < PATTERN; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        float x = (float)(int32_t)(random >> 32) * 0x1p-31f;
        memcpy(&pattern[i], (char *)&x + 2, sizeof pattern[i]);
    }
    void *memory = NULL;
    check(dev->ops->alloc(dev, bytes, &memory));
    for (size_t at = 0; at < bytes; at += sizeof pattern)
        memcpy((char *)memory + at, pattern, bytes - at < sizeof pattern ? bytes - at : sizeof pattern);
    return memory;
}

/* Beside pages of codes, those that rows see as they were put: of each sequence so many, in turns. */
static void add_near(device *dev, const job *j, const kv_format *coded, setting *s) {
    const kv_format f = kv_near_format(coded);
    const int table_pages = (int)kv_pages_for(j->context, f.page_tokens),
              own_pages = 2 + (int)kv_pages_for(ATTEND_BLOCK + j->n_rows, f.page_tokens),
              n_entries = table_pages * j->n_sequences;
    const size_t layer_bytes = (size_t)(own_pages * j->n_sequences) * kv_page_bytes(&f);
    s->near_pages = new_numbers(dev, (size_t)s->n_layers * layer_bytes);
    s->near_table = mem_new((size_t)n_entries, sizeof *s->near_table);
    for (int i = 0; i < n_entries; i++)
        s->near_table[i] = (int32_t)(i / table_pages * own_pages + i % table_pages % own_pages);
    s->near = mem_new((size_t)s->n_layers, sizeof *s->near);
    for (int i = 0; i < s->n_layers; i++) {
        s->near[i] =
            (kv_layer){(char *)s->near_pages + (size_t)i * layer_bytes, f, s->near_table, table_pages, NULL};
        s->layers[i].near = &s->near[i];
    }
}

static setting new_setting(device *dev, const job *j, int n_threads) {
    const int H = j->shape.n_heads, G = j->shape.n_kv_heads, K = j->shape.head_dim;
    const int table_pages = (int)kv_pages_for(j->context, PAGE_TOKENS),
              n_pages = table_pages * j->n_sequences;
    const kv_format format = device_kv_format(dev, G, K, PAGE_TOKENS);
    setting s = {.shape = {H, G, K, 0.125f, 0}, .n_threads = n_threads};
    s.layer_bytes = (size_t)n_pages * kv_page_bytes(&format);
    s.n_layers = (int)(least_bytes / s.layer_bytes) + 1;
    s.pages = new_numbers(dev, (size_t)s.n_layers * s.layer_bytes);
    s.table = mem_new((size_t)n_pages, sizeof *s.table);
    for (int i = 0; i < n_pages; i++)
        s.table[i] = (int32_t)i;
    s.layers = mem_new((size_t)s.n_layers, sizeof *s.layers);
    for (int i = 0; i < s.n_layers; i++)
        s.layers[i] =
            (kv_layer){(char *)s.pages + (size_t)i * s.layer_bytes, format, s.table, table_pages, NULL};
    if (kv_is_coded(&format)) add_near(dev, j, &format, &s);
    s.spans = mem_new((size_t)j->n_sequences, sizeof *s.spans);
    for (int i = 0; i < j->n_sequences; i++)
        s.spans[i] = (span){i * j->n_rows, j->n_rows, j->context - j->n_rows, i, j->n_rows == 1};
    const size_t q_bytes = (size_t)(j->n_sequences * j->n_rows * H * K) * dtype_bytes(dev->act);
    s.q = new_numbers(dev, q_bytes);
    s.y = new_numbers(dev, q_bytes);
    return s;
}

static void free_setting(setting *s) {
    free(s->pages);
    free(s->near);
    free(s->near_table);
    free(s->near_pages);
    free(s->q);
    free(s->y);
    free(s->layers);
    free(s->spans);
    free(s->table);
}

static void attend_layers(device *dev, const setting *s, int n_spans) {
    dev->ops->begin_step(dev, n_spans, s->spans);
    for (int i = 0; i < s->n_layers; i++)
        dev->ops->attend(dev, &s->shape, &s->layers[i], s->q, s->y);
    check(dev->ops->sync(dev));
}

/* Lines are read whole; the sum is used, so that the reads are made. */
static void sweep_layers(const setting *s) {
    enum { AHEAD_WORDS = 512 };
    uint64_t sum = 0;
    for (int layer = 0; layer < s->n_layers; layer++) {
        const uint64_t *words = s->layers[layer].pages;
#pragma omp parallel for num_threads(s->n_threads) schedule(static) reduction(+ : sum)
        for (size_t line = 0; line < s->layer_bytes / 64; line++) {
            __builtin_prefetch(words + line * 8 + AHEAD_WORDS);
            for (size_t i = 0; i < 8; i++)
                sum += words[line * 8 + i];
        }
    }
    volatile uint64_t used = sum;
    (void)used;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

static double time_one(device *dev, const setting *s, int n_spans) {
    double begin = clock_seconds();
    if (dev)
        attend_layers(dev, s, n_spans);
    else
        sweep_layers(s);
    return (clock_seconds() - begin) / s->n_layers;
}

static void run(device *const *devices, const job *j, kv_layout layout, int n_threads, double seconds) {
    static double times[N_TIMED][MAX_ROUNDS];
    for (int i = 0; devices[i]; i++)
        devices[i]->kv_layout = layout;
    setting s = new_setting(devices[0], j, n_threads);
    int n_rounds = 0;
    for (int i = 0; devices[i]; i++)
        time_one(devices[i], &s, j->n_sequences);
    for (double begin = clock_seconds();
         n_rounds < 5 || (n_rounds < MAX_ROUNDS && clock_seconds() - begin < seconds); n_rounds++) {
        times[SWEEP][n_rounds] = time_one(NULL, &s, 0);
        for (int i = 0; devices[i]; i++)
            times[i][n_rounds] = time_one(devices[i], &s, j->n_sequences);
    }
    const double swept = median(times[SWEEP], n_rounds), bytes = (double)s.layer_bytes;
    const char *format = layout == KV_INT4 ? "int4" : layout == KV_INT8 ? "int8" : "bf16";
    printf("| %s, %s, %d x %d rows at %d | %.1f |", j->shape.name, format, j->n_sequences, j->n_rows,
           j->context, bytes / swept / 1e9);
    for (int i = 0; devices[i]; i++) {
        const double mine = median(times[i], n_rounds);
        if (j->n_rows == 1)
            printf(" %.2f ms (%.0f%%) |", 1e3 * mine, 100 * swept / mine);
        else
            printf(" %.2f ms |", 1e3 * mine);
    }
    printf("\n");
    free_setting(&s);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? atof(argv[1]) : 1;
    const int n_threads = argc > 2 ? atoi(argv[2]) : 2;
    const shape small = {"llama-1b", 32, 8, 64}, large = {"llama-8b", 32, 8, 128};
    const job jobs[] = {{small, 1, 1, 8192},   {small, 1, 1, 32768},  {small, 16, 1, 8192},
                        {small, 16, 1, 32768}, {large, 1, 1, 8192},   {large, 1, 1, 32768},
                        {large, 16, 1, 8192},  {large, 16, 1, 32768}, {small, 1, 512, 4096},
                        {large, 1, 512, 4096}};
    device *devices[MAX_ISAS + 1] = {NULL};
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    printf("| shape, pages, sequences, rows, context | sweep, GB/s |");
    for (int i = 0, n = 0; cpu_isa_name(i) && n < MAX_ISAS; i++) {
        const char *isa = cpu_isa_name(i);
        if (!cpu_isa_available(isa) || (argc > 3 && strcmp(isa, argv[3]) != 0)) continue;
        check(cpu_device_open(PRECISION_BF16, n_threads, isa, &devices[n++]));
        printf(" %s |", isa);
    }
    printf("\n");
    for (size_t i = 0; devices[0] && i < sizeof jobs / sizeof *jobs; i++)
        for (kv_layout layout = KV_PANELS; layout <= KV_INT4; layout++)
            run(devices, &jobs[i], layout, n_threads, seconds);
    for (int i = 0; devices[i]; i++)
        devices[i]->ops->close(devices[i]);
    return 0;
}
