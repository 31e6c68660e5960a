#include "src/tokenizer/json.h"

#include <stdio.h>
#include <string.h>

#include "src/base/utf8.h"

status tokenizer_json_get(const cJSON *object, const char *key, const cJSON **out) {
    *out = NULL;
    if (!cJSON_IsObject(object)) return status_refuse("must be a JSON object");
    const cJSON *member;
    cJSON_ArrayForEach(member, object) {
        if (strcmp(member->string, key) != 0) continue;
        if (*out) return status_refuse("%s is there twice", tokenizer_json_quote_text(key).text);
        *out = member;
    }
    if (cJSON_IsNull(*out)) *out = NULL;
    return STATUS_OK;
}

typedef cJSON_bool type_test(const cJSON *value);

static status get_typed(const cJSON *object, const char *key, type_test *is, const char *kind,
                        const cJSON **out) {
    status st = tokenizer_json_get(object, key, out);
    if (st) return st;
    if (!*out) return status_refuse("%s is missing", tokenizer_json_quote_text(key).text);
    if (!is(*out)) return status_refuse("%s must be %s", tokenizer_json_quote_text(key).text, kind);
    return STATUS_OK;
}

status tokenizer_json_get_text(const cJSON *object, const char *key, const char **out) {
    const cJSON *value;
    status st = get_typed(object, key, cJSON_IsString, "a string", &value);
    if (!st) *out = value->valuestring;
    return st;
}

status tokenizer_json_get_array(const cJSON *object, const char *key, const cJSON **out) {
    return get_typed(object, key, cJSON_IsArray, "an array", out);
}

status tokenizer_json_get_object(const cJSON *object, const char *key, const cJSON **out) {
    return get_typed(object, key, cJSON_IsObject, "an object", out);
}

status tokenizer_json_get_bool(const cJSON *object, const char *key, bool *out) {
    const cJSON *value;
    status st = get_typed(object, key, cJSON_IsBool, "true or false", &value);
    if (!st) *out = cJSON_IsTrue(value);
    return st;
}

status tokenizer_json_get_bool_or(const cJSON *object, const char *key, bool fallback, bool *out) {
    const cJSON *value;
    status st = tokenizer_json_get(object, key, &value);
    if (st) return st;
    if (value) return tokenizer_json_get_bool(object, key, out);
    *out = fallback;
    return STATUS_OK;
}

status tokenizer_json_get_char(const cJSON *object, const char *key, uint32_t *out) {
    const char *text;
    status st = tokenizer_json_get_text(object, key, &text);
    if (st) return st;
    size_t n = 0;
    if (*text) *out = utf8_read(text, &n);
    if (n == 0 || text[n])
        return status_refuse("%s must be a single character", tokenizer_json_quote_text(key).text);
    return STATUS_OK;
}

bool tokenizer_json_is_id(const cJSON *value, int32_t *out) {
    if (!cJSON_IsNumber(value)) return false;
    double number = value->valuedouble;
    if (!(number >= 0 && number <= INT32_MAX) || number != (double)(int32_t)number) return false;
    *out = (int32_t)number;
    return true;
}

status tokenizer_json_get_count(const cJSON *object, const char *key, uint32_t *out) {
    const cJSON *value;
    status st = get_typed(object, key, cJSON_IsNumber, "a number", &value);
    if (st) return st;
    int32_t count;
    if (!tokenizer_json_is_id(value, &count))
        return status_refuse("%s must be a whole number", tokenizer_json_quote_text(key).text);
    *out = (uint32_t)count;
    return STATUS_OK;
}

tokenizer_json_quote tokenizer_json_quote_text(const char *text) {
    enum { MAX_BYTES = sizeof((tokenizer_json_quote *)0)->text - 6 };
    tokenizer_json_quote quote;
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
