/* What an H200 and an H100 need at least for the work of an 8B Llama, kernel by kernel, and what our kernels
 * are predicted to need (tests/bench/floors.h): the tables of tests/gpu-results.md. No GPU is needed.
 *
 *     roofline                                        these tables
 *     roofline GPU SHAPE decode SEQUENCES CONTEXT     of one step on a GPU of this name, for a model that
 *     roofline GPU SHAPE prefill CHUNK TOKENS         --shape knows, "H200 FLOOR PREDICTED", in ms */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/floors.h"

static void print_work(const work *w) {
    char blocks[32] = "-", way[32] = "-";
    const char *why, *why_100;
    double predicted = work_predict(w, &h200, &why), predicted_100 = work_predict(w, &h100, &why_100);
    if (w->blocks > 0) snprintf(blocks, sizeof blocks, "%.0f (%d)", w->blocks, w->per_sm);
    if (w->block_bytes > 0) snprintf(way, sizeof way, "%.1f", work_under_way(w) / 1e6);
    printf("| %s | %.2f | %.2f | %.1f | %.1f | %s | %s | %.1f (%s) | %.1f |\n", w->name, w->bytes / 1e6,
           w->flops / 1e9, 1e6 * work_floor(w, &h200), 1e6 * work_floor(w, &h100), blocks, way,
           1e6 * predicted, why, 1e6 * predicted_100);
}

static void print_total(const char *name, total t) {
    printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f |\n", name, t.bytes / 1e9, t.flops / 1e12,
           1e3 * t.floor[0], 1e3 * t.floor[1], 1e3 * t.predicted[0], 1e3 * t.predicted[1]);
}

static void print_tables(const synthetic_model *m) {
    work w[WORK_OF_ALL];
    int n = list_work(m, &gpu_sizes, w);
    printf("| kernel, shape, rows or context | MB | GFLOP | floor H200, us | floor H100, us | blocks (in an "
           "SM) | MB under way | predicted H200, us (bound) | predicted H100, us |\n"
           "|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < n; i++)
        print_work(&w[i]);
    printf("\n| all of a step | GB | TFLOP | floor H200, ms | floor H100, ms | predicted H200, ms | "
           "predicted H100, ms |\n|---|---|---|---|---|---|---|\n");
    print_total("decode, 1 sequence at 1K", decode_total(m, 1, 1024));
    print_total("decode, 64 sequences at 4K", decode_total(m, 64, 4096));
    print_total("prefill of 32K in chunks of 512", prefill_total(m, 512, 32768));
    print_total("prefill of 32K in chunks of 4096", prefill_total(m, 4096, 32768));
}

int main(int argc, char **argv) {
    synthetic_model m;
    bool is_decode = argc == 6 && !strcmp(argv[3], "decode");
    if (argc != 1 && !is_decode && !(argc == 6 && !strcmp(argv[3], "prefill"))) {
        fprintf(stderr, "roofline [GPU SHAPE decode SEQUENCES CONTEXT | GPU SHAPE prefill CHUNK TOKENS]\n");
        return EXIT_CODE_REFUSED;
    }
    status st = synthetic_find(argc > 1 ? argv[2] : "llama-8b", &m);
    if (st != STATUS_OK) {
        fprintf(stderr, "roofline: %s\n", status_text());
        return status_exit_code(st);
    }
    if (argc == 1) {
        print_tables(&m);
        return 0;
    }
    const gpu *g = gpu_of(argv[1]);
    total t = (is_decode ? decode_total : prefill_total)(&m, atoi(argv[4]), atoi(argv[5]));
    printf("%s %.3f %.3f\n", g->name, 1e3 * t.floor[g == &h100], 1e3 * t.predicted[g == &h100]);
    return 0;
}
