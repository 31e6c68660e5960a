/* tests/model/test_model_check.c: what a model's files hold beside what its config.json says, and what is
 * said of paths that are no model's directory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/weights/model_dir.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/model/model.h"
#include "tests/fixtures/harness.h"

enum { D = 4, MLP = 6, V = 8, N_LAYERS = 2 };

static void write_text(const char *dir, const char *file, const char *text) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    harness_write_file(path, text, strlen(text));
}

/* A safetensors file in the making: all values of a tensor are one number. */
typedef struct made_file {
    text_buffer header, data;
    const char *type; /* as safetensors calls it */
} made_file;

static void add(made_file *f, const char *name, int n_rows, int n_cols, uint16_t value) {
    char entry[300], shape[40];
    int width = strcmp(f->type, "F32") == 0 ? 4 : 2;
    size_t n = (size_t)n_rows * (size_t)(n_cols ? n_cols : 1), begin = f->data.n;
    for (size_t i = 0; i < n; i++) {
        if (width == 4) text_append(&f->data, "\0\0", 2);
        text_append(&f->data, (const char *)&value, 2);
    }
    snprintf(shape, sizeof shape, n_cols ? "%d, %d" : "%d", n_rows, n_cols);
    snprintf(entry, sizeof entry,
             "%c\"%s\": {\"dtype\": \"%s\", \"shape\": [%s], \"data_offsets\": [%zu, %zu]}",
             f->header.n ? ',' : '{', name, f->type, shape, begin, f->data.n);
    text_append(&f->header, entry, strlen(entry));
}

/* The tensors of a tiny Llama. */
static void add_model(made_file *f, const char *type) {
    static const struct {
        const char *name;
        int n_rows, n_cols;
    } parts[] = {{"input_layernorm", D, 0},  {"post_attention_layernorm", D, 0},
                 {"self_attn.q_proj", D, D}, {"self_attn.k_proj", D, D},
                 {"self_attn.v_proj", D, D}, {"self_attn.o_proj", D, D},
                 {"mlp.gate_proj", MLP, D},  {"mlp.up_proj", MLP, D},
                 {"mlp.down_proj", D, MLP}};
    f->type = type;
    add(f, "model.embed_tokens.weight", V, D, 0x3F80);
    add(f, "model.norm.weight", D, 0, 0x3F80);
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            char name[100];
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, parts[i].name);
            add(f, name, parts[i].n_rows, parts[i].n_cols, 0x3F80);
        }
}

/* Write the file, and compare it with the tiny config; sums up the digest where that is good. */
static status check(made_file *f, bool is_tied, precision prec, model_config *c, uint64_t digest[2]) {
    const char *dir = harness_fresh_dir();
    char config[400], path[400];
    snprintf(config, sizeof config,
             "{\"model_type\": \"llama\", \"num_hidden_layers\": %d, \"hidden_size\": %d, "
             "\"num_attention_heads\": 1, "
             "\"intermediate_size\": %d, \"vocab_size\": %d, \"tie_word_embeddings\": %s}",
             N_LAYERS, D, MLP, V, is_tied ? "true" : "false");
    CHECK_OK(model_config_parse(config, strlen(config), "config.json", c));
    text_append(&f->header, "}", 1);
    text_buffer file = {0};
    uint64_t length = f->header.n;
    text_append(&file, (const char *)&length, 8);
    text_append(&file, f->header.data, f->header.n);
    text_append(&file, f->data.data, f->data.n);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    harness_write_file(path, file.data, file.n);
    free(file.data);
    free(f->header.data);
    free(f->data.data);
    *f = (made_file){0};
    weights *w = NULL;
    if (!CHECK_OK(weights_open(dir, &w))) return STATUS_FAILED;
    status st = model_check_files(c, prec, w);
    device *dev = NULL;
    model *m = NULL;
    trace t;
    slice all = {0, N_LAYERS, N_LAYERS};
    digest[0] = digest[1] = 0;
    if (st == STATUS_OK && CHECK_OK(cpu_device_open(prec, 1, "portable", &dev)))
        CHECK_OK(model_open(c, all, 4, w, dev, &t, digest, &m));
    model_close(m);
    if (dev) dev->ops->close(dev);
    weights_close(w);
    return st;
}

static bool is_noted(int first, const char *part) {
    return notice_count() == first + 1 && strstr(notice_text(first), part);
}

/* tie_word_embeddings, and both matrices or one of them in the file. */
static void test_tied_head(void) {
    made_file f = {0};
    model_config c;
    uint64_t tied[2], same[2], other[2], alone[2];
    int first = notice_count();
    add_model(&f, "BF16");
    CHECK_OK(check(&f, true, PRECISION_BF16, &c, tied));
    CU_ASSERT(c.tied_head);

    add_model(&f, "BF16");
    add(&f, "lm_head.weight", V, D, 0x3F80);
    CHECK_OK(check(&f, true, PRECISION_BF16, &c, same));
    CU_ASSERT(c.tied_head && notice_count() == first && memcmp(tied, same, sizeof tied) == 0);

    add_model(&f, "BF16");
    add(&f, "lm_head.weight", V, D, 0x4000);
    CHECK_OK(check(&f, true, PRECISION_BF16, &c, other));
    CU_ASSERT(!c.tied_head && is_noted(first, "lm_head.weight is another matrix than the embedding"));
    CU_ASSERT(memcmp(tied, other, sizeof tied) != 0);

    f.type = "BF16"; /* the one matrix under the other name */
    add_model(&f, "BF16");
    char *name = strstr(f.header.data, "model.embed_tokens.weight");
    memcpy(name, "lm_head.weight\":           ", 27);
    CHECK_OK(check(&f, true, PRECISION_BF16, &c, alone));
    CU_ASSERT(c.tied_head && notice_count() == first + 1);
}

