#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/files.h"
#include "io/weights/model_dir.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/model/model_config_private.h"

enum { MAX_CONFIG_BYTES = 16 << 20, MAX_HEAD_DIM = 1024 };

/* What one family has that is not said in its files, and the defaults of transformers where families differ.
 */
static const struct family {
    const char *architecture, *model_type;
    int64_t max_positions;
    int n_kv_heads;                 /* 0: as many as heads */
    int head_dim;                   /* 0: model width / heads */
    int32_t begin_token, end_token; /* -1: none */
    bool always_qkv_bias, may_have_bias, qk_norm;
    const char *own_keys[4]; /* that not every family uses; NULL behind the last */
} families[] = {
    [FAMILY_LLAMA] = {.architecture = "LlamaForCausalLM",
                      .model_type = "llama",
                      .max_positions = 2048,
                      .begin_token = 1,
                      .end_token = 2,
                      .may_have_bias = true},
    [FAMILY_MISTRAL] = {.architecture = "MistralForCausalLM",
                        .model_type = "mistral",
                        .max_positions = 131072,
                        .n_kv_heads = 8,
                        .begin_token = 1,
                        .end_token = 2,
                        .own_keys = {"sliding_window"}},
    [FAMILY_QWEN2] = {.architecture = "Qwen2ForCausalLM",
                      .model_type = "qwen2",
                      .max_positions = 32768,
                      .n_kv_heads = 32,
                      .begin_token = -1,
                      .end_token = -1,
                      .always_qkv_bias = true,
                      .own_keys = {"sliding_window"}},
    [FAMILY_QWEN3] = {.architecture = "Qwen3ForCausalLM",
                      .model_type = "qwen3",
                      .max_positions = 32768,
                      .n_kv_heads = 32,
                      .head_dim = 128,
                      .begin_token = -1,
                      .end_token = -1,
                      .may_have_bias = true,
                      .qk_norm = true,
                      .own_keys = {"sliding_window"}},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

bool model_family_uses(model_family family, const char *key) {
    const char *const *own = families[family].own_keys;
    while (*own && strcmp(*own, key) != 0)
        own++;
    return *own != NULL;
}

const char *model_family_name(model_family family) {
    return families[family].architecture;
}

/* ---- config.json ---- */

static bool is_absent(const json_object *root, const char *key) { /* null is another thing */
    return root->item && !cJSON_GetObjectItemCaseSensitive(root->item, key);
}

/* Transformers goes by model_type, other programs by the architecture: both must say the same. */
static void read_family(json_object *root, model_config *c) {
    const cJSON *list = json_find(root, "architectures");
    if (cJSON_IsArray(list) && !list->child) list = NULL;
    const char *key = list ? "architectures" : "model_type"; /* very old files have no list */
    const cJSON *item = cJSON_IsArray(list) ? list->child : list ? list : json_find(root, key);
    if (!cJSON_IsString(item)) {
        json_refuse(root, key, "the name of an architecture was expected");
        return;
    }
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *name = list ? families[i].architecture : families[i].model_type;
        if (strcmp(item->valuestring, name) != 0) continue;
        c->family = (model_family)i;
        const char *type = json_text_or(root, "model_type", families[i].model_type);
        if (strcmp(type, families[i].model_type) != 0)
            json_refuse(root, "model_type", "\"%.60s\" is another kind of model than architectures says, %s",
                        type, name);
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
    bool all_heads = family->n_kv_heads == 0 || !is_absent(root, "num_key_value_heads");
    c->n_kv_heads = (int)json_int_or(root, "num_key_value_heads", 1, 1 << 14,
                                     all_heads ? c->n_heads : family->n_kv_heads);
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
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0) /* two names of one function */
        json_refuse(root, "hidden_act", "\"%.60s\" is not supported; only silu is", activation);
    if (c->family == FAMILY_LLAMA && json_bool_or(root, "mlp_bias", false))
        json_refuse(root, "mlp_bias", "biases in the MLP are not supported");
    for (int i = 0; i < 2; i++) {
        const char *key = (const char *[]){"quantization_config", "compression_config"}[i];
        if (json_find(root, key))
            json_refuse(root, key, "quantized weights are not supported; take the model in bf16, f16 or f32");
    }
}

/* "sliding_attention" or "full_attention" of each layer. */
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
        bool is_full =
            strcmp(type, "full_attention") == 0 || strcmp(type, "attention") == 0; /* its old name */
        c->is_windowed[layer] = strcmp(type, "sliding_attention") == 0;
        if (!c->is_windowed[layer] && !is_full)
            json_refuse(root, "layer_types",
                        "layer %d: \"%.60s\" is not supported; full_attention and "
                        "sliding_attention are",
                        layer, type);
        if (c->is_windowed[layer] && !model_family_uses(c->family, "sliding_window"))
            json_refuse(root, "layer_types", "layer %d: a %s has no sliding_attention", layer,
                        model_family_name(c->family));
        if (c->is_windowed[layer] && c->window == 0)
            json_refuse(root, "layer_types", "layer %d: sliding_attention, but no sliding_window is in use",
                        layer);
        layer++;
    }
}

/* A window that is in use; null means none. */
static int64_t read_window(json_object *root) {
    int64_t window =
        json_int_or(root, "sliding_window", 0, INT32_MAX, is_absent(root, "sliding_window") ? 4096 : 0);
    if (window == 0 && json_find(root, "sliding_window"))
        notice_add("%s: sliding_window is 0, in which nothing could be seen: it is taken for none",
                   root->file);
    return window;
}

