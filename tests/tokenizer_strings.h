/* tests/tokenizer_strings.h: the random strings of the tokenizer tests, the same as those of class Maker in
 * golden/make_tokenizer_golden.py, which explains them. */
#pragma once

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/utf8.h"
#include "tests/harness.h"

typedef struct string_maker {
    cJSON *parts;      /* strings.json */
    cJSON *tokenizer;  /* tokenizer.json, for its added tokens */
    const char *novel; /* NULL: none */
    size_t n_novel;
} string_maker;

static inline uint64_t below(uint64_t *state, uint64_t n) {
    return harness_random(state) % n;
}

static inline const cJSON *maker_get(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static inline void append_random_char(uint64_t *state, uint32_t first, uint32_t last, text_buffer *out) {
    uint32_t code = first + (uint32_t)below(state, last - first + 1);
    if (code < 0xD800 || code > 0xDFFF) utf8_append(out, code);
}

static inline void append_text_of(const cJSON *value, text_buffer *out) {
    text_append(out, value->valuestring, strlen(value->valuestring));
}

static inline void append_run(const string_maker *maker, uint64_t *state, bool one, text_buffer *out) {
    const cJSON *ranges = maker_get(maker->parts, "ranges");
    const cJSON *range = cJSON_GetArrayItem(ranges, (int)below(state, (uint64_t)cJSON_GetArraySize(ranges)));
    uint32_t first = (uint32_t)range->child->valueint, last = (uint32_t)range->child->next->valueint;
    uint64_t n = one ? 1 : 1 + below(state, 8);
    for (uint64_t i = 0; i < n; i++)
        append_random_char(state, first, last, out);
}

static inline void append_list_item(const string_maker *maker, uint64_t *state, const char *name,
                                    bool repeated, text_buffer *out) {
    const cJSON *list = maker_get(maker_get(maker->parts, "lists"), name);
    const cJSON *item = cJSON_GetArrayItem(list, (int)below(state, (uint64_t)cJSON_GetArraySize(list)));
    uint64_t n = repeated ? 1 + below(state, 9) : 1;
    for (uint64_t i = 0; i < n; i++)
        append_text_of(item, out);
}

static inline void append_special(const string_maker *maker, uint64_t *state, text_buffer *out) {
    const cJSON *added = maker_get(maker->tokenizer, "added_tokens");
    int n = cJSON_GetArraySize(added);
    int chosen = (int)below(state, n ? (uint64_t)n : 1);
    if (n)
        append_text_of(maker_get(cJSON_GetArrayItem(added, chosen), "content"), out);
    else
        text_append(out, "<s>", 3);
}

static inline void append_part(const string_maker *maker, uint64_t *state, const char *source,
                               text_buffer *out) {
    if (!strcmp(source, "char") || !strcmp(source, "run")) {
        append_run(maker, state, source[0] == 'c', out);
    } else if (!strcmp(source, "any")) {
        append_random_char(state, 0, 0x10FFFF, out);
    } else if (!strcmp(source, "byte")) {
        char byte = (char)(unsigned char)below(state, 256);
        text_append(out, &byte, 1);
    } else if (!strcmp(source, "letters")) {
        for (uint64_t n = 1 + below(state, 9); n > 0; n--) {
            char letter = (char)('a' + below(state, 26));
            text_append(out, &letter, 1);
        }
    } else if (!strcmp(source, "special")) {
        append_special(maker, state, out);
    } else if (!strcmp(source, "novel")) {
        size_t start = below(state, maker->n_novel), n = 1 + below(state, 400);
        if (n > maker->n_novel - start) n = maker->n_novel - start;
        text_append(out, maker->novel + start, n);
    } else if (!strcmp(source, "nul")) {
        text_append(out, "", 1);
    } else {
        bool repeated = !strcmp(source, "repeat");
        append_list_item(maker, state, repeated ? "spaces" : source, repeated, out);
    }
}

static inline void append_string(const string_maker *maker, uint64_t *state, text_buffer *out) {
    const cJSON *recipes = maker_get(maker->parts, "recipes"), *recipe;
    if (maker->novel && below(state, 4) == 0)
        recipe = maker_get(maker->parts, "novel_recipe");
    else
        recipe = cJSON_GetArrayItem(recipes, (int)below(state, (uint64_t)cJSON_GetArraySize(recipes)));
    const cJSON *sources = maker_get(recipe, "of");
    uint64_t n = below(state, (uint64_t)maker_get(recipe, "most")->valueint + 1);
    for (uint64_t i = 0; i < n; i++) {
        int chosen = (int)below(state, (uint64_t)cJSON_GetArraySize(sources));
        append_part(maker, state, cJSON_GetArrayItem(sources, chosen)->valuestring, out);
    }
}