static void test_unread_tensors(void) {
    static const struct {
        const char *name, *refused, *noted;
    } cases[] = {
        {"model.layers.0.self_attn.rotary_emb.inv_freq", NULL, NULL},
        {"model.layers.0.self_attn.q_proj.bias", "1 tensors (model.layers.0.self_attn.q_proj.bias)", NULL},
        {"model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.q_norm.weight", NULL},
        {"model.layers.1.self_attn.q_proj.weight_scale", "q_proj.weight_scale", NULL},
        {"model.layers.1.self_attn.q_proj.lora_A.weight", "lora_A", NULL},
        {"lm_head.bias", "lm_head.bias", NULL},
        {"model.norm.bias", "model.norm.bias", NULL},
        {"model.layers.2.input_layernorm.weight", NULL, "layers 2 to 2 of the files are not used"},
        {"mtp.fc.weight", NULL,
         "1 tensors of the files are not used, as a LlamaForCausalLM has no such parts: mtp.fc"},
        {"visual.a_name_that_is_longer_than_any_that_a_model_of_these_families_has_for_one_of_its_tensors."
         "weight",
         NULL, "not used"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        made_file f = {0};
        model_config c;
        uint64_t digest[2];
        int first = notice_count();
        add_model(&f, "BF16");
        add(&f, cases[i].name, D, 0, 0x3F80);
        status st = check(&f, true, PRECISION_BF16, &c, digest);
        harness_check(__FILE__, __LINE__, st, cases[i].refused ? STATUS_REFUSED : STATUS_OK,
                      cases[i].refused);
        CU_ASSERT(cases[i].noted ? is_noted(first, cases[i].noted) : notice_count() == first);
    }
}

static void test_rounding(void) {
    static const struct {
        const char *dtype;
        precision prec;
        const char *noted;
    } cases[] = {
        {"F32", PRECISION_F32, NULL},
        {"F16", PRECISION_F32, NULL},
        {"BF16", PRECISION_BF16, NULL},
        {"F32", PRECISION_BF16, "stored in f32 are rounded to bf16"},
        {"F16", PRECISION_BF16, "stored in f16 are rounded to bf16"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        made_file f = {0};
        model_config c;
        uint64_t digest[2];
        int first = notice_count();
        add_model(&f, cases[i].dtype);
        CHECK_OK(check(&f, true, cases[i].prec, &c, digest));
        CU_ASSERT(cases[i].noted ? is_noted(first, cases[i].noted) : notice_count() == first);
    }
}

/* Each path with a file in it, if any, and what is said. */
static void test_other_paths(void) {
    static const struct {
        const char *file, *text, *part;
    } cases[] = {
        {"adapter_config.json", "{\"base_model_name_or_path\": \"org/base\"}",
         "this is an adapter of org/base"},
        {"adapter_config.json", "{", "this is an adapter"},
        {"manifest.h5", "x", "this is a snapshot of kvarve, which --resume takes"},
        {"model.Q4_K_M.gguf", "x", "GGUF files are not read"},
        {"pytorch_model-00001-of-00002.bin", "x", "Of pickled weights (pytorch_model-00001-of-00002.bin)"},
        {"consolidated.00.pth", "x", "Of pickled weights (consolidated.00.pth)"},
        {"README.md", "x", ": config.json is missing"},
    };
    char path[400];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *dir = harness_fresh_dir();
        write_text(dir, cases[i].file, cases[i].text);
        CHECK_REFUSED(model_dir_refuse(dir, "config.json"), cases[i].part);
        CU_ASSERT(strstr(status_text(), dir) == status_text());
    }
    const char *dir = harness_fresh_dir();
    write_text(dir, "tokenizer.model", "x");
    CHECK_REFUSED(model_dir_refuse(dir, "tokenizer.json"),
                  "tokenizer.json is missing, and tokenizer.model is not read");
    write_text(dir, "model.gguf", "x");
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    CHECK_REFUSED(model_dir_refuse(path, "config.json"), "model.gguf: GGUF files are not read");
    snprintf(path, sizeof path, "%s/tokenizer.model", dir);
    CHECK_REFUSED(model_dir_refuse(path, "config.json"), "this is a file: give the directory");
    snprintf(path, sizeof path, "%s/snapshots", dir);
    CU_ASSERT(mkdir(path, 0777) == 0);
    CHECK_REFUSED(model_dir_refuse(dir, "config.json"), "GGUF"); /* an empty folder is no cache */
    strcat(path, "/0123abc");
    CU_ASSERT(mkdir(path, 0777) == 0);
    write_text(path, "config.json", "{}");
    CHECK_REFUSED(model_dir_refuse(dir, "config.json"),
                  "the root of a hub's cache: give the directory inside, as ");
    CU_ASSERT_PTR_NOT_NULL(strstr(status_text(), path));

    CHECK_REFUSED(model_dir_refuse("no-org/no-name", "config.json"),
                  "\"hf download no-org/no-name --local-dir DIR\"");
    CHECK_REFUSED(model_dir_refuse("/no/such", "config.json"), "/no/such: no such model directory");
    CHECK_REFUSED(model_dir_refuse("./no/such", "config.json"), "no such model directory");
    CHECK_REFUSED(model_dir_refuse("nosuch", "config.json"), "no such model directory");
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"tied head", test_tied_head},
                           {"unread tensors", test_unread_tensors},
                           {"rounding", test_rounding},
                           {"other paths", test_other_paths},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "model_check", tests);
}