static void read_windows(json_object *root, model_config *c) {
    int64_t n_full = 0; /* the first ones see all */
    if (c->family == FAMILY_MISTRAL) {
        c->window = read_window(root);
    } else if (model_family_uses(c->family, "sliding_window") &&
               json_bool_or(root, "use_sliding_window", false)) {
        c->window = read_window(root);
        n_full = json_int_or(root, "max_window_layers", 0, INT32_MAX, 28);
    }
    const cJSON *types = json_find(root, "layer_types");
    for (int i = 0; i < c->n_layers; i++)
        c->is_windowed[i] = c->window > 0 && i >= n_full;
    if (types) read_layer_types(root, types, c);
}

/* Attention in chunks that stretches a context (arXiv 2402.17463), which is not done, as in transformers. */
static void read_dual_chunks(json_object *root, model_config *c) {
    json_object chunks = json_view_optional(root, "dual_chunk_attention_config");
    if (!chunks.item) return;
    int64_t size = json_int_or(&chunks, "chunk_size", 1, INT32_MAX, 1);
    c->dual_chunk_positions = json_int_or(&chunks, "original_max_position_embeddings", 1, INT32_MAX, size);
}

/* ---- tokens ---- */

void model_config_read_end_tokens(json_object *root, model_config *c) {
    const cJSON *item = json_find(root, "eos_token_id");
    if (!item) return;
    bool is_list = cJSON_IsArray(item);
    c->n_end_tokens = 0;
    for (const cJSON *id = is_list ? item->child : item; id; id = is_list ? id->next : NULL) {
        int64_t value;
        if (!json_item_is_int(id, INT32_MIN, INT32_MAX, &value)) {
            json_refuse(root, "eos_token_id", "a token id or an array of token ids was expected");
            return;
        }
        if (value < 0) continue;
        if (c->n_end_tokens == MODEL_MAX_END_TOKENS) {
            json_refuse(root, "eos_token_id", "more than %d end tokens", MODEL_MAX_END_TOKENS);
            return;
        }
        c->end_tokens[c->n_end_tokens++] = (int32_t)value;
    }
}

int32_t model_config_read_begin_token(json_object *root, int32_t fallback) {
    int64_t id = json_int_or(root, "bos_token_id", INT32_MIN, INT32_MAX, fallback);
    return id < 0 ? -1 : (int32_t)id;
}

static void read_tokens(json_object *root, model_config *c) {
    const struct family *family = &families[c->family];
    c->begin_token =
        model_config_read_begin_token(root, is_absent(root, "bos_token_id") ? family->begin_token : -1);
    if (is_absent(root, "eos_token_id") && family->end_token >= 0)
        c->end_tokens[c->n_end_tokens++] = family->end_token;
    model_config_read_end_tokens(root, c);
}

status model_config_parse(const char *json, size_t n, const char *name, model_config *out) {
    cJSON *document = NULL;
    status st = json_parse_as_python(json, n, name, &document);
    if (st != STATUS_OK) return st;
    model_config *c = mem_new(1, sizeof *c); /* zeroed, padding too: its bytes may be sent and compared */
    json_object root = json_view(document, name);
    read_family(&root, c);
    read_shape(&root, c);
    read_parts(&root, c);
    read_windows(&root, c);
    read_dual_chunks(&root, c);
    model_config_read_rope(&root, c);
    model_config_check_keys(&root, c);
    read_tokens(&root, c);
    c->sampling = sampling_defaults();
    if (root.st == STATUS_OK) memcpy(out, c, sizeof *out);
    free(c);
    cJSON_Delete(document);
    return root.st;
}

/* ---- files ---- */

typedef status parse_function(const char *json, size_t n, const char *name, model_config *out);

static status read_with(parse_function *parse, const char *dir, const char *file, bool optional,
                        model_config *out) {
    char *path = file_path(dir, file), *bytes = NULL;
    size_t n = 0;
    struct stat info;
    bool is_missing = stat(path, &info) != 0 && (errno == ENOENT || errno == ENOTDIR);
    status st = STATUS_OK;
    if (!is_missing) st = file_read_all(path, MAX_CONFIG_BYTES, &bytes, &n);
    if (!is_missing && st == STATUS_OK) st = parse(bytes, n, path, out);
    if (is_missing && !optional) st = model_dir_refuse(dir, file);
    free(bytes);
    free(path);
    return st;
}

status model_config_load(const char *model_dir, model_config *out) {
    model_config *c = mem_new(1, sizeof *c);
    status st = read_with(model_config_parse, model_dir, "config.json", false, c);
    if (st == STATUS_OK)
        st = read_with(model_config_parse_generation, model_dir, "generation_config.json", true, c);
    if (st == STATUS_OK) memcpy(out, c, sizeof *out);
    free(c);
    return st;
}

/* ---- questions ---- */

int64_t model_config_kept(const model_config *c, int layer, bool saves) {
    return saves ? 0 : model_config_window(c, layer);
}

kv_format model_kv_format(const model_config *config, dtype type, kv_layout layout, int page_tokens) {
    return kv_format_of(type, layout, config->n_kv_heads, config->head_dim, page_tokens);
}

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
