/* src/model/model_config.h: the shape of a model, from the config.json and generation_config.json of its
 * directory.
 *
 * Families: Llama 2 and 3.x and what is built like them (SmolLM), Mistral, Qwen2/2.5, Qwen3. Keys and
 * defaults are those of Hugging Face transformers 5, and of the older form that most published models have.
 * What would change the arithmetic and is not supported here is refused by name; what transformers does not
 * use either is noted. The structure is plain data: ranks may send its bytes to each other. All functions are
 * Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "src/base/status.h"

enum { MODEL_MAX_LAYERS = 1024, MODEL_MAX_END_TOKENS = 32, MODEL_MAX_STOPS = 16, MODEL_STOP_BYTES = 64 };

typedef enum model_family { FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_QWEN2, FAMILY_QWEN3 } model_family;

typedef enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN } rope_kind;

/* Parameters of rope.h; those that the kind does not use are 0. */
typedef struct rope_config {
    rope_kind kind;
    double theta;
    double factor;                            /* linear, llama3, yarn */
    double original_positions;                /* llama3, yarn: context of the training before scaling */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    double attention_factor;                  /* yarn; 0: follows from factor and the next two */
    double mscale, mscale_all_dim;            /* yarn; 0: not given */
    bool truncate;                            /* yarn: whole dimensions bound the ramp */
} rope_config;

typedef struct model_config {
    model_family family;
    int n_layers;
    int d_model;                       /* D */
    int n_heads, n_kv_heads, head_dim; /* H, G, K: H % G == 0, K even */
    int d_mlp;                         /* F */
    int vocab_size;                    /* V */
    float rms_norm_eps;
    bool qkv_bias, output_bias; /* attention: biases of q, k and v, and of the output matrix */
    bool qk_norm;               /* q and k are normalised per head */
    bool tied_head;             /* the head is the embedding; model_check_files looks whether it is so */
    rope_config rope;
    int64_t max_positions;              /* context that the model was made for */
    int64_t dual_chunk_positions;       /* beyond them it was made for another attention; 0: it was not */
    int64_t window;                     /* of the windowed layers; 0: none is windowed */
    bool is_windowed[MODEL_MAX_LAYERS]; /* per layer */
    int32_t begin_token;                /* -1: none */
    int n_end_tokens;                   /* generation ends with any of them */
    int32_t end_tokens[MODEL_MAX_END_TOKENS];
    sampling_options sampling; /* the model's own advice, or sampling_defaults(): not checked */
    int n_stops;               /* texts that end generation, as the model advises */
    char stops[MODEL_MAX_STOPS][MODEL_STOP_BYTES];
} model_config;

/* Read config.json and, when it is there, generation_config.json, whose end tokens replace those of the
 * first. Refuses, naming the file and the key, or what was given instead of a model's directory. */
status model_config_load(const char *model_dir, model_config *out);

/* The same from the bytes of a config.json; `name` is for messages. */
status model_config_parse(const char *json, size_t n, const char *name, model_config *out);

/* Let a generation_config.json replace end tokens, sampling defaults and stop texts. Sampling is greedy
 * unless do_sample is true; filters that are absent are off. Values that sampling_check refuses are kept as
 * they are, as an option may replace them. What would change the text and is not done is named in a NOTE. */
status model_config_parse_generation(const char *json, size_t n, const char *name, model_config *config);

/* A row at position p of this layer sees positions above p - window; 0: all up to p. */
int64_t model_config_window(const model_config *config, int layer);

/* Of how many positions this layer keeps K and V: of its window, or of all where it has none (0); a run that
 * saves keeps all, as a snapshot goes on from any of its positions. */
int64_t model_config_kept(const model_config *config, int layer, bool saves);

/* How its K and V are kept, in elements of this type, in this layout and pages of so many positions. */
kv_format model_kv_format(const model_config *config, dtype type, kv_layout layout, int page_tokens);

/* "LlamaForCausalLM" and the like. */
const char *model_family_name(model_family family);

/* One line for people: family, shape, rope, window. */
void model_config_describe(const model_config *config, char *text, size_t bytes);
