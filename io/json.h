/* io/json.h: JSON from outside, checked: a small layer over cJSON for all readers, and strings for writers.
 *
 * Messages name the file and the key path, so callers pass a failure on as it is. All functions are Local. */
#pragma once

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/memory.h"
#include "src/base/status.h"

enum { JSON_MAX_DEPTH = 100 };

/* Parse exactly one JSON value in n bytes; `name` is what messages call them. Refuses, with line and column,
 * what is not JSON, deeper nesting than JSON_MAX_DEPTH, and zero bytes (also as \u0000), which cJSON would
 * take for the end of a string. Bytes that are not UTF-8 are passed through. Release with cJSON_Delete. */
status json_parse(const char *bytes, size_t n, const char *name, cJSON **out);

/* The same as Python's json module reads it, and so transformers its configurations: NaN and Infinity are
 * numbers (all of them infinite here: in no range), and of a key that occurs twice the last counts, with a
 * NOTE. */
status json_parse_as_python(const char *bytes, size_t n, const char *name, cJSON **out);

/* The bytes of a regular file of at most max_bytes, a zero byte behind them. Refuses a Git LFS pointer, as
 * such. Release with free(). */
status json_read_bytes(const char *path, size_t max_bytes, char **bytes, size_t *n);

/* The same, parsed; messages name the path. */
status json_read_file(const char *path, size_t max_bytes, cJSON **out);

/* A view of one object of a document. The first failure sticks in `st` and its text is recorded: a caller may
 * read all members and look at `st` once, before it uses what it read. After a failure the getters return the
 * least value or the fallback. An optional member that is null counts as absent. */
typedef struct json_object {
    const cJSON *item; /* borrowed; NULL after a failure */
    const char *file;  /* borrowed, for messages */
    char path[64];     /* of the object, with a dot behind it; "" for the root */
    status st;
} json_object;

/* View an item that must be an object without duplicate keys. Refused otherwise (in `st`). */
json_object json_view(const cJSON *item, const char *file);

/* View a member, which must be such an object. A failure is one of the parent too. */
json_object json_view_member(json_object *parent, const char *key);

/* The member, or NULL when it is absent or null. */
const cJSON *json_find(const json_object *object, const char *key);

/* Integers must be exact in a double: at most 2^53. Without _or, a member that is absent or null is refused.
 */
int64_t json_int(json_object *object, const char *key, int64_t min, int64_t max);
int64_t json_int_or(json_object *object, const char *key, int64_t min, int64_t max, int64_t fallback);
double json_number(json_object *object, const char *key, double min, double max);
double json_number_or(json_object *object, const char *key, double min, double max, double fallback);
bool json_bool_or(json_object *object, const char *key, bool fallback);
const char *json_text(json_object *object, const char *key); /* "" after a failure; owned by the document */
const char *json_text_or(json_object *object, const char *key, const char *fallback);

/* Whether this item is an integer in [min, max], exact in a double. */
bool json_item_is_int(const cJSON *item, int64_t min, int64_t max, int64_t *out);

/* Whether the item says nothing: absent, null, an empty list or object, this number, or a list of this number
 * only. False and true are 0 and 1. */
bool json_item_is_neutral(const cJSON *item, double neutral);

/* Whether a text from a file may stand in a message as it is: it has no control characters. */
bool json_is_printable(const char *text);

/* Where the first member of this key of the outermost object stands in a text, and is a value of its own;
 * what comes behind it need not be JSON. Local. */
bool json_find_written(const char *text, size_t n, const char *key, const char **value, size_t *n_value);

/* Is this exactly one value, on one line, as RFC 8259 has it? */
bool json_is_value(const char *text, size_t n);

/* Replace each \uXXXX that is half a surrogate pair by \ufffd, in place; whether there was one. */
bool json_mend_halves(char *text, size_t n);

/* Record in `st` (unless a failure is there already) that the member `key` is refused: "FILE: PATH.KEY:
 * text". Control characters become question marks, so that it stays one line. */
void json_refuse(json_object *object, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Append n bytes as a JSON string in quotes. The result is UTF-8 whatever the bytes are: invalid parts become
 * U+FFFD, one for each maximal part as in Unicode 15, 3.9. */
void json_append_text(text_buffer *out, const char *bytes, size_t n);

/* Append a number that reads back as the same float; null when it is not finite. */
void json_append_float(text_buffer *out, float value);
