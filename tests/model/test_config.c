/* tests/model/test_config.c: what config.json and generation_config.json may say, and the rope frequencies
 * that follow. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "src/base/notice.h"
#include "src/model/model_config.h"
#include "src/model/rope.h"
#include "tests/fixtures/harness.h"
#include "tests/golden/rope.h"

static const char llama[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"num_hidden_layers\": 6, \"hidden_size\": 256, "
    "\"num_attention_heads\": 8, \"num_key_value_heads\": 2, \"intermediate_size\": 704, \"vocab_size\": "
    "4096, "
    "\"max_position_embeddings\": 8192, \"rms_norm_eps\": 1e-5, \"bos_token_id\": 1, \"eos_token_id\": 2}";

/* The Llama configuration above with the members of `changes` replaced or added; a member "-" is removed. */
static char *change(const char *changes) {
    cJSON *base = cJSON_Parse(llama), *edits = cJSON_Parse(changes);
    CU_ASSERT_PTR_NOT_NULL(edits);
    for (cJSON *edit = edits ? edits->child : NULL, *next; edit; edit = next) {
        next = edit->next;
        char *key = mem_copy_text(edit->string, strlen(edit->string));
        bool removed = cJSON_IsString(edit) && strcmp(edit->valuestring, "-") == 0;
        cJSON_DeleteItemFromObjectCaseSensitive(base, key);
        cJSON *item = cJSON_DetachItemViaPointer(edits, edit);
        if (removed)
            cJSON_Delete(item);
        else
            cJSON_AddItemToObject(base, key, item);
        free(key);
    }
    char *text = cJSON_PrintUnformatted(base);
    cJSON_Delete(base);
    cJSON_Delete(edits);
    return text;
}

static status parse(const char *changes, model_config *out) {
    char *text = change(changes);
    status st = model_config_parse(text, strlen(text), "config.json", out);
    free(text);
    return st;
}

static void test_llama(void) {
    model_config c;
    CHECK_OK(parse("{}", &c));
    CU_ASSERT_EQUAL(c.family, FAMILY_LLAMA);
    CU_ASSERT(c.n_layers == 6 && c.d_model == 256 && c.n_heads == 8 && c.n_kv_heads == 2 && c.head_dim == 32);
    CU_ASSERT(c.d_mlp == 704 && c.vocab_size == 4096 && c.max_positions == 8192);
    CU_ASSERT(c.rms_norm_eps == 1e-5f);
    CU_ASSERT(!c.qkv_bias && !c.output_bias && !c.qk_norm && !c.tied_head);
    CU_ASSERT(c.rope.kind == ROPE_DEFAULT && c.rope.theta == 10000);
    CU_ASSERT(c.begin_token == 1 && c.n_end_tokens == 1 && c.end_tokens[0] == 2);
    CU_ASSERT(model_config_window(&c, 0) == 0);
    CU_ASSERT(c.sampling.temperature == 0);

    CHECK_OK(parse("{\"num_key_value_heads\": null, \"head_dim\": null, \"tie_word_embeddings\": true}", &c));
    CU_ASSERT(c.n_kv_heads == 8 && c.head_dim == 32 && c.tied_head);
    CHECK_OK(parse("{\"head_dim\": 48, \"hidden_size\": 250, \"attention_bias\": true}", &c));
    CU_ASSERT(c.head_dim == 48 && c.qkv_bias && c.output_bias);
    CHECK_OK(parse("{\"architectures\": null, \"model_type\": \"mistral\"}", &c));
    CU_ASSERT(c.family == FAMILY_MISTRAL);
    CHECK_OK(parse("{\"rms_norm_eps\": \"-\", \"max_position_embeddings\": \"-\", \"bos_token_id\": null, "
                   "\"eos_token_id\": [7, 8, 9]}",
                   &c));
    CU_ASSERT(c.rms_norm_eps == 1e-6f && c.max_positions == 2048);
    CU_ASSERT(c.begin_token == -1 && c.n_end_tokens == 3 && c.end_tokens[2] == 9);
}

