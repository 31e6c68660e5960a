#include "io/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io/files.h"
#include "src/base/hash_map.h"
#include "src/base/notice.h"
#include "src/base/utf8.h"

enum { MAX_KEY_BYTES = 150 }; /* in a message */

/* ---- parsing ---- */

/* The line is told only where there are several. */
static status refuse_at(const char *bytes, size_t n, size_t offset, const char *name, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < offset; i++) {
        column++;
        if (bytes[i] == '\n') {
            line++;
            column = 1;
        }
    }
    if (!memchr(bytes, '\n', n)) return status_refuse("%s: %s at column %zu", name, what, column);
    return status_refuse("%s: %s at line %zu, column %zu", name, what, line, column);
}

/* What cJSON would misread or not survive. A backslash occurs in JSON only inside strings, and there it
 * covers the character behind it. */
static status scan(const char *bytes, size_t n, const char *name) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        if (c == '\0') return refuse_at(bytes, n, i, name, "zero byte");
        if (c == '\\') {
            if (n - i > 5 && memcmp(bytes + i, "\\u0000", 6) == 0)
                return refuse_at(bytes, n, i, name, "zero character \\u0000");
            i++;
            if (i < n && bytes[i] == '\0') return refuse_at(bytes, n, i, name, "zero byte");
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == '{' || c == '[')) {
            if (++depth > JSON_MAX_DEPTH) return refuse_at(bytes, n, i, name, "too deeply nested JSON");
        } else if (!in_string && (c == '}' || c == ']')) {
            depth--;
        }
    }
    return STATUS_OK;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

status json_parse(const char *bytes, size_t n, const char *name, cJSON **out) {
    if (n == 0) return status_refuse("%s: empty, but JSON was expected", name);
    status st = scan(bytes, n, name);
    if (st != STATUS_OK) return st;
    const char *end = bytes;
    cJSON *item = cJSON_ParseWithLengthOpts(bytes, n, &end, false);
    if (!item) return refuse_at(bytes, n, (size_t)(end - bytes), name, "not valid JSON");
    size_t offset = (size_t)(end - bytes);
    while (offset < n && is_space(bytes[offset]))
        offset++;
    if (offset < n) {
        cJSON_Delete(item);
        return refuse_at(bytes, n, offset, name, "not valid JSON: more text behind the value");
    }
    *out = item;
    return STATUS_OK;
}

/* A key that occurs twice, or NULL. */
static const char *find_duplicate(const cJSON *object) {
    const char *found = NULL;
    hash_map keys = hash_map_new((size_t)cJSON_GetArraySize(object)); /* by hash: the member */
    const cJSON *member;
    cJSON_ArrayForEach(member, object) {
        uint64_t hash = XXH3_64bits(member->string, strlen(member->string));
        for (const hash_entry *e = NULL; !found && (e = hash_map_next(&keys, hash, e));)
            if (strcmp((const char *)(uintptr_t)e->value, member->string) == 0) found = member->string;
        if (found) break;
        hash_map_add(&keys, hash, (uintptr_t)member->string);
    }
    hash_map_free(&keys);
    return found;
}

/* NaN and Infinity outside of strings as numbers that overflow; what they are part of else stays no JSON. */
static void append_with_numbers(text_buffer *out, const char *bytes, size_t n) {
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        bool is_nan = !in_string && n - i >= 3 && memcmp(bytes + i, "NaN", 3) == 0;
        bool is_infinity = !in_string && n - i >= 8 && memcmp(bytes + i, "Infinity", 8) == 0;
        if (is_nan || is_infinity) {
            text_append(out, "1e999", 5);
            i += is_nan ? 2 : 7;
            continue;
        }
        if (bytes[i] == '"') in_string = !in_string;
        size_t length = in_string && bytes[i] == '\\' && i + 1 < n ? 2 : 1; /* an escape is taken whole */
        text_append(out, bytes + i, length);
        i += length - 1;
    }
}

/* Of members with one key the last stays. */
static void keep_last(cJSON *item, const char *name) {
    for (const char *twice; cJSON_IsObject(item) && (twice = find_duplicate(item));) {
        notice_add("%s: the key \"%.100s\" occurs twice: the last one is read, as by transformers", name,
                   twice);
        char *key = mem_copy_text(twice, strlen(twice)); /* of a member that goes */
        cJSON_DeleteItemFromObjectCaseSensitive(item, key);
        free(key);
    }
    cJSON *member;
    cJSON_ArrayForEach(member, item) keep_last(member, name);
}

status json_parse_as_python(const char *bytes, size_t n, const char *name, cJSON **out) {
    text_buffer text = {0};
    append_with_numbers(&text, bytes, n);
    status st = json_parse(text.data, text.n, name, out);
    free(text.data);
    if (st == STATUS_OK) keep_last(*out, name);
    return st;
}

