/* src/tokenizer_json.h: checked reading of the objects of a tokenizer.json.
 *
 * A member that is null counts as absent; a member that is there twice is refused. Refusals name the member;
 * the caller puts the object before it with status_at. What is returned is borrowed from the tree. Local. */
#pragma once

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

/* The tree of the n bytes, freed by the caller with cJSON_Delete. Refuses what is not valid UTF-8, not JSON,
 * nested too deeply, or has \u0000 in a string (which the tree cannot hold). */
status tokenizer_json_parse(const char *text, size_t n, cJSON **out);

/* A member of any type; NULL when absent. */
status json_get(const cJSON *object, const char *key, const cJSON **out);

/* Members of one type. Those without a fallback must be there. */
status json_get_text(const cJSON *object, const char *key, const char **out);
status json_get_array(const cJSON *object, const char *key, const cJSON **out);
status json_get_object(const cJSON *object, const char *key, const cJSON **out);
status json_get_bool(const cJSON *object, const char *key, bool *out);
status json_get_bool_or(const cJSON *object, const char *key, bool fallback, bool *out);
status json_get_char(const cJSON *object, const char *key, uint32_t *out); /* a text of one character */
status json_get_count(const cJSON *object, const char *key, uint32_t *out);

/* Whether a value is a whole number from 0 to INT32_MAX. */
bool json_is_id(const cJSON *value, int32_t *out);

/* A text from the file as it may stand in a message: on one line, cut when long. */
typedef struct json_quote {
    char text[72];
} json_quote;
json_quote json_quote_text(const char *text);
