#include "src/tokenizer/vocab.h"

#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL /* keys are short */
#include <xxhash.h>

#include "src/base/utf8.h"

int32_t vocab_find(const vocab *voc, const char *content, size_t n) {
    uint64_t hash = XXH3_64bits(content, n);
    for (const hash_entry *e = NULL; (e = hash_map_next(&voc->ids, hash, e));) {
        const int32_t id = (int32_t)e->value - 1;
        const vocab_entry *entry = &voc->entries[id];
        if ((size_t)entry->n == n && memcmp(voc->text.data + entry->at, content, n) == 0) return id;
    }
    return -1;
}

static void add(vocab *voc, json_object *owner, const char *content, int32_t id) {
    size_t n = strlen(content);
    if (vocab_find(voc, content, n) >= 0)
        json_refuse(owner, "vocab", "the key %s occurs twice", utf8_quote(content).text);
    if (voc->entries[id].n >= 0)
        json_refuse(owner, "vocab", "%s has the id %d of another token", utf8_quote(content).text, id);
    voc->entries[id] = (vocab_entry){.at = voc->text.n, .n = (int32_t)n};
    text_append(&voc->text, content, n);
    hash_map_add(&voc->ids, XXH3_64bits(content, n), (uint64_t)id + 1);
}

/* Looked at as it is: a view would look for doubled keys once more, and they are many. */
void vocab_parse(vocab *voc, json_object *owner) {
    const cJSON *tokens = json_find(owner, "vocab"), *item;
    if (!cJSON_IsObject(tokens)) json_refuse(owner, "vocab", "an object {...} was expected");
    voc->n_tokens = cJSON_GetArraySize(tokens);
    /* Ids may have gaps, but not so wide that a small file asks for much memory. */
    const int64_t most = 2 * (int64_t)voc->n_tokens + 65535;
    cJSON_ArrayForEach(item, tokens) {
        int64_t id = -1;
        if (!json_item_is_int(item, 0, most, &id))
            json_refuse(owner, "vocab", "the id of %s must be a whole number up to %lld",
                        utf8_quote(item->string).text, (long long)most);
        if (id >= voc->n_ids) voc->n_ids = (int32_t)id + 1;
    }
    if (owner->st != STATUS_OK) return;
    voc->entries = mem_new((size_t)voc->n_ids, sizeof *voc->entries);
    for (int32_t id = 0; id < voc->n_ids; id++)
        voc->entries[id].n = -1;
    voc->ids = hash_map_new((size_t)voc->n_tokens);
    text_append(&voc->text, "", 0);
    cJSON_ArrayForEach(item, tokens) add(voc, owner, item->string, item->valueint);
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
