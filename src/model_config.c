#include "src/model_config.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/json.h"
#include "src/base/memory.h"

enum { MAX_CONFIG_BYTES = 16 << 20, MAX_HEAD_DIM = 1024 };

/* What one family has that is not said in its files, and the defaults of transformers where families differ.
 */
static const struct family {
    const char *architecture, *model_type;
    int64_t max_positions;
    int head_dim; /* 0: model width / heads */
    bool always_qkv_bias, may_have_bias, qk_norm;
} families[] = {
    [FAMILY_LLAMA] = {.architecture = "LlamaForCausalLM",
                      .model_type = "llama",
                      .max_positions = 2048,
                      .may_have_bias = true},
    [FAMILY_MISTRAL] = {.architecture = "MistralForCausalLM",
                        .model_type = "mistral",
                        .max_positions = 131072},
    [FAMILY_QWEN2] = {.architecture = "Qwen2ForCausalLM",
                      .model_type = "qwen2",
                      .max_positions = 32768,
                      .always_qkv_bias = true},
    [FAMILY_QWEN3] = {.architecture = "Qwen3ForCausalLM",
                      .model_type = "qwen3",
                      .max_positions = 32768,
                      .head_dim = 128,
                      .may_have_bias = true,
                      .qk_norm = true},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const char *model_family_name(model_family family) {
    return families[family].architecture;
}

/* ---- config.json ---- */

static void read_family(json_object *root, model_config *c) {
    const cJSON *list = json_find(root, "architectures");
    const char *key = list ? "architectures" : "model_type"; /* very old files have no list */
    const cJSON *item = list && cJSON_IsArray(list) ? list->child : list ? list : json_find(root, key);
    if (!cJSON_IsString(item)) {
        json_refuse(root, key, "the name of an architecture was expected");
        return;
    }
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *name = list ? families[i].architecture : families[i].model_type;
        if (strcmp(item->valuestring, name) != 0) continue;
        c->family = (model_family)i;
        return;
    }
    text_buffer known = {0};
    for (int i = 0; i < N_FAMILIES; i++) {
        if (i) text_append(&known, ", ", 2);
        text_append(&known, families[i].architecture, strlen(families[i].architecture));
    }
    json_refuse(root, key, "\"%.100s\" is not supported; supported are %s", item->valuestring, known.data);
    free(known.data);
}

/* Each dimension is bounded so that sizes in elements and bytes stay far from overflowing 64 bits. */
static void read_shape(json_object *root, model_config *c) {
    const struct family *family = &families[c->family];
    c->n_layers = (int)json_int(root, "num_hidden_layers", 1, MODEL_MAX_LAYERS);
    c->d_model = (int)json_int(root, "hidden_size", 1, 1 << 20);
    c->n_heads = (int)json_int(root, "num_attention_heads", 1, 1 << 14);
    c->n_kv_heads = (int)json_int_or(root, "num_key_value_heads", 1, 1 << 14, c->n_heads);
    c->d_mlp = (int)json_int(root, "intermediate_size", 1, 1 << 24);
    c->vocab_size = (int)json_int(root, "vocab_size", 1, 1 << 26);
    c->max_positions = json_int_or(root, "max_position_embeddings", 1, INT32_MAX, family->max_positions);
    c->rms_norm_eps = (float)json_number_or(root, "rms_norm_eps", 0, 1, 1e-6);
    c->tied_head = json_bool_or(root, "tie_word_embeddings", false);
    if (root->st != STATUS_OK) return;

    bool derived = !family->head_dim && !json_find(root, "head_dim");
    if (derived && c->d_model % c->n_heads != 0)
        json_refuse(root, "num_attention_heads", "%d heads do not divide hidden_size %d", c->n_heads,
                    c->d_model);
    int fallback = derived ? c->d_model / c->n_heads : family->head_dim;
    c->head_dim = (int)json_int_or(root, "head_dim", 1, MAX_HEAD_DIM, fallback);
    if (c->head_dim > MAX_HEAD_DIM)
        json_refuse(root, "num_attention_heads", "%d heads of hidden_size %d are %d wide, above %d",
                    c->n_heads, c->d_model, c->head_dim, MAX_HEAD_DIM);
    if (c->head_dim % 2)
        json_refuse(root, "head_dim", "heads are %d wide, but rotary positions need an even width",
                    c->head_dim);
    if (c->n_heads % c->n_kv_heads != 0)
        json_refuse(root, "num_key_value_heads", "%d does not divide num_attention_heads %d", c->n_kv_heads,
                    c->n_heads);
}

