#include "src/tokenizer_json.h"

#include <stdio.h>
#include <string.h>

#include "src/base/utf8.h"

/* cJSON ends a string at \u0000, so such a string would silently become another one. */
static bool has_escaped_zero(const char *text, size_t n) {
    for (size_t i = 0; i + 5 < n; i++) {
        if (text[i] != '\\') continue;
        if (!memcmp(text + i + 1, "u0000", 5)) return true;
        i++; /* the escaped character, which may be a backslash */
    }
    return false;
}

status tokenizer_json_parse(const char *text, size_t n, cJSON **out) {
    size_t valid = utf8_count_valid(text, n);
    if (valid < n) return status_refuse("not valid UTF-8 at byte %zu", valid);
    if (memchr(text, 0, n)) return status_refuse("not JSON: a zero byte in the text");
    if (has_escaped_zero(text, n)) return status_refuse("\\u0000 in a string is not supported");
    const char *end = NULL;
    cJSON *tree = cJSON_ParseWithLengthOpts(text, n, &end, false);
    if (!tree) {
        size_t at = end ? (size_t)(end - text) : 0;
        return status_refuse("not JSON, or nested more than %d deep, at byte %zu", CJSON_NESTING_LIMIT, at);
    }
    while (end < text + n && strchr(" \t\r\n", *end))
        end++;
    if (end < text + n) {
        cJSON_Delete(tree);
        return status_refuse("not JSON: more text behind the object, at byte %zu", (size_t)(end - text));
    }
    *out = tree;
    return STATUS_OK;
}

status json_get(const cJSON *object, const char *key, const cJSON **out) {
    *out = NULL;
    if (!cJSON_IsObject(object)) return status_refuse("must be a JSON object");
    const cJSON *member;
    cJSON_ArrayForEach(member, object) {
        if (strcmp(member->string, key) != 0) continue;
        if (*out) return status_refuse("%s is there twice", json_quote_text(key).text);
        *out = member;
    }
    if (cJSON_IsNull(*out)) *out = NULL;
    return STATUS_OK;
}

typedef cJSON_bool type_test(const cJSON *value);

static status get_typed(const cJSON *object, const char *key, type_test *is, const char *kind,
                        const cJSON **out) {
    status st = json_get(object, key, out);
    if (st) return st;
    if (!*out) return status_refuse("%s is missing", json_quote_text(key).text);
    if (!is(*out)) return status_refuse("%s must be %s", json_quote_text(key).text, kind);
    return STATUS_OK;
}

status json_get_text(const cJSON *object, const char *key, const char **out) {
    const cJSON *value;
    status st = get_typed(object, key, cJSON_IsString, "a string", &value);
    if (!st) *out = value->valuestring;
    return st;
}

status json_get_array(const cJSON *object, const char *key, const cJSON **out) {
    return get_typed(object, key, cJSON_IsArray, "an array", out);
}

status json_get_object(const cJSON *object, const char *key, const cJSON **out) {
    return get_typed(object, key, cJSON_IsObject, "an object", out);
}

status json_get_bool(const cJSON *object, const char *key, bool *out) {
    const cJSON *value;
    status st = get_typed(object, key, cJSON_IsBool, "true or false", &value);
    if (!st) *out = cJSON_IsTrue(value);
    return st;
}

status json_get_bool_or(const cJSON *object, const char *key, bool fallback, bool *out) {
    const cJSON *value;
    status st = json_get(object, key, &value);
    if (st) return st;
    if (value) return json_get_bool(object, key, out);
    *out = fallback;
    return STATUS_OK;
}

status json_get_char(const cJSON *object, const char *key, uint32_t *out) {
    const char *text;
    status st = json_get_text(object, key, &text);
    if (st) return st;
    size_t n = 0;
    if (*text) *out = utf8_read(text, &n);
    if (n == 0 || text[n]) return status_refuse("%s must be a single character", json_quote_text(key).text);
    return STATUS_OK;
}

bool json_is_id(const cJSON *value, int32_t *out) {
    if (!cJSON_IsNumber(value)) return false;
    double number = value->valuedouble;
    if (!(number >= 0 && number <= INT32_MAX) || number != (double)(int32_t)number) return false;
    *out = (int32_t)number;
    return true;
}

status json_get_count(const cJSON *object, const char *key, uint32_t *out) {
    const cJSON *value;
    status st = get_typed(object, key, cJSON_IsNumber, "a number", &value);
    if (st) return st;
    int32_t count;
    if (!json_is_id(value, &count))
        return status_refuse("%s must be a whole number", json_quote_text(key).text);
    *out = (uint32_t)count;
    return STATUS_OK;
}

json_quote json_quote_text(const char *text) {
    enum { MAX_BYTES = sizeof((json_quote *)0)->text - 6 };
    json_quote quote;
    size_t n = 0, at = 1, n_bytes;
    quote.text[0] = '"';
    for (; text[n]; n += n_bytes) {
        uint32_t code = utf8_read(text + n, &n_bytes);
        if (at + n_bytes > MAX_BYTES) break;
        if (code < 0x20 || code == 0x7F)
            quote.text[at++] = '?';
        else
            at += utf8_write(code, quote.text + at);
    }
    snprintf(quote.text + at, sizeof quote.text - at, text[n] ? "...\"" : "\"");
    return quote;
}
