#include "src/tokenizer/config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/files.h"
#include "io/json.h"
#include "src/base/notice.h"

enum { CONFIG_MAX_BYTES = 64 << 20 };

/* One end of a text: what is said of it, and how it is done. */
typedef struct text_end {
    const char *flag, *token, *usual, *where;
    int32_t (*get)(const tokenizer *);
    void (*put)(tokenizer *, int32_t);
} text_end;

static const text_end begin = {"add_bos_token", "bos_token",           "<s>",
                               "before",        tokenizer_begin_token, tokenizer_put_begin},
                      end = {"add_eos_token", "eos_token",         "</s>",
                             "behind",        tokenizer_end_token, tokenizer_put_end};

static bool is_class(const char *name, const char *class_name) {
    size_t n = strlen(class_name);
    return !strncmp(name, class_name, n) && (!name[n] || !strcmp(name + n, "Fast"));
}

/* Do these classes of transformers have the flags? `name` is NULL where the model's family chooses: they are
 * those of Llama and Mistral then. */
static bool has_flags(const char *name) {
    static const char *const classes[] = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
                                          "CohereTokenizer", "GPTNeoXTokenizer"};
    bool found = name == NULL;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        found = found || is_class(name, classes[i]);
    return found;
}

/* The content of a token, which is a text or an object; NULL when absent. */
static const char *token_content(const json_object *root, const char *key) {
    const cJSON *item = json_find(root, key);
    if (cJSON_IsObject(item)) item = cJSON_GetObjectItemCaseSensitive(item, "content");
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

static void apply_flag(const text_end *e, json_object *root, tokenizer *tok) {
    const char *class_name = json_text_or(root, "tokenizer_class", NULL);
    const cJSON *flag = json_find(root, e->flag);
    bool is_put = e->get(tok) >= 0, is_default = !flag && e == &begin && class_name;
    bool wanted = cJSON_IsTrue(flag) || (is_default && is_class(class_name, "CodeLlamaTokenizer"));
    if (cJSON_IsFalse(flag) && is_put)
        notice_add("%s: %s is false, but tokenizer.json puts a token %s every text: it stays there, as with "
                   "transformers 5 (not with 4)",
                   root->file, e->flag, e->where);
    if (!wanted && is_default && !is_put && !is_class(class_name, "GPTNeoXTokenizer"))
        notice_add(
            "%s: no %s, and tokenizer.json puts no token before a text: none is put, as with transformers "
            "5 (a %s of 4 put one)",
            root->file, e->flag, class_name);
    if (!wanted || is_put) return;
    const char *named = token_content(root, e->token), *content = named ? named : e->usual;
    int32_t id = tokenizer_find(tok, content);
    if (id < 0) {
        notice_add("%s: %s is true, but %s is not in tokenizer.json (\"%s\"): none is put %s texts",
                   root->file, e->flag, content, e->token, e->where);
        return;
    }
    e->put(tok, id);
    if (flag)
        notice_add(
            "%s: %s puts %s %s every text, as with transformers 4; 5 leaves it out, as tokenizer.json does",
            root->file, e->flag, content, e->where);
}

void tokenizer_config_apply(const char *model_dir, tokenizer *tok) {
    char *path = file_path(model_dir, "tokenizer_config.json");
    cJSON *document = NULL;
    if (access(path, F_OK) == 0) {
        status st = json_read_file(path, CONFIG_MAX_BYTES, &document);
        json_object root = {0};
        if (st == STATUS_OK) root = json_view(document, path);
        if (st == STATUS_OK && root.st == STATUS_OK &&
            has_flags(json_text_or(&root, "tokenizer_class", NULL))) {
            apply_flag(&begin, &root, tok);
            apply_flag(&end, &root, tok);
        }
        if (st != STATUS_OK || root.st != STATUS_OK) notice_add("not read: %s", status_text());
    }
    cJSON_Delete(document);
    free(path);
}
