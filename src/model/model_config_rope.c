/* The rotary positions of config.json, in its older form (rope_theta and rope_scaling) and its newer one
 * (rope_parameters). */
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/model/model_config_private.h"

/* Smaller ones are no sensible number, and 0 would divide. */
static const double least = 1e-6, most_factor = 1e6, most_theta = 1e15;

static const struct rope_name {
    const char *name;
    const char *keys[10]; /* that count, beside rope_theta and the name itself */
} kinds[] = {
    [ROPE_DEFAULT] = {"default", {NULL}},
    [ROPE_LINEAR] = {"linear", {"factor"}},
    [ROPE_LLAMA3] = {"llama3",
                     {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}},
    [ROPE_YARN] = {"yarn",
                   {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast",
                    "beta_slow", "mscale", "mscale_all_dim", "truncate"}},
};

static bool find_rope_kind(const char *name, rope_kind *out) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) != 0) continue;
        *out = (rope_kind)i;
        return true;
    }
    return false;
}

/* In these families transformers rotates whole heads where the kind is "default", whatever the factor says,
 * and fails where it is another. */
static void read_partial(json_object *object, rope_kind kind) {
    if (json_item_is_neutral(json_find(object, "partial_rotary_factor"), 1)) return;
    if (kind != ROPE_DEFAULT)
        json_refuse(object, "partial_rotary_factor", "rotating only a part of each head is not supported");
    else
        notice_add("%s: %s%spartial_rotary_factor is not used: whole heads are rotated, as by transformers",
                   object->file, object->key ? object->key : "", object->key ? "." : "");
}

static bool counts(rope_kind kind, const char *key) {
    static const char *const always[] = {"rope_type", "type", "rope_theta", "partial_rotary_factor"};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        if (strcmp(always[i], key) == 0) return true;
    for (const char *const *known = kinds[kind].keys; *known; known++)
        if (strcmp(*known, key) == 0) return true;
    return false;
}

/* What this kind of scaling does not use is noted; parameters of single layers are refused. */
static void check_members(json_object *scaling, rope_kind kind) {
    const cJSON *member;
    cJSON_ArrayForEach(member, scaling->item) {
        if (cJSON_IsObject(member)) {
            json_refuse(scaling, member->string,
                        "rope parameters that differ between layers are not supported");
            return;
        }
        if (!cJSON_IsNull(member) && !counts(kind, member->string))
            notice_add("%s: %s.%.60s is not used with rope_type \"%s\", as by transformers", scaling->file,
                       scaling->key, member->string, kinds[kind].name);
    }
}

static void read_llama3(json_object *scaling, rope_config *rope) {
    rope->low_freq_factor = json_number(scaling, "low_freq_factor", 1e-6, 1e6);
    rope->high_freq_factor = json_number(scaling, "high_freq_factor", 1e-6, 1e6);
    if (rope->high_freq_factor <= rope->low_freq_factor)
        json_refuse(scaling, "high_freq_factor", "%g must be above low_freq_factor %g",
                    rope->high_freq_factor, rope->low_freq_factor);
}

static void read_yarn(json_object *scaling, rope_config *rope) {
    if (json_find(scaling, "attention_factor"))
        rope->attention_factor = json_number(scaling, "attention_factor", 1e-6, 1e6);
    rope->mscale = json_number_or(scaling, "mscale", 0, 1e6, 0);
    rope->mscale_all_dim = json_number_or(scaling, "mscale_all_dim", 0, 1e6, 0);
    rope->beta_fast = json_number_or(scaling, "beta_fast", 0, 1e6, 0);
    rope->beta_slow = json_number_or(scaling, "beta_slow", 0, 1e6, 0);
    if (rope->beta_fast == 0) rope->beta_fast = 32; /* 0 counts as not given, as in transformers */
    if (rope->beta_slow == 0) rope->beta_slow = 1;
    rope->truncate = json_bool_or(scaling, "truncate", true);
    if (rope->beta_fast < rope->beta_slow)
        json_refuse(scaling, "beta_fast", "%g is below beta_slow %g", rope->beta_fast, rope->beta_slow);
    if (rope->theta <= 1)
        json_refuse(scaling, "rope_type", "\"yarn\" needs a rope_theta above 1, but it is %g", rope->theta);
}

