#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer/bpe.h"

/* What Hugging Face tokenizers knows for BPE but no model of ours needs. */
static void refuse_unsupported(json_object *json) {
    static const char *const texts[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++)
        if (*json_text_or(json, texts[i], "")) json_refuse(json, texts[i], "is not supported");
    if (json_number_or(json, "dropout", 0, 1, 0) != 0)
        json_refuse(json, "dropout", "other than 0 is not supported");
    const char *type = json_text_or(json, "type", "BPE"); /* old files do not say it */
    if (strcmp(type, "BPE") != 0)
        json_refuse(json, "type", "%s is not supported (BPE is)", utf8_quote(type).text);
}

static void parse_options(bpe *model, json_object *json) {
    model->fuse_unk = json_bool_or(json, "fuse_unk", false);
    model->byte_fallback = json_bool_or(json, "byte_fallback", false);
    model->ignore_merges = json_bool_or(json, "ignore_merges", false);
    const char *unk = json_text_or(json, "unk_token", NULL);
    if (!unk) return;
    model->unk_token = mem_copy_text(unk, strlen(unk));
    model->unk_id = vocab_find(&model->voc, unk, strlen(unk));
}

static void find_symbols(bpe *model) {
    for (uint32_t code = 0; code < BPE_N_DIRECT; code++) {
        char text[4];
        model->direct_ids[code] = vocab_find(&model->voc, text, utf8_write(code, text));
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        int n = snprintf(text, sizeof text, "<0x%02X>", byte);
        model->byte_ids[byte] = vocab_find(&model->voc, text, (size_t)n);
    }
}

/* The two parts of a merge: "left right", or ["left", "right"]. */
typedef struct merge_text {
    const char *left, *right;
    size_t n_left, n_right;
} merge_text;

static status read_merge(const cJSON *item, merge_text *out) {
    if (cJSON_IsString(item)) {
        const char *space = strchr(item->valuestring, ' ');
        if (!space || strchr(space + 1, ' '))
            return status_refuse("must be two tokens with a space between them");
        *out = (merge_text){item->valuestring, space + 1, (size_t)(space - item->valuestring),
                            strlen(space + 1)};
        return STATUS_OK;
    }
    const cJSON *left = cJSON_GetArrayItem(item, 0), *right = cJSON_GetArrayItem(item, 1);
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2 || !cJSON_IsString(left) ||
        !cJSON_IsString(right))
        return status_refuse("must be a string or an array of two strings");
    *out = (merge_text){left->valuestring, right->valuestring, strlen(left->valuestring),
                        strlen(right->valuestring)};
    return STATUS_OK;
}

static status find_token(const vocab *voc, const char *content, int32_t *id) {
    *id = vocab_find(voc, content, strlen(content));
    if (*id >= 0) return STATUS_OK;
    return status_refuse("the token %s is not in the vocabulary", utf8_quote(content).text);
}

static status resolve_merge(const vocab *voc, const merge_text *text, merge *out) {
    char *joined = mem_new(text->n_left + text->n_right + 1, 1);
    memcpy(joined, text->left, text->n_left);
    status st = find_token(voc, joined, &out->left);
    memcpy(joined + text->n_left, text->right, text->n_right);
    if (!st) st = find_token(voc, joined + text->n_left, &out->right);
    if (!st) st = find_token(voc, joined, &out->result);
    free(joined);
    return st;
}

/* The symbols with which a token may begin (or end): its first (last) character, and the token itself if
 * it is a symbol other than a character. Writes up to two, -1 for none. */
static void end_symbols(const bpe *model, const char *content, size_t n, int32_t id, bool at_end,
                        int32_t out[2]) {
    size_t at = 0, n_bytes = 0;
    if (at_end)
        for (at = n; at > 0 && ((unsigned char)content[--at] & 0xC0) == 0x80;) {
        }
    if (n) utf8_read(content + at, &n_bytes);
    out[0] = n ? vocab_find(&model->voc, content + at, n_bytes) : -1;
    bool is_byte = model->byte_fallback && n == 6 && !memcmp(content, "<0x", 3);
    out[1] = is_byte || (model->unk_token && id == model->unk_id) ? id : -1;
}

static void add_joints(bpe *model, const merge_text *text, const merge *added) {
    int32_t left[2], right[2];
    end_symbols(model, text->left, text->n_left, added->left, true, left);
    end_symbols(model, text->right, text->n_right, added->right, false, right);
    for (size_t i = 0; i < 4; i++)
        if (left[i / 2] >= 0 && right[i % 2] >= 0)
            merge_table_add_joint(&model->merges, left[i / 2], right[i % 2]);
}

static status parse_merge(bpe *model, const cJSON *item, uint32_t rank) {
    merge_text text = {0};
    merge added = {.rank = rank};
    status st = read_merge(item, &text);
    if (st == STATUS_OK) st = resolve_merge(&model->voc, &text, &added);
    if (st != STATUS_OK) return st;
    merge_table_add(&model->merges, added);
    add_joints(model, &text, &added);
    return STATUS_OK;
}

static void parse_merges(bpe *model, json_object *json) {
    const cJSON *list = json_array(json, "merges"), *item;
    merge_table_init(&model->merges, (size_t)cJSON_GetArraySize(list));
    uint32_t rank = 0;
    cJSON_ArrayForEach(item, list) {
        /* A line of the old merges.txt, which is no merge. */
        if (cJSON_IsString(item) && !strncmp(item->valuestring, "#version", 8)) continue;
        char place[32];
        status st = parse_merge(model, item, rank);
        if (st != STATUS_OK) {
            snprintf(place, sizeof place, "merges[%u]", rank);
            json_adopt(json, place, st);
            return;
        }
        rank++;
    }
}

void bpe_parse(bpe *model, json_object *json) {
    *model = (bpe){.unk_id = BPE_NO_ID};
    refuse_unsupported(json);
    vocab_parse(&model->voc, json);
    if (json->st != STATUS_OK) return;
    parse_options(model, json);
    parse_merges(model, json);
    find_symbols(model);
    word_cache_init(&model->cache);
}
