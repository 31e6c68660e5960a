/* src/model/model_config_private.h: what the readers of config.json (model_config*.c) and of
 * generation_config.json share. Each refuses in the object, and reads nothing after a refusal. Local. */
#pragma once

#include "io/json.h"
#include "src/model/model_config.h"

/* Is this one of the keys that not every family uses, but this one does? */
bool model_family_uses(model_family family, const char *key);

/* rope_theta, rope_scaling and rope_parameters. */
void model_config_read_rope(json_object *root, model_config *c);

/* Refuse by name what other kinds of model change their numbers by, and note what is read by others and not
 * by this one. */
void model_config_check_keys(json_object *root, const model_config *c);

/* eos_token_id: one id or a list of them; absent or null changes nothing, and a negative one never comes. */
void model_config_read_end_tokens(json_object *root, model_config *c);

/* bos_token_id, or `fallback` where it is absent or null. */
int32_t model_config_read_begin_token(json_object *root, int32_t fallback);
