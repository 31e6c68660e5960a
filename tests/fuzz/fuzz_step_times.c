/* Any bytes as a file of measured step times. */
#include <math.h>
#include <string.h>

#include "src/timing/step_costs.h"
#include "tests/fuzz/fuzz.h"

static void check_model(const chunk_model *m) {
    const double numbers[] = {m->c, m->g, m->b, m->a};
    for (int i = 0; i < 4; i++)
        fuzz_check(isfinite(numbers[i]) && numbers[i] >= 0, "what a layer takes");
}

static void check(const step_times *t) {
    for (int i = 0; i < t->n_steps; i++) {
        const step_time *s = &t->steps[i];
        fuzz_check(s->rank >= 0 && s->rank < t->n_ranks && t->layers[s->rank] > 0, "ranks");
        fuzz_check(s->n_rows > 0 && s->n_sequences > 0 && s->history >= 0 && s->layer_seconds > 0, "a step");
    }
    step_costs costs;
    model_config config = {.n_layers = 8, .d_model = 256, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64};
    config.d_mlp = config.vocab_size = 512;
    step_times same = *t; /* of this model, whatever it says */
    model_config_describe(&config, same.model, sizeof same.model);
    if (step_costs_fit(&same, &config, "times.json", &costs) != STATUS_OK) {
        fuzz_check_text(status_text());
        return;
    }
    check_model(&costs.prefill);
    check_model(&costs.decode);
    fuzz_check(costs.head_c >= 0 && costs.head_row >= 0 && costs.hop_seconds >= 0, "head and hops");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    step_times t;
    if (step_times_parse((const char *)data, n, "times.json", &t) == STATUS_OK) {
        check(&t);
        step_times_free(&t);
    } else {
        fuzz_check_text(status_text());
    }
    return 0;
}
