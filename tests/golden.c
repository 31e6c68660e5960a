#include "tests/golden.h"

#include <string.h>

#include "tests/harness.h"

const char *const golden_models[] = {"llama2",
                                     "llama3",
                                     "llama_bias",
                                     "llama_linear",
                                     "llama_yarn",
                                     "llama_yarn_betas",
                                     "llama_yarn_mscale",
                                     "mistral",
                                     "mistral_full",
                                     "mistral_mixed",
                                     "mqa",
                                     "qwen2",
                                     "qwen2_window",
                                     "qwen3",
                                     "qwen3_window",
                                     "smollm",
                                     "untied",
                                     NULL};

bool golden_read(const char *path, golden *out) {
    size_t n;
    char *bytes = harness_read_file(path, &n);
    golden g = {.bytes = bytes};
    bool good = bytes && n >= 32 && !memcmp(bytes, "KVGOLD1\n", 8);
    if (good) {
        const char *at = bytes + 32;
        memcpy(&g.n_tokens, bytes + 8, 16);
        memcpy(&g.mean_nll, bytes + 24, 8);
        g.tokens = (const int32_t *)at;
        g.positions = g.tokens + g.n_tokens;
        g.logits = (const float *)(g.positions + g.n_positions);
        g.continued = (const int32_t *)(g.logits + (size_t)g.n_positions * (size_t)g.n_vocabulary);
        g.margins = (const float *)(g.continued + g.n_continued);
        good = (const char *)(g.margins + g.n_continued) == bytes + n;
    }
    CU_ASSERT(good);
    if (good) *out = g;
    return good;
}
