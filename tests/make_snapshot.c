/* tests/make_snapshot.c DIR [f32]: a small snapshot DIR/small.kvs for other programs to read, of 3 layers in
 * 4 segments (those of layer 0 plain), and what they must find: DIR/LAYER.k and DIR/LAYER.v, float32
 * [150, 2, 8]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/snapshot/manifest.h"
#include "src/base/memory.h"

enum { N_LAYERS = 3, N_ROWS = 150, N_HEADS = 2, HEAD_DIM = 8, VOCAB = 10, N_TOKENS = 120, N_PROMPT = 118 };

static dtype type;

/* Exact in bf16: 8 bits of fraction. */
static float value_of(int layer, kv_part part, int64_t row, int i) {
    float value = (float)(128 + (row + 7 * i) % 128) / (float)(1 << (layer + 2 * (int)part));
    return (row + i) % 3 ? value : -value;
}

static status read_rows(void *context, int layer, kv_part part, int64_t row0, int64_t n_rows, void *out) {
    (void)context;
    char *to = out;
    for (int64_t row = row0; row < row0 + n_rows; row++)
        for (int i = 0; i < N_HEADS * HEAD_DIM; i++, to += dtype_bytes(type)) {
            float value = value_of(layer, part, row, i);
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            const uint16_t upper = (uint16_t)(bits >> 16);
            memcpy(to, type == DTYPE_F32 ? (const void *)&bits : (const void *)&upper, dtype_bytes(type));
        }
    return STATUS_OK;
}

static status write_plain(const char *dir, int layer, kv_part part) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d.%s", dir, layer, part == KV_PART_K ? "k" : "v");
    FILE *f = fopen(path, "wb");
    if (!f) return status_fail("%s: cannot be written", path);
    for (int64_t row = 0; row < N_ROWS; row++)
        for (int i = 0; i < N_HEADS * HEAD_DIM; i++) {
            float value = value_of(layer, part, row, i);
            fwrite(&value, sizeof value, 1, f);
        }
    return fclose(f) == 0 ? STATUS_OK : status_fail("%s: cannot be written", path);
}

static status write_segments(const char *dir, segment_info segments[4]) {
    static const struct {
        int first, last;
        int64_t row0, n_rows;
    } ranges[4] = {{0, 1, 0, 100}, {1, 3, 0, 100}, {0, 2, 100, 50}, {2, 3, 100, 50}};
    const segment_source source = {.read = read_rows};
    status st = STATUS_OK;
    for (int i = 0; i < 4 && st == STATUS_OK; i++) {
        segments[i] = (segment_info){.first_layer = ranges[i].first,
                                     .last_layer = ranges[i].last,
                                     .row0 = ranges[i].row0,
                                     .n_rows = ranges[i].n_rows,
                                     .n_kv_heads = N_HEADS,
                                     .head_dim = HEAD_DIM,
                                     .type = type,
                                     .codec = i % 2 ? KV_CODEC_LOSSLESS : KV_CODEC_NONE,
                                     .chunk_tokens = 32};
        segment_make_name(&segments[i], 1 + i / 2);
        st = segment_write(dir, &segments[i], &source, 2);
    }
    return st;
}

static status write_manifest(const char *dir, segment_info segments[4]) {
    int32_t tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = i % VOCAB;
    bool is_done[3] = {true, false, true};
    float last_logits[VOCAB] = {0.5f, -1};
    manifest_logprob logprobs[N_TOKENS - N_PROMPT] = {{4, -0.5f}, {-1, -2}};
    manifest_extent extents[2] = {{0, 60, 0}, {60, 58, 90}};
    manifest_sequence sequence = {.id = "a \"name\"",
                                  .line = 1,
                                  .tokens = tokens,
                                  .n_tokens = N_TOKENS,
                                  .n_prompt = N_PROMPT,
                                  .extents = extents,
                                  .n_extents = 2,
                                  .sampling = sampling_defaults(),
                                  .prompt_text = "It was a dark",
                                  .n_prompt_text = 13,
                                  .text = " n\xC3\xADght",
                                  .n_text = 7,
                                  .n_logprobs = 1,
                                  .logprobs = logprobs,
                                  .last_logits = last_logits};
    const manifest m = {.n_layers = N_LAYERS,
                        .n_kv_heads = N_HEADS,
                        .head_dim = HEAD_DIM,
                        .vocab_size = VOCAB,
                        .type = type,
                        .save_number = 2,
                        .n_rows = N_ROWS,
                        .codec = KV_CODEC_LOSSLESS,
                        .page_tokens = 64,
                        .model_name = "small",
                        .n_ranks = 2,
                        .batch = {.n_lines = 3, .is_done = is_done, .output_bytes = -1},
                        .sequences = &sequence,
                        .n_sequences = 1,
                        .segments = segments,
                        .n_segments = 4};
    return manifest_write(dir, &m);
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    type = argc > 2 ? DTYPE_F32 : DTYPE_BF16;
    char dir[4096];
    snprintf(dir, sizeof dir, "%s/small.kvs", argv[1]);
    segment_info segments[4];
    status st = mkdir(dir, 0777) == 0 ? STATUS_OK : status_fail("%s: cannot be made", dir);
    if (st == STATUS_OK) st = write_segments(dir, segments);
    if (st == STATUS_OK) st = write_manifest(dir, segments);
    for (int layer = 0; layer < N_LAYERS && st == STATUS_OK; layer++)
        for (int part = 0; part < N_KV_PARTS && st == STATUS_OK; part++)
            st = write_plain(argv[1], layer, (kv_part)part);
    if (st != STATUS_OK) fprintf(stderr, "%s\n", status_text());
    return status_exit_code(st);
}
