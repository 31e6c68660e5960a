#include "io/weights/model_dir.h"

#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/files.h"
#include "io/json.h"
#include "src/base/memory.h"

enum { PATH_BYTES = 512, MAX_ADAPTER_BYTES = 16 << 20 };

/* The first path of this pattern within the directory. */
static bool find(const char *dir, const char *pattern, char *found) {
    char *path = file_path(dir, pattern);
    glob_t list;
    bool is_there = glob(path, 0, NULL, &list) == 0;
    if (is_there) snprintf(found, PATH_BYTES, "%s", list.gl_pathv[0]);
    globfree(&list);
    free(path);
    return is_there;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

bool model_dir_is_name(const char *name) {
    static const char *const names[] = {
        "config.json",     "generation_config.json",       "tokenizer.json",     "tokenizer_config.json",
        "tokenizer.model", "special_tokens_map.json",      "added_tokens.json",  "vocab.json",
        "merges.txt",      "model.safetensors.index.json", "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return ends_with(name, ".safetensors");
}

/* Like "org/name": what hubs call a model. */
static bool is_hub_name(const char *text) {
    const char *slash = strchr(text, '/');
    return slash && slash > text && slash[1] && !strchr(slash + 1, '/') && text[0] != '.';
}

static status refuse_path(const char *path) {
    if (is_hub_name(path))
        return status_refuse(
            "%s: no such directory. Models are not fetched by their names: download this one, as "
            "with \"hf download %s --local-dir DIR\", and give DIR",
            path, path);
    return status_refuse("%s: no such model directory", path);
}

static const char gguf_advice[] = "GGUF files are not read: take the model in its safetensors form";

static status refuse_file(const char *path) {
    if (ends_with(path, ".gguf")) return status_refuse("%s: %s", path, gguf_advice);
    return status_refuse(
        "%s: this is a file: give the directory of the model, with config.json, tokenizer.json and "
        "*.safetensors",
        path);
}

/* The model that an adapter belongs to, as it says. */
static void find_base(const char *dir, char *base, size_t bytes) {
    char *path = file_path(dir, "adapter_config.json");
    cJSON *document = NULL;
    if (json_read_file(path, MAX_ADAPTER_BYTES, &document) == STATUS_OK) {
        json_object root = json_view(document, path);
        snprintf(base, bytes, " of %.200s", json_text_or(&root, "base_model_name_or_path", "another model"));
    }
    cJSON_Delete(document);
    free(path);
}

static status refuse_tokenizer(const char *dir) {
    static const char *const others[] = {"tokenizer.model", "tekken.json", "vocab.json"};
    char found[PATH_BYTES];
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (find(dir, others[i], found))
            return status_refuse(
                "%s: tokenizer.json is missing, and %s is not read: convert it with transformers "
                "(AutoTokenizer.from_pretrained, then save_pretrained)",
                dir, others[i]);
    return status_refuse("%s: tokenizer.json is missing", dir);
}

status model_dir_refuse(const char *dir, const char *missing) {
    struct stat info;
    if (stat(dir, &info) != 0) return refuse_path(dir);
    if (!S_ISDIR(info.st_mode)) return refuse_file(dir);
    char found[PATH_BYTES];
    if (find(dir, "snapshots/*/config.json", found)) {
        *strrchr(found, '/') = '\0';
        return status_refuse("%s: this is the root of a hub's cache: give the directory inside, as %s", dir,
                             found);
    }
    if (find(dir, "manifest.h5", found))
        return status_refuse(
            "%s: this is a snapshot of kvarve, which --resume takes: give the model's directory", dir);
    if (find(dir, "adapter_config.json", found)) {
        char base[240] = "";
        find_base(dir, base, sizeof base);
        return status_refuse(
            "%s: %s is missing: this is an adapter%s (LoRA or the like): merge it into its model "
            "first (with PEFT: merge_and_unload, then save_pretrained), and give the merged model",
            dir, missing, base);
    }
    if (strcmp(missing, "tokenizer.json") == 0) return refuse_tokenizer(dir);
    if (find(dir, "*.gguf", found)) return status_refuse("%s: %s is missing: %s", dir, missing, gguf_advice);
    static const char *const pickled[] = {"pytorch_model*.bin", "consolidated*.pth", "*.pt"};
    for (size_t i = 0; i < sizeof pickled / sizeof *pickled; i++)
        if (find(dir, pickled[i], found))
            return status_refuse(
                "%s: %s is missing. Of pickled weights (%s) nothing is read: convert the model with "
                "transformers (from_pretrained, then save_pretrained)",
                dir, missing, strrchr(found, '/') + 1);
    if (find(dir, "*/config.json", found)) {
        *strrchr(found, '/') = '\0';
        return status_refuse("%s: %s is missing, but there is a model in %s: give that directory", dir,
                             missing, found);
    }
    return status_refuse("%s: %s is missing", dir, missing);
}
