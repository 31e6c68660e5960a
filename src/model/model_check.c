/* What the files hold beside what the config says of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/model/model_private.h"

enum { TOLD_NAMES = 4 }; /* in one notice */

/* As transformers 5 does it: two tensors are one only when they are equal. */
static status settle_head(model_config *c, weights *files) {
    const tensor *table = weights_find(files, "model.embed_tokens.weight");
    const tensor *head = weights_find(files, "lm_head.weight");
    if (!c->tied_head || !table || !head) return STATUS_OK;
    bool same = false;
    status st = weights_compare(files, table, head, &same);
    if (st != STATUS_OK || same) return st;
    c->tied_head = false;
    notice_add("tie_word_embeddings is true in config.json, but lm_head.weight is another matrix than the "
               "embedding: "
               "it is used as the head, as by transformers");
    return STATUS_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const wanted *)a)->name, ((const wanted *)b)->name);
}

static bool is_wanted(const wanted_list *list, const char *name) {
    wanted key;
    if (strlen(name) >= sizeof key.name) return false;
    strcpy(key.name, name);
    return bsearch(&key, list->items, list->n, sizeof key, by_name) != NULL;
}

/* Tables of positions that old files have, and the second name of a tied matrix. */
static bool is_worth_no_word(const model_config *c, const char *name) {
    static const char positions[] = ".rotary_emb.inv_freq";
    size_t n = strlen(name), n_positions = sizeof positions - 1;
    if (n > n_positions && strcmp(name + n - n_positions, positions) == 0) return true;
    return c->tied_head && (!strcmp(name, "lm_head.weight") || !strcmp(name, "model.embed_tokens.weight"));
}

static bool begins_with(const char *text, const char *begin) {
    return strncmp(text, begin, strlen(begin)) == 0;
}

typedef struct name_list {
    text_buffer names; /* the first few */
    int n;
} name_list;

static void add_name(name_list *list, const char *name) {
    if (list->n++ >= TOLD_NAMES) return;
    if (list->n > 1) text_append(&list->names, ", ", 2);
    text_append(&list->names, name, strlen(name));
}

static status judge_unread(const model_config *c, const wanted_list *list, const weights *files) {
    name_list part = {0}, beside = {0};
    int last_layer = -1;
    for (size_t i = 0; i < weights_n_names(files); i++) {
        const char *name = weights_name(files, i);
        int number;
        if (is_wanted(list, name) || is_worth_no_word(c, name)) continue;
        if (sscanf(name, "model.layers.%d.", &number) == 1 && number >= c->n_layers)
            last_layer = number > last_layer ? number : last_layer;
        else
            add_name(begins_with(name, "model.") || begins_with(name, "lm_head.") ? &part : &beside, name);
    }
    status st = STATUS_OK;
    if (part.n)
        st = status_refuse(
            "%s: the files have %d tensors (%s%s) that a %s with this config.json has no use for: without "
            "them it would be another model; take the config.json that belongs to the weights",
            weights_dir(files), part.n, part.names.data, part.n > TOLD_NAMES ? ", ..." : "",
            model_family_name(c->family));
    if (st == STATUS_OK && last_layer >= 0)
        notice_add("%s: layers %d to %d of the files are not used: config.json has num_hidden_layers %d",
                   weights_dir(files), c->n_layers, last_layer, c->n_layers);
    if (st == STATUS_OK && beside.n)
        notice_add("%s: %d tensors of the files are not used, as a %s has no such parts: %s%s",
                   weights_dir(files), beside.n, model_family_name(c->family), beside.names.data,
                   beside.n > TOLD_NAMES ? ", ..." : "");
    free(part.names.data);
    free(beside.names.data);
    return st;
}

/* Vectors stay as they are. */
static void note_rounding(const wanted_list *list, precision prec) {
    bool has_f16 = false, has_f32 = false;
    for (size_t i = 0; i < list->n; i++) {
        has_f16 |= list->items[i].n_cols && list->items[i].tensor->type == DTYPE_F16;
        has_f32 |= list->items[i].n_cols && list->items[i].tensor->type == DTYPE_F32;
    }
    if (prec == PRECISION_BF16 && (has_f16 || has_f32))
        notice_add(
            "matrices stored in %s are rounded to bf16, to 8 significant bits of %s: probabilities change in "
            "about the third digit; --precision f32 keeps them as they are",
            has_f32 ? "f32" : "f16", has_f32 ? "24" : "11");
}

status model_check_files(model_config *config, precision prec, weights *files) {
    status st = settle_head(config, files);
    if (st != STATUS_OK) return st;
    wanted_list list = {0};
    st = model_want_slice(&list, config, (slice){0, config->n_layers, config->n_layers}, NULL, files);
    if (st == STATUS_OK) {
        note_rounding(&list, prec);
        qsort(list.items, list.n, sizeof *list.items, by_name);
        st = judge_unread(config, &list, files);
    }
    free(list.items);
    return st;
}
