#include "src/tokenizer/template.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/utf8.h"

/* {"SpecialToken": {"id": name}}, whose ids stand in special_tokens.NAME.ids. */
static void parse_special(template *around, json_object *piece, json_object *special_tokens) {
    json_object token = json_view_member(special_tokens, json_text(piece, "id"));
    const cJSON *ids = json_array(&token, "ids"), *item;
    cJSON_ArrayForEach(item, ids) {
        int64_t id = 0;
        if (!json_item_is_int(item, 0, INT32_MAX, &id))
            json_refuse(&token, "ids", "an id must be a whole number");
        token_list_append(&around->items, (int32_t)id);
    }
}

/* {"Sequence": {"id": "A"}}: the text. */
static void parse_sequence(template *around, json_object *piece) {
    static const char *const names[] = {"A"};
    json_choice(piece, "id", names, 1);
    token_list_append(&around->items, TEMPLATE_TEXT);
}

static void parse_processing(template *around, json_object *json) {
    json_object special_tokens = json_view_member(json, "special_tokens"), piece = {0};
    while (json_next_object(json, "single", &piece)) {
        json_object special = json_view_optional(&piece, "SpecialToken"),
                    sequence = json_view_optional(&piece, "Sequence");
        if (special.item)
            parse_special(around, &special, &special_tokens);
        else if (sequence.item)
            parse_sequence(around, &sequence);
        else
            json_refuse(&piece, NULL, "must be a SpecialToken or a Sequence");
    }
}

/* BertProcessing and RobertaProcessing: a token before the text and one behind it, each [name, id]. */
static void parse_pair(template *around, json_object *json) {
    static const char *const keys[] = {"cls", "sep"};
    for (size_t i = 0; i < 2; i++) {
        const cJSON *pair = json_array(json, keys[i]);
        int64_t id = 0;
        if (cJSON_GetArraySize(pair) != 2 || !cJSON_IsString(pair->child) ||
            !json_item_is_int(pair->child->next, 0, INT32_MAX, &id))
            json_refuse(json, keys[i], "must be a token and its id");
        if (i) token_list_append(&around->items, TEMPLATE_TEXT);
        token_list_append(&around->items, (int32_t)id);
    }
}

enum { MAX_ITEMS = 256 };

/* Put what stands around the text already into the place of the text. */
static status put_around(template *around, const template *outer) {
    token_list inner = around->items;
    around->items = (token_list){0};
    for (size_t i = 0; i < outer->items.n; i++) {
        if (outer->items.ids[i] != TEMPLATE_TEXT) token_list_append(&around->items, outer->items.ids[i]);
        for (size_t k = 0; outer->items.ids[i] == TEMPLATE_TEXT && k < inner.n; k++)
            token_list_append(&around->items, inner.ids[k]);
        if (around->items.n > MAX_ITEMS) break;
    }
    free(inner.ids);
    if (around->items.n <= MAX_ITEMS) return STATUS_OK;
    return status_refuse("more than %d tokens and texts are not supported", MAX_ITEMS);
}

static void parse_processor(template *around, json_object *json) {
    const char *type = json_text(json, "type");
    if (strcmp(type, "Sequence") == 0) {
        json_object part = {0};
        while (json_next_object(json, "processors", &part))
            parse_processor(around, &part);
        return;
    }
    if (strcmp(type, "ByteLevel") == 0) return;
    bool is_pair = strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0;
    if (!is_pair && strcmp(type, "TemplateProcessing") != 0)
        json_refuse(json, "type", "%s is not supported", utf8_quote(type).text);
    /* Hugging Face tokenizers fails, or takes each token of the template for a text. */
    if (around->is_template) json_refuse(json, NULL, "%s behind a TemplateProcessing is not supported", type);
    around->is_template = !is_pair;
    template outer = {0};
    if (is_pair)
        parse_pair(&outer, json);
    else
        parse_processing(&outer, json);
    if (json->st == STATUS_OK) json_adopt(json, NULL, put_around(around, &outer));
    template_free(&outer);
}

void template_parse(template *around, json_object *json) {
    token_list_append(&around->items, TEMPLATE_TEXT);
    if (json->item) parse_processor(around, json);
}

void template_free(template *around) {
    free(around->items.ids);
    *around = (template){0};
}

int32_t template_first(const template *around) {
    return around->items.ids[0];
}

int32_t template_last(const template *around) {
    return around->items.ids[around->items.n - 1];
}

void template_put_last(template *around, int32_t id) {
    token_list_append(&around->items, id);
}

void template_put_first(template *around, int32_t id) {
    token_list *items = &around->items;
    token_list_append(items, id);
    memmove(items->ids + 1, items->ids, (items->n - 1) * sizeof *items->ids);
    items->ids[0] = id;
}

bool template_take_away(const template *around, size_t from, token_list *list) {
    const int32_t *items = around->items.ids;
    size_t n_items = around->items.n, n_before = 0, n_behind = 0, before = list->n;
    while (n_before < n_items && items[n_before] != TEMPLATE_TEXT)
        n_before++;
    while (n_behind < n_items - n_before && items[n_items - 1 - n_behind] != TEMPLATE_TEXT)
        n_behind++;
    int32_t *ids = list->ids + from;
    if (n_before > 0 && n_before <= list->n - from && !memcmp(ids, items, n_before * sizeof *ids)) {
        memmove(ids, ids + n_before, (list->n - from - n_before) * sizeof *ids);
        list->n -= n_before;
    }
    const int32_t *behind = items + n_items - n_behind;
    if (n_behind > 0 && n_behind <= list->n - from &&
        !memcmp(list->ids + list->n - n_behind, behind, n_behind * sizeof *ids))
        list->n -= n_behind;
    return list->n < before;
}

void template_apply(const template *around, size_t from, bool add_special, token_list *list) {
    size_t n = list->n - from;
    int32_t *text = mem_new(n, sizeof *text);
    if (n) memcpy(text, list->ids + from, n * sizeof *text);
    list->n = from;
    for (size_t i = 0; i < around->items.n; i++) {
        int32_t id = around->items.ids[i];
        if (id != TEMPLATE_TEXT && add_special) token_list_append(list, id);
        for (size_t k = 0; id == TEMPLATE_TEXT && k < n; k++)
            token_list_append(list, text[k]);
    }
    free(text);
}
