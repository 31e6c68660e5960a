/* src/tokenizer/json.h: checked reading of the objects of a tokenizer.json.
 *
 * The tree is io/json.h's. A member that is null counts as absent; a member that is there twice is refused.
 * Refusals name the member; the caller puts the object before it with status_at. What is returned is borrowed
 * from the tree. Local. */
#pragma once

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

/* A member of any type; NULL when absent. */
status tokenizer_json_get(const cJSON *object, const char *key, const cJSON **out);

/* Members of one type. Those without a fallback must be there. */
status tokenizer_json_get_text(const cJSON *object, const char *key, const char **out);
status tokenizer_json_get_array(const cJSON *object, const char *key, const cJSON **out);
status tokenizer_json_get_object(const cJSON *object, const char *key, const cJSON **out);
status tokenizer_json_get_bool(const cJSON *object, const char *key, bool *out);
status tokenizer_json_get_bool_or(const cJSON *object, const char *key, bool fallback, bool *out);
status tokenizer_json_get_char(const cJSON *object, const char *key,
                               uint32_t *out); /* a text of one character */
status tokenizer_json_get_count(const cJSON *object, const char *key, uint32_t *out);

/* Whether a value is a whole number from 0 to INT32_MAX. */
bool tokenizer_json_is_id(const cJSON *value, int32_t *out);

/* A text from the file as it may stand in a message: on one line, cut when long. */
typedef struct tokenizer_json_quote {
    char text[72];
} tokenizer_json_quote;
tokenizer_json_quote tokenizer_json_quote_text(const char *text);