/* Parts that would change the arithmetic: taken over, or refused by name. */
static void read_parts(json_object *root, model_config *c) {
    const struct family *family = &families[c->family];
    bool bias = family->may_have_bias && json_bool_or(root, "attention_bias", false);
    c->qkv_bias = bias || family->always_qkv_bias;
    c->output_bias = bias;
    c->qk_norm = family->qk_norm;
    const char *activation = json_text_or(root, "hidden_act", "silu");
    if (strcmp(activation, "silu") != 0)
        json_refuse(root, "hidden_act", "\"%.60s\" is not supported; only silu is", activation);
    if (c->family == FAMILY_LLAMA && json_bool_or(root, "mlp_bias", false))
        json_refuse(root, "mlp_bias", "biases in the MLP are not supported");
    for (int i = 0; i < 2; i++) {
        const char *key = (const char *[]){"quantization_config", "compression_config"}[i];
        if (json_find(root, key))
            json_refuse(root, key, "quantized weights are not supported; take the model in bf16, f16 or f32");
    }
}

/* Qwen: "sliding_attention" or "full_attention" of each layer. */
static void read_layer_types(json_object *root, const cJSON *list, model_config *c) {
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != c->n_layers) {
        json_refuse(root, "layer_types", "an array with one text for each of the %d layers was expected",
                    c->n_layers);
        return;
    }
    int layer = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        const char *type = cJSON_IsString(item) ? item->valuestring : "";
        c->is_windowed[layer] = strcmp(type, "sliding_attention") == 0;
        if (!c->is_windowed[layer] && strcmp(type, "full_attention") != 0)
            json_refuse(root, "layer_types",
                        "layer %d: \"%.60s\" is not supported; full_attention and "
                        "sliding_attention are",
                        layer, type);
        if (c->is_windowed[layer] && c->window == 0)
            json_refuse(root, "layer_types", "layer %d: sliding_attention, but no sliding_window is in use",
                        layer);
        layer++;
    }
}

static void read_windows(json_object *root, model_config *c) {
    if (c->family == FAMILY_LLAMA) return;
    bool absent =
        root->item && !cJSON_GetObjectItemCaseSensitive(root->item, "sliding_window"); /* null means none */
    int64_t window = json_int_or(root, "sliding_window", 1, INT32_MAX, absent ? 4096 : 0);
    if (c->family == FAMILY_MISTRAL) {
        c->window = window;
        for (int i = 0; i < c->n_layers; i++)
            c->is_windowed[i] = window > 0;
        return;
    }
    c->window = json_bool_or(root, "use_sliding_window", false) ? window : 0;
    int64_t n_full = json_int_or(root, "max_window_layers", 0, INT32_MAX, 28); /* the first ones see all */
    const cJSON *types = json_find(root, "layer_types");
    for (int i = 0; i < c->n_layers; i++)
        c->is_windowed[i] = c->window > 0 && i >= n_full;
    if (types) read_layer_types(root, types, c);
}

/* ---- rope ---- */

