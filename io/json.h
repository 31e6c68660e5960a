/* io/json.h: all JSON that is read, which is checked, as a small layer over cJSON, and all that is written.
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

/* Integers up to here are the same for every reader of JSON, as a double has them exactly. */
#define JSON_MAX_EXACT (INT64_C(1) << 53)

/* Parse exactly one JSON value in n bytes; `name` is what messages call them. Refuses, with line and column,
 * what is not JSON, deeper nesting than JSON_MAX_DEPTH, and zero bytes (also as \u0000), which cJSON would
 * take for the end of a string. Bytes that are not UTF-8 are passed through. Release with cJSON_Delete. */
status json_parse(const char *bytes, size_t n, const char *name, cJSON **out);

/* The same as Python's json module reads it, and so transformers its configurations: NaN and Infinity are
 * numbers (all of them infinite here: in no range), and of a key that occurs twice the last counts, with a
 * NOTE. */
status json_parse_as_python(const char *bytes, size_t n, const char *name, cJSON **out);

/* A file of at most max_bytes, read by file_read_all and parsed; messages name the path. */
status json_read_file(const char *path, size_t max_bytes, cJSON **out);

/* A view of one object of a document. The first failure sticks in `st`, and in that of the views that it was
 * taken from, and its text is recorded: a caller may read all members and look at `st` once, before it uses
 * what it read. After a failure the getters return the least value or the fallback. An optional member that
 * is null counts as absent. Messages are "FILE: a.b[2].KEY: text", on one line. */
typedef struct json_object {
    const cJSON *item;          /* borrowed; NULL after a failure, or of what is optional and absent */
    struct json_object *parent; /* that it is a member of, which must outlive it; NULL: none */
    const char *file, *key;     /* borrowed, for messages: the document, and the member */
    int64_t index;              /* in the array that the member is; -1: it is none */
    status st;
} json_object;

/* View an item that must be an object without duplicate keys. Refused otherwise (in `st`). */
json_object json_view(const cJSON *item, const char *file);

/* View a member, which must be such an object; _optional: or absent. */
json_object json_view_member(json_object *parent, const char *key);
json_object json_view_optional(json_object *parent, const char *key);

/* View the next item of a member that is an array of such objects: the first where *item is zeroed. False
 * behind the last, and after a failure. */
bool json_next_object(json_object *parent, const char *key, json_object *item);

/* Refuse the member `key`, or the object itself (NULL), unless a failure is there already. */
void json_refuse(json_object *object, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Take over what became of using a member (or the object, NULL): the text of a failure gets its place in
 * front. */
void json_adopt(json_object *object, const char *key, status st);

/* The member, or NULL when it is absent or null. */
const cJSON *json_find(const json_object *object, const char *key);

/* The member, which must be an array; _optional: or absent. NULL when it is absent, and after a failure. */
const cJSON *json_array(json_object *object, const char *key);
const cJSON *json_array_optional(json_object *object, const char *key);

/* Integers are at most JSON_MAX_EXACT; json_int64 takes larger ones too, as json_put_integer writes them.
 * Without _or, a member that is absent or null is refused. */
int64_t json_int(json_object *object, const char *key, int64_t min, int64_t max);
int64_t json_int64(json_object *object, const char *key);
int64_t json_int_or(json_object *object, const char *key, int64_t min, int64_t max, int64_t fallback);
double json_number(json_object *object, const char *key, double min, double max);
double json_number_or(json_object *object, const char *key, double min, double max, double fallback);
bool json_bool(json_object *object, const char *key);
bool json_bool_or(json_object *object, const char *key, bool fallback);
const char *json_text(json_object *object, const char *key); /* "" after a failure; owned by the document */
const char *json_text_or(json_object *object, const char *key, const char *fallback);
uint32_t json_character(json_object *object, const char *key); /* a text of one character: its code point */
int json_choice(json_object *object, const char *key, const char *const names[],
                int n); /* its place in them */

/* Whether this item is an integer in [min, max], at most JSON_MAX_EXACT. */
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

/* ---- writing ---- */

enum { JSON_WRITER_MAX_DEPTH = 16 };

/* One value and all in it, appended to a text: {.out = text} begins one. Each member and item stands on a
 * line of its own, indented by two spaces for each group around it; those of a group that json_open_line
 * opened, and of all in it, on one line. */
typedef struct json_writer {
    text_buffer *out; /* borrowed */
    int depth;        /* open groups */
    int line_depth;   /* of the outermost of them that stays on one line; 0: none */
    bool has_members; /* the innermost */
    char closing[JSON_WRITER_MAX_DEPTH];
} json_writer;

/* Open an object '{' or an array '[', and close the innermost. The key is NULL for an item of an array, and
 * for the value that is not in a group. */
void json_open(json_writer *w, const char *key, char bracket);
void json_open_line(json_writer *w, const char *key, char bracket);
void json_close(json_writer *w);

/* Values. Numbers read back as the same double, or float; one that is not finite is null. An integer beyond
 * JSON_MAX_EXACT is a text, which json_int64 reads. */
void json_put_bool(json_writer *w, const char *key, bool value);
void json_put_integer(json_writer *w, const char *key, int64_t value);
void json_put_number(json_writer *w, const char *key, double value);
void json_put_float(json_writer *w, const char *key, float value);
void json_put_text(json_writer *w, const char *key, const char *text);             /* NULL is "" */
void json_put_bytes(json_writer *w, const char *key, const char *bytes, size_t n); /* as json_append_text */
void json_put_verbatim(json_writer *w, const char *key, const char *value);        /* JSON already */

/* Append n bytes as a JSON string in quotes. The result is UTF-8 whatever the bytes are: invalid parts become
 * U+FFFD, one for each maximal part as in Unicode 15, 3.9. */
void json_append_text(text_buffer *out, const char *bytes, size_t n);
