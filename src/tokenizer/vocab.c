#include "src/tokenizer/vocab.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "src/tokenizer/json.h"

int32_t vocab_find(const vocab *voc, const char *content, size_t n) {
    uint64_t hash = XXH3_64bits(content, n);
    for (const hash_entry *e = NULL; (e = hash_map_next(&voc->ids, hash, e));) {
        const int32_t id = (int32_t)e->value - 1;
        const vocab_entry *entry = &voc->entries[id];
        if ((size_t)entry->n == n && memcmp(voc->text.data + entry->at, content, n) == 0) return id;
    }
    return -1;
}

static status vocab_add(vocab *voc, const char *content, int32_t id) {
    size_t n = strlen(content);
    if (vocab_find(voc, content, n) >= 0)
        return status_refuse("%s is there twice", tokenizer_json_quote_text(content).text);
    vocab_entry *entry = &voc->entries[id];
    if (entry->n >= 0)
        return status_refuse("%s has the id %d of another token", tokenizer_json_quote_text(content).text,
                             id);
    *entry = (vocab_entry){.at = voc->text.n, .n = (int32_t)n};
    text_append(&voc->text, content, n);
    hash_map_add(&voc->ids, XXH3_64bits(content, n), (uint64_t)id + 1);
    return STATUS_OK;
}

/* Ids may have gaps, but not so wide that a small file asks for much memory. */
static status count_ids(const cJSON *json, int32_t *n_tokens, int32_t *n_ids) {
    int64_t n = cJSON_GetArraySize(json), limit = 2 * n + 65536;
    *n_ids = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, json) {
        int32_t id;
        if (!tokenizer_json_is_id(item, &id) || id >= limit)
            return status_refuse("the id of %s must be a whole number below %lld",
                                 tokenizer_json_quote_text(item->string).text, (long long)limit);
        if (id >= *n_ids) *n_ids = id + 1;
    }
    *n_tokens = (int32_t)n;
    return STATUS_OK;
}

status vocab_parse(vocab *voc, const cJSON *json) {
    status st = count_ids(json, &voc->n_tokens, &voc->n_ids);
    if (st) return st;
    voc->entries = mem_new((size_t)voc->n_ids, sizeof *voc->entries);
    for (int32_t id = 0; id < voc->n_ids; id++)
        voc->entries[id].n = -1;
    voc->ids = hash_map_new((size_t)voc->n_tokens);
    text_append(&voc->text, "", 0);
    const cJSON *item;
    cJSON_ArrayForEach(item, json) {
        st = vocab_add(voc, item->string, item->valueint);
        if (st) return st;
    }
    return STATUS_OK;
}

void vocab_free(vocab *voc) {
    free(voc->text.data);
    free(voc->entries);
    hash_map_free(&voc->ids);
    *voc = (vocab){0};
}

const char *vocab_content(const vocab *voc, int32_t id, size_t *n) {
    if (id < 0 || id >= voc->n_ids || voc->entries[id].n < 0) return NULL;
    *n = (size_t)voc->entries[id].n;
    return voc->text.data + voc->entries[id].at;
}