static bool find_rope_kind(const char *name, rope_kind *out) {
    static const char *const names[] = {
        [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", [ROPE_YARN] = "yarn"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (rope_kind)i;
        return true;
    }
    return false;
}

static void refuse_partial(json_object *object) {
    if (json_number_or(object, "partial_rotary_factor", 0, 1, 1) != 1)
        json_refuse(object, "partial_rotary_factor", "rotating only a part of each head is not supported");
}

static void read_llama3(json_object *scaling, rope_config *rope) {
    rope->low_freq_factor = json_number(scaling, "low_freq_factor", 1e-6, 1e6);
    rope->high_freq_factor = json_number(scaling, "high_freq_factor", 1e-6, 1e6);
    if (rope->high_freq_factor <= rope->low_freq_factor)
        json_refuse(scaling, "high_freq_factor", "%g must be above low_freq_factor %g",
                    rope->high_freq_factor, rope->low_freq_factor);
}

static void read_yarn(json_object *scaling, rope_config *rope) {
    if (json_find(scaling, "attention_factor"))
        rope->attention_factor = json_number(scaling, "attention_factor", 1e-6, 1e6);
    rope->mscale = json_number_or(scaling, "mscale", 0, 1e6, 0);
    rope->mscale_all_dim = json_number_or(scaling, "mscale_all_dim", 0, 1e6, 0);
    rope->beta_fast = json_number_or(scaling, "beta_fast", 0, 1e6, 0);
    rope->beta_slow = json_number_or(scaling, "beta_slow", 0, 1e6, 0);
    if (rope->beta_fast == 0) rope->beta_fast = 32; /* 0 counts as not given, as in transformers */
    if (rope->beta_slow == 0) rope->beta_slow = 1;
    rope->truncate = json_bool_or(scaling, "truncate", true);
    if (rope->beta_fast < rope->beta_slow)
        json_refuse(scaling, "beta_fast", "%g is below beta_slow %g", rope->beta_fast, rope->beta_slow);
}

/* The parameters of `scaling`; what llama3 and yarn count as the context before scaling may stand outside. */
static void read_scaling(json_object *root, json_object *scaling, model_config *c) {
    rope_config *rope = &c->rope;
    rope->theta = json_number_or(scaling, "rope_theta", 2, 1e15, rope->theta);
    refuse_partial(scaling);
    const char *type = json_text_or(scaling, "rope_type", json_text_or(scaling, "type", "default"));
    if (json_find(scaling, "full_attention") || json_find(scaling, "sliding_attention"))
        json_refuse(scaling, "full_attention",
                    "rope parameters that differ between layers are not supported");
    if (!find_rope_kind(type, &rope->kind))
        json_refuse(scaling, "rope_type", "\"%.60s\" is not supported; default, linear, llama3 and yarn are",
                    type);
    if (rope->kind == ROPE_DEFAULT) return;

    if (rope->kind == ROPE_LLAMA3 || rope->kind == ROPE_YARN) {
        int64_t inside =
            json_int_or(scaling, "original_max_position_embeddings", 1, INT32_MAX, c->max_positions);
        rope->original_positions =
            (double)json_int_or(root, "original_max_position_embeddings", 1, INT32_MAX, inside);
    }
    if (rope->kind == ROPE_YARN && !json_find(scaling, "factor"))
        rope->factor = (double)c->max_positions / rope->original_positions;
    else
        rope->factor = json_number(scaling, "factor", 1, 1e6);
    if (rope->factor < 1)
        json_refuse(scaling, "factor", "max_position_embeddings is below original_max_position_embeddings");
    if (rope->kind == ROPE_LLAMA3) read_llama3(scaling, rope);
    if (rope->kind == ROPE_YARN) read_yarn(scaling, rope);
}

static void read_rope(json_object *root, model_config *c) {
    c->rope.theta = json_number_or(root, "rope_theta", 2, 1e15, 10000);
    refuse_partial(root);
    static const char *const keys[] = {"rope_scaling", "rope_parameters"}; /* the older form goes first */
    for (int i = 0; i < 2 && root->st == STATUS_OK; i++) {
        const cJSON *item = json_find(root, keys[i]);
        if (!item || (cJSON_IsObject(item) && !item->child)) continue; /* {} counts as absent */
        json_object scaling = json_view_member(root, keys[i]);
        read_scaling(root, &scaling, c);
        if (scaling.st != STATUS_OK) root->st = scaling.st;
        return;
    }
}

/* ---- tokens and generation ---- */

/* One id or a list of them; absent or null changes nothing. */
static void read_end_tokens(json_object *root, model_config *c) {
    const cJSON *item = json_find(root, "eos_token_id");
    if (!item) return;
    bool is_list = cJSON_IsArray(item);
    c->n_end_tokens = 0;
    for (const cJSON *id = is_list ? item->child : item; id; id = is_list ? id->next : NULL) {
        int64_t value;
        if (!json_item_is_int(id, 0, INT32_MAX, &value)) {
            json_refuse(root, "eos_token_id", "a token id or an array of token ids was expected");
            return;
        }
        if (c->n_end_tokens == MODEL_MAX_END_TOKENS) {
            json_refuse(root, "eos_token_id", "more than %d end tokens", MODEL_MAX_END_TOKENS);
            return;
        }
        c->end_tokens[c->n_end_tokens++] = (int32_t)value;
    }
}

status model_config_parse(const char *json, size_t n, const char *name, model_config *out) {
    cJSON *document = NULL;
    status st = json_parse(json, n, name, &document);
    if (st != STATUS_OK) return st;
    model_config *c = mem_new(1, sizeof *c); /* zeroed, padding too: its bytes may be sent and compared */
    json_object root = json_view(document, name);
    read_family(&root, c);
    read_shape(&root, c);
    read_parts(&root, c);
    read_windows(&root, c);
    read_rope(&root, c);
    c->begin_token = (int32_t)json_int_or(&root, "bos_token_id", 0, INT32_MAX, -1);
    read_end_tokens(&root, c);
    c->sampling = sampling_defaults();
    if (root.st == STATUS_OK) memcpy(out, c, sizeof *out);
    free(c);
    cJSON_Delete(document);
    return root.st;
}

static void read_sampling(json_object *root, sampling_options *sampling) {
    sampling->repetition_penalty = json_number_or(root, "repetition_penalty", -1e9, 1e9, 1);
    if (!json_bool_or(root, "do_sample", false)) return;
    sampling->temperature = json_number_or(root, "temperature", -1e9, 1e9, 1);
    sampling->top_k = json_int_or(root, "top_k", -1, INT32_MAX, 0);
    if (sampling->top_k < 0) sampling->top_k = 0; /* another way to say "off" */
    sampling->top_p = json_number_or(root, "top_p", -1e9, 1e9, 1);
    sampling->min_p = json_number_or(root, "min_p", -1e9, 1e9, 0);
}

status model_config_parse_generation(const char *json, size_t n, const char *name, model_config *config) {
    cJSON *document = NULL;
    status st = json_parse(json, n, name, &document);
    if (st != STATUS_OK) return st;
    model_config c;
    memcpy(&c, config, sizeof c);
    json_object root = json_view(document, name);
    read_end_tokens(&root, &c);
    c.begin_token = (int32_t)json_int_or(&root, "bos_token_id", 0, INT32_MAX, c.begin_token);
    c.sampling = sampling_defaults();
    read_sampling(&root, &c.sampling);
    st = root.st;
    if (st == STATUS_OK) st = status_at(sampling_check(&c.sampling), "%s", name);
    if (st == STATUS_OK) memcpy(config, &c, sizeof c);
    cJSON_Delete(document);
    return st;
}

/* ---- files ---- */

typedef status parse_function(const char *json, size_t n, const char *name, model_config *out);

static status read_with(parse_function *parse, const char *dir, const char *file, bool optional,
                        model_config *out) {
    text_buffer path = {0};
    text_append(&path, dir, strlen(dir));
    text_append(&path, file, strlen(file));
    struct stat info;
    status st = STATUS_OK;
    if (!optional || stat(path.data, &info) == 0) {
        char *bytes = NULL;
        size_t n = 0;
        st = json_read_bytes(path.data, MAX_CONFIG_BYTES, &bytes, &n);
        if (st == STATUS_OK) st = parse(bytes, n, path.data, out);
        free(bytes);
    }
    free(path.data);
    return st;
}

status model_config_load(const char *model_dir, model_config *out) {
    model_config *c = mem_new(1, sizeof *c);
    status st = read_with(model_config_parse, model_dir, "/config.json", false, c);
    if (st == STATUS_OK)
        st = read_with(model_config_parse_generation, model_dir, "/generation_config.json", true, c);
    if (st == STATUS_OK) memcpy(out, c, sizeof *out);
    free(c);
    return st;
}

/* ---- questions ---- */

int64_t model_config_window(const model_config *config, int layer) {
    assert(layer >= 0 && layer < config->n_layers);
    return config->is_windowed[layer] ? config->window : 0;
}

static void describe_rope(const rope_config *rope, char *text, size_t bytes) {
    static const char *const names[] = {
        [ROPE_DEFAULT] = "", [ROPE_LINEAR] = " linear", [ROPE_LLAMA3] = " llama3", [ROPE_YARN] = " yarn"};
    int used = snprintf(text, bytes, "rope %g%s", rope->theta, names[rope->kind]);
    if (rope->kind != ROPE_DEFAULT) snprintf(text + used, bytes - (size_t)used, " x%g", rope->factor);
}

void model_config_describe(const model_config *c, char *text, size_t bytes) {
    char rope[80], window[80] = "";
    describe_rope(&c->rope, rope, sizeof rope);
    int n_windowed = 0;
    for (int i = 0; i < c->n_layers; i++)
        n_windowed += c->is_windowed[i];
    if (n_windowed)
        snprintf(window, sizeof window, ", window %lld in %d layers", (long long)c->window, n_windowed);
    snprintf(text, bytes,
             "%s: %d layers, width %d, %d query and %d KV heads of %d, MLP %d, vocabulary %d, %s head, %s%s, "
             "context %lld",
             model_family_name(c->family), c->n_layers, c->d_model, c->n_heads, c->n_kv_heads, c->head_dim,
             c->d_mlp, c->vocab_size, c->tied_head ? "tied" : "own", rope, window,
             (long long)c->max_positions);
}
