/* Any bytes as config.json and as generation_config.json. */
#include <math.h>
#include <string.h>

#include "src/model/model_config.h"
#include "src/model/rope.h"
#include "tests/fuzz/fuzz.h"

/* What the rest of the program relies on. */
static void check(const model_config *c) {
    fuzz_check(c->n_layers >= 1 && c->n_layers <= MODEL_MAX_LAYERS, "layers");
    fuzz_check(c->d_model >= 1 && c->d_mlp >= 1 && c->vocab_size >= 1 && c->max_positions >= 1, "dimensions");
    fuzz_check(c->n_kv_heads >= 1 && c->n_heads >= 1 && c->n_heads % c->n_kv_heads == 0, "heads");
    fuzz_check(c->head_dim >= 2 && c->head_dim <= 1024 && c->head_dim % 2 == 0, "head width");
    fuzz_check(c->n_end_tokens >= 0 && c->n_end_tokens <= MODEL_MAX_END_TOKENS, "end tokens");
    for (int i = 0; i < c->n_layers; i++)
        fuzz_check(model_config_window(c, i) >= 0, "window");
    float inv_freq[512], factor;
    rope_inverse_frequencies(c, inv_freq, &factor);
    fuzz_check(isfinite(factor) && factor > 0, "rope factor");
    for (int i = 0; i < c->head_dim / 2; i++)
        fuzz_check(isfinite(inv_freq[i]) && inv_freq[i] >= 0, "rope frequency");
    char text[200];
    model_config_describe(c, text, sizeof text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static model_config c;
    if (model_config_parse((const char *)data, n, "config.json", &c) == STATUS_OK)
        check(&c);
    else
        fuzz_check_text(status_text());
    memset(&c, 0, sizeof c);
    if (model_config_parse_generation((const char *)data, n, "generation_config.json", &c) == STATUS_OK)
        fuzz_check(c.n_end_tokens <= MODEL_MAX_END_TOKENS && c.n_stops <= MODEL_MAX_STOPS, "generation");
    return 0;
}