status json_read_file(const char *path, size_t max_bytes, cJSON **out) {
    char *bytes;
    size_t n;
    status st = file_read_all(path, max_bytes, &bytes, &n);
    if (st != STATUS_OK) return st;
    st = json_parse(bytes, n, path, out);
    free(bytes);
    return st;
}

/* ---- objects ---- */

bool json_is_printable(const char *text) {
    while (*text && (unsigned char)*text >= 0x20 && *text != 0x7F)
        text++;
    return *text == '\0';
}

/* "FILE: a.b[2]": where the object stands, and behind it a member. */
static void append_place(text_buffer *out, const json_object *object, const char *key) {
    char index[32] = "";
    if (object->parent)
        append_place(out, object->parent, object->key);
    else
        text_append(out, object->file, strlen(object->file));
    if (object->index >= 0)
        text_append(out, index, (size_t)snprintf(index, sizeof index, "[%" PRId64 "]", object->index));
    if (!key) return;
    text_append(out, object->parent ? "." : ": ", object->parent ? 1 : 2);
    text_append(out, key, strnlen(key, MAX_KEY_BYTES));
}

static bool has_failed(const json_object *object) {
    for (const json_object *o = object; o; o = o->parent)
        if (o->st != STATUS_OK) return true;
    return false;
}

void json_adopt(json_object *object, const char *key, status st) {
    if (st == STATUS_OK || has_failed(object)) return;
    text_buffer place = {0};
    append_place(&place, object, key);
    status_keep_to_line(place.data);
    status_at(st, "%s", place.data);
    free(place.data);
    for (; object; object = object->parent) {
        object->st = st;
        object->item = NULL;
    }
}

void json_refuse(json_object *object, const char *key, const char *format, ...) {
    if (has_failed(object)) return;
    char text[STATUS_TEXT_BYTES / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_adopt(object, key, status_refuse("%s", text));
}

static void check_object(json_object *object) {
    const char *twice = cJSON_IsObject(object->item) ? find_duplicate(object->item) : NULL;
    if (!cJSON_IsObject(object->item))
        json_refuse(object, NULL, "an object {...} was expected");
    else if (twice)
        json_refuse(object, NULL, "the key \"%.100s\" occurs twice", twice);
}

json_object json_view(const cJSON *item, const char *file) {
    json_object object = {.item = item, .file = file, .index = -1};
    check_object(&object);
    return object;
}

json_object json_view_optional(json_object *parent, const char *key) {
    json_object object = {.item = json_find(parent, key),
                          .parent = parent,
                          .file = parent->file,
                          .key = key,
                          .index = -1,
                          .st = parent->st};
    if (object.item) check_object(&object);
    return object;
}

json_object json_view_member(json_object *parent, const char *key) {
    json_object object = json_view_optional(parent, key);
    if (!object.item) json_refuse(&object, NULL, "an object {...} was expected");
    return object;
}

bool json_next_object(json_object *parent, const char *key, json_object *item) {
    if (has_failed(parent)) return false;
    const cJSON *array = item->parent ? NULL : json_array(parent, key);
    const cJSON *next = item->parent ? item->item->next : array ? array->child : NULL;
    if (!next) return false;
    *item = (json_object){.item = next,
                          .parent = parent,
                          .file = parent->file,
                          .key = key,
                          .index = item->parent ? item->index + 1 : 0};
    check_object(item);
    return item->st == STATUS_OK;
}

/* ---- members ---- */

const cJSON *json_find(const json_object *object, const char *key) {
    const cJSON *item = object->item ? cJSON_GetObjectItemCaseSensitive(object->item, key) : NULL;
    return cJSON_IsNull(item) ? NULL : item;
}

const cJSON *json_array_optional(json_object *object, const char *key) {
    return json_find(object, key) ? json_array(object, key) : NULL;
}

const cJSON *json_array(json_object *object, const char *key) {
    const cJSON *item = json_find(object, key);
    if (cJSON_IsArray(item)) return item;
    json_refuse(object, key, "an array was expected");
    return NULL;
}

/* What is there instead, short enough for a message. */
static void describe(const cJSON *item, char *text, size_t bytes) {
    if (!item)
        snprintf(text, bytes, "it is missing");
    else if (cJSON_IsString(item))
        snprintf(text, bytes, "it is %s", utf8_quote(item->valuestring).text);
    else if (cJSON_IsNumber(item) && !isfinite(item->valuedouble))
        snprintf(text, bytes, "it is not finite");
    else if (cJSON_IsNumber(item))
        snprintf(text, bytes, "it is %.17g", item->valuedouble);
    else
        snprintf(text, bytes, "it is %s",
                 cJSON_IsArray(item)    ? "an array"
                 : cJSON_IsObject(item) ? "an object"
                 : cJSON_IsTrue(item)   ? "true"
                                        : "false");
}

static void refuse_member(json_object *object, const char *key, const cJSON *item, const char *wanted) {
    char found[100];
    describe(item, found, sizeof found);
    json_refuse(object, key, "%s was expected, but %s", wanted, found);
}

bool json_item_is_int(const cJSON *item, int64_t min, int64_t max, int64_t *out) {
    if (!cJSON_IsNumber(item)) return false;
    double value = item->valuedouble;
    if (!(fabs(value) <= (double)JSON_MAX_EXACT) || value != floor(value)) return false;
    if ((int64_t)value < min || (int64_t)value > max) return false;
    *out = (int64_t)value;
    return true;
}

bool json_item_is_neutral(const cJSON *item, double neutral) {
    if (!item || cJSON_IsNull(item)) return true;
    if (cJSON_IsObject(item)) return !item->child;
    if (cJSON_IsBool(item)) return cJSON_IsTrue(item) == (neutral != 0);
    if (cJSON_IsNumber(item)) return fabs(item->valuedouble - neutral) <= 1e-6 * fabs(neutral);
    const cJSON *member;
    cJSON_ArrayForEach(member, item) if (!json_item_is_neutral(member, neutral)) return false;
    return cJSON_IsArray(item);
}

int64_t json_int(json_object *object, const char *key, int64_t min, int64_t max) {
    const cJSON *item = json_find(object, key);
    int64_t value = min;
    if (json_item_is_int(item, min, max, &value)) return value;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "an integer from %lld to %lld", (long long)min, (long long)max);
    refuse_member(object, key, item, wanted);
    return min;
}

