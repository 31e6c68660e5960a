/* generation_config.json: how a model's makers would have its tokens chosen. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/model/model_config_private.h"

/* What transformers does by this file and kvarve does not, each with the value at which it does nothing. */
static const struct unused {
    const char *key;
    double neutral;
    bool only_sampled; /* not where the likeliest token is taken */
} unused[] = {
    {"suppress_tokens", -1, false},
    {"begin_suppress_tokens", -1, false},
    {"bad_words_ids", -1, false},
    {"force_words_ids", -1, false},
    {"constraints", -1, false},
    {"sequence_bias", -1, false},
    {"forced_bos_token_id", -1, false},
    {"forced_eos_token_id", -1, false},
    {"forced_decoder_ids", -1, false},
    {"no_repeat_ngram_size", 0, false},
    {"encoder_no_repeat_ngram_size", 0, false},
    {"encoder_repetition_penalty", 1, false},
    {"exponential_decay_length_penalty", -1, false},
    {"min_length", 0, false},
    {"min_new_tokens", 0, false},
    {"max_new_tokens", 0, false},
    {"max_time", 0, false},
    {"num_beams", 1, false},
    {"num_beam_groups", 1, false},
    {"num_return_sequences", 1, false},
    {"penalty_alpha", 0, false},
    {"dola_layers", 0, false},
    {"guidance_scale", 1, false},
    {"watermarking_config", 0, false},
    {"token_healing", 0, false},
    {"typical_p", 1, true},
    {"epsilon_cutoff", 0, true},
    {"eta_cutoff", 0, true},
    {"top_h", 1, true},
};

static void note_unused(json_object *root, bool is_sampled) {
    text_buffer names = {0};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) {
        if (json_item_is_neutral(json_find(root, unused[i].key), unused[i].neutral)) continue;
        if (unused[i].only_sampled && !is_sampled) continue;
        if (names.n) text_append(&names, ", ", 2);
        text_append(&names, unused[i].key, strlen(unused[i].key));
    }
    if (names.n)
        notice_add("%s: not used: %s (how many tokens there are, --max-tokens says)", root->file, names.data);
    free(names.data);
}

/* A number as it is, or NaN for what is none: sampling_check judges it when it is used. */
static double number_or(const json_object *root, const char *key, double fallback) {
    const cJSON *item = json_find(root, key);
    if (!item) return fallback;
    return cJSON_IsNumber(item) ? item->valuedouble : NAN;
}

/* -1 is another way to say "off". */
static int64_t top_k_or_off(const json_object *root) {
    int64_t k = 0;
    const cJSON *item = json_find(root, "top_k");
    if (item && !json_item_is_int(item, -1, INT32_MAX, &k))
        return INT64_MIN; /* which sampling_check refuses */
    return k < 0 ? 0 : k;
}

static void read_sampling(json_object *root, sampling_options *sampling) {
    *sampling = sampling_defaults();
    sampling->repetition_penalty = number_or(root, "repetition_penalty", 1);
    bool is_sampled = json_bool_or(root, "do_sample", false);
    note_unused(root, is_sampled);
    if (!is_sampled) return;
    sampling->temperature = number_or(root, "temperature", 1);
    sampling->top_k = top_k_or_off(root);
    sampling->top_p = number_or(root, "top_p", 1);
    sampling->min_p = number_or(root, "min_p", 0);
}

/* One text or a list of them. */
static void read_stops(json_object *root, model_config *c) {
    const cJSON *item = json_find(root, "stop_strings");
    if (!item) return;
    bool is_list = cJSON_IsArray(item);
    c->n_stops = 0;
    for (const cJSON *text = is_list ? item->child : item; text; text = is_list ? text->next : NULL) {
        if (!cJSON_IsString(text) || !*text->valuestring) {
            json_refuse(root, "stop_strings", "a text or an array of texts was expected");
            return;
        }
        if (c->n_stops == MODEL_MAX_STOPS || strlen(text->valuestring) >= MODEL_STOP_BYTES) {
            json_refuse(root, "stop_strings", "more than %d texts, or one of more than %d bytes",
                        MODEL_MAX_STOPS, MODEL_STOP_BYTES - 1);
            return;
        }
        strcpy(c->stops[c->n_stops++], text->valuestring);
    }
}

status model_config_parse_generation(const char *json, size_t n, const char *name, model_config *config) {
    cJSON *document = NULL;
    status st = json_parse_as_python(json, n, name, &document);
    if (st != STATUS_OK) return st;
    model_config *c = mem_new(1, sizeof *c);
    memcpy(c, config, sizeof *c);
    json_object root = json_view(document, name);
    model_config_read_end_tokens(&root, c);
    c->begin_token = model_config_read_begin_token(&root, c->begin_token);
    read_sampling(&root, &c->sampling);
    read_stops(&root, c);
    if (root.st == STATUS_OK) memcpy(config, c, sizeof *c);
    free(c);
    cJSON_Delete(document);
    return root.st;
}