/* The parameters of `scaling`; what llama3 and yarn count as the context before scaling may stand outside. */
static void read_scaling(json_object *root, json_object *scaling, model_config *c) {
    rope_config *rope = &c->rope;
    rope->theta = json_number_or(scaling, "rope_theta", least, most_theta, rope->theta);
    const char *old_type = json_text_or(scaling, "type", "default");
    const char *type = json_text_or(scaling, "rope_type", old_type);
    if (!find_rope_kind(type, &rope->kind))
        json_refuse(scaling, "rope_type", "\"%.60s\" is not supported; default, linear, llama3 and yarn are",
                    type);
    if (json_find(scaling, "type") && strcmp(type, old_type) != 0)
        notice_add("%s: %s.type \"%.60s\" is not used: rope_type \"%s\" is, as by transformers",
                   scaling->file, scaling->key, old_type, type);
    check_members(scaling, rope->kind);
    read_partial(scaling, rope->kind);
    read_partial(root, rope->kind);
    if (rope->kind == ROPE_DEFAULT) return;

    if (rope->kind == ROPE_LLAMA3 || rope->kind == ROPE_YARN) {
        int64_t inside =
            json_int_or(scaling, "original_max_position_embeddings", 1, INT32_MAX, c->max_positions);
        rope->original_positions =
            (double)json_int_or(root, "original_max_position_embeddings", 1, INT32_MAX, inside);
    }
    if (rope->kind == ROPE_YARN && !json_find(scaling, "factor"))
        rope->factor = (double)c->max_positions / rope->original_positions;
    else
        rope->factor = json_number(scaling, "factor", least, most_factor);
    if (rope->kind == ROPE_LLAMA3) read_llama3(scaling, rope);
    if (rope->kind == ROPE_YARN) read_yarn(scaling, rope);
}

static bool is_given(const json_object *root, const char *key) {
    const cJSON *item = json_find(root, key);
    return item && !(cJSON_IsObject(item) && !item->child); /* {} counts as absent */
}

/* c->rope is what rope_theta alone says; false: the object is not there, or not good. */
static bool read_object(json_object *root, const char *key, model_config *c) {
    if (root->st != STATUS_OK || !is_given(root, key)) return false;
    json_object scaling = json_view_member(root, key);
    read_scaling(root, &scaling, c);
    const cJSON *outside = json_find(root, "rope_theta");
    if (outside && c->rope.theta != outside->valuedouble)
        json_refuse(root, key, "rope_theta is %g in it, but %g outside: remove the wrong one", c->rope.theta,
                    outside->valuedouble);
    return root->st == STATUS_OK;
}

/* transformers takes rope_scaling where it is given, and looks at rope_parameters only where it is not. */
void model_config_read_rope(json_object *root, model_config *c) {
    c->rope.theta = json_number_or(root, "rope_theta", least, most_theta, 10000);
    model_config *newer = mem_new(1, sizeof *newer); /* a copy: that its padding is the same too */
    memcpy(newer, c, sizeof *newer);
    bool has_older = read_object(root, "rope_scaling", c);
    bool has_newer = read_object(root, "rope_parameters", newer);
    if (has_older && has_newer && c->rope.theta != newer->rope.theta)
        json_refuse(root, "rope_parameters",
                    "its rope_theta is %g, but with rope_scaling it is %g: remove one of "
                    "the two",
                    newer->rope.theta, c->rope.theta);
    else if (has_older && has_newer && memcmp(&c->rope, &newer->rope, sizeof c->rope) != 0)
        notice_add(
            "%s: rope_parameters says another thing than rope_scaling and is not used, as by transformers: "
            "remove the wrong one",
            root->file);
    if (has_newer && !has_older) memcpy(c, newer, sizeof *newer);
    if (!has_newer && !has_older) read_partial(root, ROPE_DEFAULT);
    free(newer);
}