int64_t json_int_or(json_object *object, const char *key, int64_t min, int64_t max, int64_t fallback) {
    return json_find(object, key) ? json_int(object, key, min, max) : fallback;
}

int64_t json_int64(json_object *object, const char *key) {
    const cJSON *item = json_find(object, key);
    if (!cJSON_IsString(item)) return json_int(object, key, -JSON_MAX_EXACT, JSON_MAX_EXACT);
    char text[32];
    const int64_t value = strtoll(item->valuestring, NULL, 10);
    snprintf(text, sizeof text, "%" PRId64, value);
    if (strcmp(text, item->valuestring) != 0) json_refuse(object, key, "not a whole number of 64 bits");
    return value;
}

double json_number(json_object *object, const char *key, double min, double max) {
    const cJSON *item = json_find(object, key);
    if (cJSON_IsNumber(item) && item->valuedouble >= min && item->valuedouble <= max)
        return item->valuedouble;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
    refuse_member(object, key, item, wanted);
    return min;
}

double json_number_or(json_object *object, const char *key, double min, double max, double fallback) {
    return json_find(object, key) ? json_number(object, key, min, max) : fallback;
}

bool json_bool(json_object *object, const char *key) {
    const cJSON *item = json_find(object, key);
    if (!cJSON_IsBool(item)) refuse_member(object, key, item, "true or false");
    return cJSON_IsTrue(item);
}

bool json_bool_or(json_object *object, const char *key, bool fallback) {
    return json_find(object, key) ? json_bool(object, key) : fallback;
}

const char *json_text(json_object *object, const char *key) {
    const cJSON *item = json_find(object, key);
    if (cJSON_IsString(item)) return item->valuestring;
    refuse_member(object, key, item, "a text");
    return "";
}

const char *json_text_or(json_object *object, const char *key, const char *fallback) {
    return json_find(object, key) ? json_text(object, key) : fallback;
}

uint32_t json_character(json_object *object, const char *key) {
    const char *text = json_text(object, key);
    size_t n_bytes = 0;
    if (*text && utf8_count_valid(text, strlen(text)) == strlen(text)) {
        uint32_t code = utf8_read(text, &n_bytes);
        if (text[n_bytes] == '\0') return code;
    }
    refuse_member(object, key, json_find(object, key), "a single character");
    return 0;
}

int json_choice(json_object *object, const char *key, const char *const names[], int n) {
    const char *text = json_text(object, key);
    text_buffer known = {0};
    for (int i = 0; i < n; i++) {
        if (strcmp(text, names[i]) == 0) {
            free(known.data);
            return i;
        }
        if (i) text_append(&known, i + 1 < n ? ", " : " and ", i + 1 < n ? 2 : 5);
        text_append(&known, names[i], strlen(names[i]));
    }
    json_refuse(object, key, "%s is not supported; %s are", utf8_quote(text).text, known.data);
    free(known.data);
    return 0;
}