/* Whether one of the notices from number `first` on holds the part. */
static bool is_noted(int first, const char *part) {
    for (int i = first; i < notice_count(); i++)
        if (strstr(notice_text(i), part)) return true;
    return false;
}

/* What transformers 5 reads in a key that is not there, in null, and in values that mean nothing. */
static void test_defaults(void) {
    model_config c;
    const char *absent = "\"bos_token_id\": \"-\", \"eos_token_id\": \"-\", \"num_key_value_heads\": \"-\"";
    static const struct {
        const char *architecture;
        int n_kv_heads, n_end_tokens;
        int32_t begin_token;
    } families[] = {{"Llama", 64, 1, 1}, {"Mistral", 8, 1, 1}, {"Qwen2", 32, 0, -1}, {"Qwen3", 32, 0, -1}};
    for (int i = 0; i < 4; i++) {
        char changes[300];
        snprintf(changes, sizeof changes,
                 "{\"architectures\": [\"%sForCausalLM\"], %s, \"num_attention_heads\": 64}",
                 families[i].architecture, absent);
        CHECK_OK(parse(changes, &c));
        CU_ASSERT(c.n_kv_heads == families[i].n_kv_heads && c.begin_token == families[i].begin_token);
        CU_ASSERT(c.n_end_tokens == families[i].n_end_tokens &&
                  (c.n_end_tokens == 0 || c.end_tokens[0] == 2));
    }
    CHECK_OK(parse("{\"bos_token_id\": null, \"eos_token_id\": null}", &c));
    CU_ASSERT(c.begin_token == -1 && c.n_end_tokens == 0);
    CHECK_OK(parse("{\"bos_token_id\": -1, \"eos_token_id\": -1}", &c));
    CU_ASSERT(c.begin_token == -1 && c.n_end_tokens == 0);
    CHECK_OK(parse("{\"eos_token_id\": [7, -1]}", &c));
    CU_ASSERT(c.n_end_tokens == 1 && c.end_tokens[0] == 7);
    CHECK_OK(parse("{\"hidden_act\": \"swish\", \"model_type\": \"llama\", \"architectures\": []}", &c));
    CHECK_OK(parse("{\"initializer_range\": 0.02, \"pretraining_tp\": 4, \"attention_dropout\": 0.5}", &c));
}

/* config.json as Python's json module reads it. */
static void test_as_python(void) {
    model_config c;
    int first = notice_count();
    const char *odd =
        "{\"model_type\": \"llama\", \"num_hidden_layers\": 6, \"hidden_size\": 256, "
        "\"num_attention_heads\": 8, \"intermediate_size\": 704, \"vocab_size\": 5, "
        "\"initializer_range\": NaN, \"a\": [-Infinity, Infinity], \"b\": \"NaN \\\" Infinity\", "
        "\"vocab_size\": 6, \"vocab_size\": 7, \"rope_scaling\": {\"type\": \"linear\", "
        "\"factor\": 2, \"factor\": 4}}";
    CHECK_OK(model_config_parse(odd, strlen(odd), "odd.json", &c));
    CU_ASSERT(c.vocab_size == 7 && c.rope.factor == 4);
    CU_ASSERT(is_noted(first, "odd.json: the key \"vocab_size\" occurs twice"));
    CU_ASSERT(is_noted(first, "odd.json: the key \"factor\" occurs twice"));
    const char *used = "{\"model_type\": \"llama\", \"num_hidden_layers\": NaN}";
    CHECK_REFUSED(model_config_parse(used, strlen(used), "odd.json", &c),
                  "num_hidden_layers: an integer from 1 to 1024 "
                  "was expected, but it is not finite");
    CHECK_REFUSED(model_config_parse("[]", 2, "odd.json", &c), "odd.json: an object");
}

