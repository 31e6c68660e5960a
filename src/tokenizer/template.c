#include "src/tokenizer/template.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/tokenizer/json.h"

/* {"SpecialToken": {"id": name}}, whose ids stand in special_tokens.NAME.ids. */
static status parse_special(template *around, const cJSON *piece, const cJSON *special_tokens) {
    const char *name;
    const cJSON *token, *ids, *item;
    status st = tokenizer_json_get_text(piece, "id", &name);
    if (!st) st = tokenizer_json_get_object(special_tokens, name, &token);
    if (!st) st = tokenizer_json_get_array(token, "ids", &ids);
    if (st) return status_at(st, "special_tokens");
    cJSON_ArrayForEach(item, ids) {
        int32_t id;
        if (!tokenizer_json_is_id(item, &id))
            return status_refuse("special_tokens: an id must be a whole number");
        token_list_append(&around->items, id);
    }
    return STATUS_OK;
}

/* {"Sequence": {"id": "A"}}: the text. */
static status parse_sequence(template *around, const cJSON *piece) {
    const char *name;
    status st = tokenizer_json_get_text(piece, "id", &name);
    if (st) return st;
    if (strcmp(name, "A") != 0)
        return status_refuse("sequence %s is not supported", tokenizer_json_quote_text(name).text);
    token_list_append(&around->items, TEMPLATE_TEXT);
    return STATUS_OK;
}

static status parse_processing(template *around, const cJSON *json) {
    const cJSON *single, *special_tokens, *item;
    status st = tokenizer_json_get_array(json, "single", &single);
    if (!st) st = tokenizer_json_get_object(json, "special_tokens", &special_tokens);
    if (st) return st;
    int i = 0;
    cJSON_ArrayForEach(item, single) {
        const cJSON *special, *sequence;
        st = tokenizer_json_get(item, "SpecialToken", &special);
        if (!st) st = tokenizer_json_get(item, "Sequence", &sequence);
        if (!st && !special && !sequence) st = status_refuse("must be a SpecialToken or a Sequence");
        if (!st)
            st = special ? parse_special(around, special, special_tokens) : parse_sequence(around, sequence);
        if (st) return status_at(st, "single[%d]", i);
        i++;
    }
    return STATUS_OK;
}

/* BertProcessing and RobertaProcessing: a token before the text and one behind it, each [name, id]. */
static status parse_pair(template *around, const cJSON *json) {
    static const char *const keys[] = {"cls", "sep"};
    for (size_t i = 0; i < 2; i++) {
        const cJSON *pair;
        int32_t id;
        status st = tokenizer_json_get_array(json, keys[i], &pair);
        if (st != STATUS_OK) return st;
        if (cJSON_GetArraySize(pair) != 2 || !cJSON_IsString(pair->child) ||
            !tokenizer_json_is_id(pair->child->next, &id))
            return status_refuse("\"%s\" must be a token and its id", keys[i]);
        if (i) token_list_append(&around->items, TEMPLATE_TEXT);
        token_list_append(&around->items, id);
    }
    return STATUS_OK;
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

static status parse_processor(template *around, const cJSON *json) {
    const char *type;
    status st = tokenizer_json_get_text(json, "type", &type);
    if (st || !strcmp(type, "ByteLevel")) return st;
    bool pair = !strcmp(type, "BertProcessing") || !strcmp(type, "RobertaProcessing");
    if (pair || !strcmp(type, "TemplateProcessing")) {
        /* Hugging Face tokenizers fails, or takes each token of the template for a text. */
        if (around->is_template)
            return status_refuse("%s behind a TemplateProcessing is not supported", type);
        around->is_template = !pair;
        template outer = {0};
        st = pair ? parse_pair(&outer, json) : parse_processing(&outer, json);
        if (st == STATUS_OK) st = put_around(around, &outer);
        template_free(&outer);
        return st;
    }
    if (strcmp(type, "Sequence") != 0)
        return status_refuse("type %s is not supported", tokenizer_json_quote_text(type).text);
    const cJSON *parts, *part;
    st = tokenizer_json_get_array(json, "processors", &parts);
    if (st) return st;
    int i = 0;
    cJSON_ArrayForEach(part, parts) {
        st = parse_processor(around, part);
        if (st) return status_at(st, "processors[%d]", i);
        i++;
    }
    return STATUS_OK;
}

status template_parse(template *around, const cJSON *json) {
    token_list_append(&around->items, TEMPLATE_TEXT);
    return json ? parse_processor(around, json) : STATUS_OK;
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
