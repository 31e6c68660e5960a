#include "io/weights/weights_index.h"

#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "src/base/memory.h"

enum { MAX_INDEX_BYTES = 64 << 20, MAX_FILES = 4096 };

/* A name that cannot lead out of the model's directory. */
static bool is_plain_name(const char *name) {
    static const char suffix[] = ".safetensors";
    size_t n = strlen(name), n_suffix = sizeof suffix - 1;
    return n > n_suffix && n < 256 && strcmp(name + n - n_suffix, suffix) == 0 && !strchr(name, '/') &&
           json_is_printable(name);
}

static int compare_entries(const void *a, const void *b) {
    return strcmp(((const index_entry *)a)->tensor, ((const index_entry *)b)->tensor);
}

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The map's members, then their files, each once. */
static status collect(json_object *map, weights_index *out) {
    size_t n = (size_t)cJSON_GetArraySize(map->item);
    out->entries = mem_new(n, sizeof *out->entries);
    out->files = mem_new(n, sizeof *out->files);
    const cJSON *item;
    cJSON_ArrayForEach(item, map->item) {
        const char *file = cJSON_IsString(item) ? item->valuestring : "";
        if (!is_plain_name(file) || !json_is_printable(item->string)) {
            json_refuse(map, item->string, "\"%.150s\" is not a plain name of a .safetensors file", file);
            return map->st;
        }
        out->entries[out->n_entries] = (index_entry){.tensor = item->string, .file = file};
        out->files[out->n_entries++] = file;
    }
    qsort(out->entries, n, sizeof *out->entries, compare_entries);
    qsort(out->files, n, sizeof *out->files, compare_texts);
    size_t n_files = 0;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(out->files[i], out->files[n_files - 1]) != 0)
            out->files[n_files++] = out->files[i];
    if (n_files == 0) return status_refuse("%s: weight_map is empty", map->file);
    if (n_files > MAX_FILES)
        return status_refuse("%s: weight_map names more than %d files", map->file, MAX_FILES);
    out->n_files = (int)n_files;
    return STATUS_OK;
}

status weights_index_read(const char *path, weights_index *out) {
    cJSON *document = NULL;
    status st = json_read_file(path, MAX_INDEX_BYTES, &document);
    if (st != STATUS_OK) return st;
    weights_index index = {.document = document};
    json_object root = json_view(document, path);
    json_object map = json_view_member(&root, "weight_map"); /* also refuses a tensor that occurs twice */
    st = map.st == STATUS_OK ? collect(&map, &index) : map.st;
    if (st == STATUS_OK)
        *out = index;
    else
        weights_index_free(&index);
    return st;
}

void weights_index_free(weights_index *index) {
    free(index->entries);
    free(index->files);
    cJSON_Delete(index->document);
    *index = (weights_index){0};
}