/* What is read and not used is said, and what is used is not. */
static void test_notices(void) {
    static const struct {
        const char *changes, *part;
    } cases[] = {
        {"{\"partial_rotary_factor\": 0.5}", "c.json: partial_rotary_factor is not used"},
        {"{\"rope_parameters\": {\"partial_rotary_factor\": 0.25}}",
         "c.json: rope_parameters.partial_rotary_factor is not used"},
        {"{\"rope_scaling\": {\"factor\": 4}}",
         "c.json: rope_scaling.factor is not used with rope_type \"default\""},
        {"{\"rope_scaling\": {\"rope_type\": \"default\", \"type\": \"mrope\"}}",
         "rope_scaling.type \"mrope\" is not used: rope_type \"default\" is"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"rope_parameters\": {\"rope_type\": "
         "\"default\"}}",
         "rope_parameters says another thing than rope_scaling"},
        {"{\"sliding_window\": 100}", "sliding_window is not used"},
        {"{\"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": 0}", "sliding_window is 0"},
        {"{\"auto_map\": {\"AutoModelForCausalLM\": \"modeling_x.X\"}}", "auto_map names code"},
    };
    model_config c;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = change(cases[i].changes);
        int first = notice_count();
        CHECK_OK(model_config_parse(text, strlen(text), "c.json", &c));
        CU_ASSERT(notice_count() == first + 1 && is_noted(first, cases[i].part));
        free(text);
    }
    int first = notice_count();
    CHECK_OK(
        parse("{\"partial_rotary_factor\": 1.0, \"sliding_window\": null, \"rope_interleaved\": false, "
              "\"no_rope_layers\": [1, 1, 1], \"query_pre_attn_scalar\": 32, \"residual_multiplier\": 1.0, "
              "\"attention_multiplier\": 0.17677669, \"num_experts\": 0, \"is_causal\": true, "
              "\"auto_map\": {\"AutoConfig\": \"x.X\"}, \"layer_types\": [\"attention\", \"full_attention\", "
              "\"full_attention\", \"full_attention\", \"full_attention\", \"full_attention\"], "
              "\"rope_theta\": 5000, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, "
              "\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2, \"rope_theta\": 5000}}",
              &c));
    CU_ASSERT(notice_count() == first && c.rope.theta == 5000 && c.rope.kind == ROPE_LINEAR);
    CHECK_OK(parse(
        "{\"dual_chunk_attention_config\": {\"chunk_size\": 64, \"original_max_position_embeddings\": 128}}",
        &c));
    CU_ASSERT(c.dual_chunk_positions == 128);
    CHECK_OK(parse(
        "{\"architectures\": [\"Qwen2ForCausalLM\"], \"use_sliding_window\": false, \"sliding_window\": -1}",
        &c));
    CU_ASSERT(c.window == 0 && notice_count() == first);
}

static void test_windows(void) {
    model_config c;
    const char *mistral = "{\"architectures\": [\"MistralForCausalLM\"]}";
    CHECK_OK(parse(mistral, &c));
    CU_ASSERT(c.family == FAMILY_MISTRAL && model_config_window(&c, 5) == 4096); /* as in transformers */
    CHECK_OK(parse("{\"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": null}", &c));
    CU_ASSERT(model_config_window(&c, 0) == 0);
    CHECK_OK(parse("{\"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": 100}", &c));
    CU_ASSERT(model_config_window(&c, 0) == 100 && model_config_window(&c, 5) == 100);

    CHECK_OK(parse("{\"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": 0}", &c));
    CU_ASSERT(model_config_window(&c, 5) == 0);
    CHECK_OK(parse("{\"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": 100, \"layer_types\": "
                   "[\"sliding_attention\", \"full_attention\", \"full_attention\", \"full_attention\", "
                   "\"full_attention\", \"sliding_attention\"]}",
                   &c));
    CU_ASSERT(model_config_window(&c, 0) == 100 && model_config_window(&c, 1) == 0);

    CHECK_OK(parse("{\"architectures\": [\"Qwen2ForCausalLM\"], \"sliding_window\": 100}", &c));
    CU_ASSERT(c.family == FAMILY_QWEN2 && c.qkv_bias && !c.output_bias && model_config_window(&c, 5) == 0);
    CHECK_OK(parse("{\"architectures\": [\"Qwen2ForCausalLM\"], \"sliding_window\": 100, "
                   "\"use_sliding_window\": true, \"max_window_layers\": 4}",
                   &c));
    CU_ASSERT(model_config_window(&c, 3) == 0 && model_config_window(&c, 4) == 100);
    CHECK_OK(parse(
        "{\"architectures\": [\"Qwen3ForCausalLM\"], \"sliding_window\": 100, \"use_sliding_window\": true, "
        "\"layer_types\": [\"sliding_attention\", \"full_attention\", \"full_attention\", "
        "\"full_attention\", \"full_attention\", \"sliding_attention\"]}",
        &c));
    CU_ASSERT(c.family == FAMILY_QWEN3 && c.qk_norm && !c.qkv_bias && c.head_dim == 128);
    CU_ASSERT(model_config_window(&c, 0) == 100 && model_config_window(&c, 1) == 0);
    CU_ASSERT(model_config_window(&c, 4) == 0 && model_config_window(&c, 5) == 100);
}

/* Each is a configuration that must be refused, with a part of the text that names the culprit. */
static void test_refusals(void) {
    static const struct {
        const char *changes, *part;
    } cases[] = {
        {"{\"architectures\": [\"MixtralForCausalLM\"]}",
         "\"MixtralForCausalLM\" is not supported; supported are LlamaForCausalLM, MistralForCausalLM, "
         "Qwen2ForCausalLM, Qwen3ForCausalLM"},
        {"{\"architectures\": [5]}", "architectures: the name"},
        {"{\"architectures\": \"-\"}", "model_type: the name"},
        {"{\"num_hidden_layers\": 0}",
         "num_hidden_layers: an integer from 1 to 1024 was expected, but it is 0"},
        {"{\"num_hidden_layers\": \"six\"}",
         "num_hidden_layers: an integer from 1 to 1024 was expected, but it is \"six\""},
        {"{\"num_hidden_layers\": 6.5}", "num_hidden_layers"},
        {"{\"num_hidden_layers\": 100000}", "num_hidden_layers"},
        {"{\"num_hidden_layers\": \"-\"}",
         "num_hidden_layers: an integer from 1 to 1024 was expected, but it is missing"},
        {"{\"num_attention_heads\": 0}", "num_attention_heads"},
        {"{\"num_attention_heads\": -8}", "num_attention_heads"},
        {"{\"num_attention_heads\": 7, \"num_key_value_heads\": 7}",
         "num_attention_heads: 7 heads do not divide hidden_size 256"},
        {"{\"num_key_value_heads\": 3}", "num_key_value_heads: 3 does not divide num_attention_heads 8"},
        {"{\"num_key_value_heads\": 0}", "num_key_value_heads"},
        {"{\"num_key_value_heads\": 16}", "num_key_value_heads: 16 does not divide"},
        {"{\"head_dim\": 33}", "head_dim: heads are 33 wide"},
        {"{\"head_dim\": 0}", "head_dim"},
        {"{\"num_attention_heads\": 1, \"num_key_value_heads\": 1, \"hidden_size\": 4096}", "4096 wide"},
        {"{\"hidden_size\": 1e300}", "hidden_size"},
        {"{\"hidden_size\": -256}", "hidden_size"},
        {"{\"hidden_size\": 9007199254740993}", "hidden_size"},
        {"{\"intermediate_size\": [704]}",
         "intermediate_size: an integer from 1 to 16777216 was expected, but it is an array"},
        {"{\"vocab_size\": true}", "vocab_size"},
        {"{\"vocab_size\": null}", "vocab_size"},
        {"{\"max_position_embeddings\": 0}", "max_position_embeddings"},
        {"{\"rms_norm_eps\": -1}", "rms_norm_eps"},
        {"{\"rms_norm_eps\": \"1e-5\"}", "rms_norm_eps"},
        {"{\"tie_word_embeddings\": 1}", "tie_word_embeddings: true or false"},
        {"{\"hidden_act\": \"gelu\"}", "hidden_act: \"gelu\""},
        {"{\"mlp_bias\": true}", "mlp_bias"},
        {"{\"attention_bias\": \"yes\"}", "attention_bias"},
        {"{\"quantization_config\": {\"quant_method\": \"gptq\"}}", "quantization_config: quantized"},
        {"{\"model_type\": \"mistral\"}",
         "model_type: \"mistral\" is another kind of model than architectures says"},
        {"{\"is_causal\": false}", "is_causal: other kinds of model"},
        {"{\"final_logit_softcapping\": 30.0}", "final_logit_softcapping: 30: other kinds of model"},
        {"{\"attn_logit_softcapping\": 50.0}", "attn_logit_softcapping"},
        {"{\"residual_multiplier\": 0.22}", "residual_multiplier"},
        {"{\"attention_multiplier\": 0.5}", "attention_multiplier"},
        {"{\"query_pre_attn_scalar\": 256}", "query_pre_attn_scalar"},
        {"{\"no_rope_layers\": [1, 1, 0, 1, 1, 1]}", "no_rope_layers"},
        {"{\"mlp_multipliers\": [1.0, 0.5]}", "mlp_multipliers"},
        {"{\"num_local_experts\": 8}", "num_local_experts: 8: "},
        {"{\"per_layer_config\": {\"0\": {}}}", "per_layer_config"},
        {"{\"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\", "
         "\"full_attention\", "
         "\"full_attention\", \"full_attention\"]}",
         "layer_types: layer 1: a LlamaForCausalLM has no sliding_attention"},
        {"{\"partial_rotary_factor\": 0.5, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
         "config.json: partial_rotary_factor: rotating only a part"},
        {"{\"rope_theta\": 5000, \"rope_parameters\": {\"rope_theta\": 6000}}",
         "rope_parameters: rope_theta is 6000 in it, but 5000 outside"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"rope_parameters\": {\"rope_theta\": "
         "6000}}",
         "rope_parameters: its rope_theta is 6000, but with rope_scaling it is 10000"},
        {"{\"rope_theta\": 1, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}}", "rope_theta above 1"},
        {"{\"rope_theta\": 0}", "rope_theta"},
        {"{\"rope_theta\": \"big\"}", "rope_theta"},
        {"{\"rope_scaling\": 4}", "rope_scaling: an object"},
        {"{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}}",
         "rope_scaling.rope_type: \"dynamic\" is not supported"},
        {"{\"rope_scaling\": {\"rope_type\": \"longrope\"}}", "\"longrope\""},
        {"{\"rope_parameters\": {\"rope_type\": \"proportional\"}}",
         "rope_parameters.rope_type: \"proportional\""},
        {"{\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}}",
         "differ between layers"},
        {"{\"rope_scaling\": {\"type\": \"linear\"}}",
         "rope_scaling.factor: a number from 1e-06 to 1e+06 was expected, but it is missing"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}", "rope_scaling.factor"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": \"4\"}}", "rope_scaling.factor"},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
         "\"high_freq_factor\": 4}}",
         "rope_scaling.high_freq_factor"},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"high_freq_factor\": 4}}",
         "rope_scaling.low_freq_factor"},
        {"{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8, \"beta_fast\": 1, \"beta_slow\": 2}}",
         "rope_scaling.beta_fast"},
        {"{\"rope_scaling\": {\"rope_type\": \"yarn\", \"original_max_position_embeddings\": 1.5}}",
         "rope_scaling.original_max_position_embeddings"},
        {"{\"original_max_position_embeddings\": \"x\", \"rope_scaling\": {\"rope_type\": \"yarn\"}}",
         "config.json: original_max_position_embeddings"},
        {"{\"bos_token_id\": \"<s>\"}", "bos_token_id"},
        {"{\"eos_token_id\": \"</s>\"}", "eos_token_id: a token id"},
        {"{\"eos_token_id\": [2, \"x\"]}", "eos_token_id"},
        {"{\"eos_token_id\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}",
         "eos_token_id: more than 32"},
        {"{\"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": -1}", "sliding_window"},
        {"{\"architectures\": [\"Qwen3ForCausalLM\"], \"layer_types\": [\"full_attention\"]}",
         "layer_types: an array"},
        {"{\"architectures\": [\"Qwen3ForCausalLM\"], \"layer_types\": [\"full_attention\", "
         "\"linear_attention\", "
         "\"full_attention\", \"full_attention\", \"full_attention\", \"full_attention\"]}",
         "layer_types: layer 1: \"linear_attention\""},
        {"{\"architectures\": [\"Qwen3ForCausalLM\"], \"layer_types\": [\"full_attention\", "
         "\"full_attention\", "
         "\"sliding_attention\", \"full_attention\", \"full_attention\", \"full_attention\"]}",
         "layer_types: layer 2: sliding_attention, but no sliding_window"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        model_config c, before;
        memset(&c, 7, sizeof c);
        memcpy(&before, &c, sizeof c);
        CHECK_REFUSED(parse(cases[i].changes, &c), cases[i].part);
        CU_ASSERT(strstr(status_text(), "config.json: ") == status_text());
        CU_ASSERT(!strchr(status_text(), '\n'));
        CU_ASSERT(memcmp(&before, &c, sizeof c) == 0); /* outputs only on success */
    }
}

static status parse_generation(const char *json, model_config *config) {
    return model_config_parse_generation(json, strlen(json), "generation_config.json", config);
}

static void test_generation(void) {
    model_config c;
    CHECK_OK(parse("{}", &c));
    CHECK_OK(parse_generation(
        "{\"eos_token_id\": [5, 6], \"do_sample\": true, \"temperature\": 0.6, \"top_p\": 0.9, "
        "\"top_k\": 20, \"repetition_penalty\": 1.05}",
        &c));
    CU_ASSERT(c.n_end_tokens == 2 && c.end_tokens[0] == 5 && c.end_tokens[1] == 6 && c.begin_token == 1);
    CU_ASSERT(c.sampling.temperature == 0.6 && c.sampling.top_p == 0.9 && c.sampling.top_k == 20);
    CU_ASSERT(c.sampling.repetition_penalty == 1.05);
    CHECK_OK(parse_generation("{\"temperature\": 0.6, \"top_p\": 0.9}", &c)); /* no do_sample: greedy */
    CU_ASSERT(c.sampling.temperature == 0 && c.sampling.top_p == 1 && c.n_end_tokens == 2);
    CHECK_OK(parse_generation("{\"do_sample\": true, \"top_k\": -1, \"top_p\": null}", &c));
    CU_ASSERT(c.sampling.temperature == 1 && c.sampling.top_p == 1 && c.sampling.top_k == 0);

    CHECK_REFUSED(parse_generation("{\"do_sample\": \"yes\"}", &c), "do_sample");
    CHECK_REFUSED(parse_generation("{\"eos_token_id\": {}}", &c), "eos_token_id");
    CU_ASSERT(c.sampling.temperature == 1); /* untouched by what was refused */

    /* What an option may replace is judged when it is used. */
    CHECK_OK(
        parse_generation("{\"do_sample\": true, \"temperature\": -1, \"top_p\": \"x\", \"top_k\": 2.5}", &c));
    CU_ASSERT(c.sampling.temperature == -1 && isnan(c.sampling.top_p));
    c.sampling.temperature = 1;
    CHECK_REFUSED(sampling_check(&c.sampling), "top_p must be");
    c.sampling.top_p = 1;
    CHECK_REFUSED(sampling_check(&c.sampling), "top_k must be");

    CHECK_OK(parse_generation("{\"stop_strings\": [\"\\n\\n\", \"END\"]}", &c));
    CU_ASSERT(c.n_stops == 2 && !strcmp(c.stops[0], "\n\n") && !strcmp(c.stops[1], "END"));
    CHECK_OK(parse_generation("{\"stop_strings\": \"x\"}", &c));
    CU_ASSERT(c.n_stops == 1 && !strcmp(c.stops[0], "x"));
    CHECK_REFUSED(parse_generation("{\"stop_strings\": [\"\"]}", &c), "stop_strings: a text");
    CHECK_REFUSED(parse_generation("{\"stop_strings\": "
                                   "\"0123456789012345678901234567890123456789012345678901234567890123\"}",
                                   &c),
                  "stop_strings: more than 16 texts, or one of more than 63 bytes");

    int first = notice_count();
    CHECK_OK(parse_generation("{\"num_beams\": 1, \"no_repeat_ngram_size\": 0, \"bad_words_ids\": null, "
                              "\"suppress_tokens\": [], \"typical_p\": 0.5, \"max_length\": 4096, "
                              "\"token_healing\": false, \"temperature\": 0.6}",
                              &c));
    CU_ASSERT(notice_count() == first);
    CHECK_OK(parse_generation("{\"num_beams\": 4, \"no_repeat_ngram_size\": 3, \"bad_words_ids\": [[0]], "
                              "\"suppress_tokens\": [0], \"typical_p\": 0.5, \"do_sample\": true}",
                              &c));
    CU_ASSERT(notice_count() == first + 1);
    CU_ASSERT(is_noted(first, "generation_config.json: not used: suppress_tokens, bad_words_ids, "
                              "no_repeat_ngram_size, num_beams, typical_p ("));
}

static void test_load(void) {
    char dir[300], path[400];
    snprintf(dir, sizeof dir, "%s", harness_temp_dir());
    model_config c;
    CHECK_REFUSED(model_config_load(dir, &c), "config.json is missing");
    snprintf(path, sizeof path, "%s/config.json", dir);
    harness_write_file(path, llama, sizeof llama - 1);
    CHECK_OK(model_config_load(dir, &c));
    CU_ASSERT(c.end_tokens[0] == 2);
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    harness_write_file(path, "{\"eos_token_id\": 9}", 19);
    CHECK_OK(model_config_load(dir, &c));
    CU_ASSERT(c.end_tokens[0] == 9);
    harness_write_file(path, "{\"eos_token_id\": 9", 18);
    CHECK_REFUSED(model_config_load(dir, &c), "generation_config.json: not valid JSON");
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    harness_write_file(path, pointer, sizeof pointer - 1);
    CHECK_REFUSED(model_config_load(dir, &c), "generation_config.json: this is a Git LFS pointer");
    remove(path);

    char text[400];
    CHECK_OK(parse("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}}", &c));
    model_config_describe(&c, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text,
                           "LlamaForCausalLM: 6 layers, width 256, 8 query and 2 KV heads of 32, MLP 704, "
                           "vocabulary 4096, own head, rope 10000 linear x4, context 8192");
}

static int ulps(float a, float b) {
    int32_t i, j;
    memcpy(&i, &a, sizeof i);
    memcpy(&j, &b, sizeof j);
    return abs(i - j);
}

/* Against transformers, see golden/make_rope.py. */
static void test_rope(void) {
    int exact = 0, all = 0;
    for (size_t i = 0; i < sizeof rope_golden / sizeof *rope_golden; i++) {
        const struct rope_golden *golden = &rope_golden[i];
        model_config c;
        if (!CHECK_OK(model_config_parse(golden->config, strlen(golden->config), golden->name, &c))) continue;
        CU_ASSERT_EQUAL(c.head_dim, 2 * golden->n);
        float inv_freq[64], factor;
        rope_inverse_frequencies(&c, inv_freq, &factor);
        CU_ASSERT_EQUAL(factor, golden->factor);
        for (int k = 0; k < golden->n; k++) {
            int distance = ulps(inv_freq[k], golden->inv_freq[k]);
            if (distance > 1)
                printf("%s: pair %d is %a, not %a\n", golden->name, k, (double)inv_freq[k],
                       (double)golden->inv_freq[k]);
            CU_ASSERT(distance <= 1);
            exact += distance == 0;
            all++;
        }
    }
    if (harness_rank() == 0)
        printf("rope: %d of %d frequencies equal those of transformers bit for bit\n", exact, all);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"llama", test_llama},
                           {"defaults", test_defaults},
                           {"as python", test_as_python},
                           {"notices", test_notices},
                           {"windows", test_windows},
                           {"refusals", test_refusals},
                           {"generation", test_generation},
                           {"load", test_load},
                           {"rope", test_rope},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "config", tests);
}
