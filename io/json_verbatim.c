/* JSON as it was written: for values that shall come out again digit for digit. */
#include <ctype.h>
#include <string.h>

#include "io/json.h"

/* ---- one value, strictly (RFC 8259) ---- */

typedef struct cursor {
    const char *at, *end;
} cursor;

static bool take(cursor *c, char wanted) {
    if (c->at == c->end || *c->at != wanted) return false;
    c->at++;
    return true;
}

static void skip_blanks(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t'))
        c->at++;
}

/* At least `least` of these characters. */
static bool skip_set(cursor *c, const char *set, int least) {
    for (; c->at < c->end && *c->at && strchr(set, *c->at); c->at++)
        least--;
    return least <= 0;
}

static bool skip_number(cursor *c) {
    static const char digits[] = "0123456789";
    take(c, '-');
    if (!take(c, '0') && !skip_set(c, digits, 1)) return false;
    if (take(c, '.') && !skip_set(c, digits, 1)) return false;
    if (!take(c, 'e') && !take(c, 'E')) return true;
    if (!take(c, '+')) take(c, '-');
    return skip_set(c, digits, 1);
}

static bool skip_text(cursor *c) {
    if (!take(c, '"')) return false;
    while (c->at < c->end && *c->at != '"') {
        if ((unsigned char)*c->at < 0x20) return false;
        if (*c->at++ != '\\') continue;
        cursor hex = {c->at + 1, c->end - c->at > 5 ? c->at + 5 : c->end};
        if (c->at == c->end || !*c->at || !strchr("\"\\/bfnrtu", *c->at)) return false;
        if (*c->at++ == 'u' && !skip_set(&hex, "0123456789abcdefABCDEF", 4)) return false;
    }
    return take(c, '"');
}

static bool skip_word(cursor *c, const char *word) {
    size_t n = strlen(word);
    bool is_there = (size_t)(c->end - c->at) >= n && memcmp(c->at, word, n) == 0;
    if (is_there) c->at += n;
    return is_there;
}

static bool skip_value(cursor *c, int depth) {
    if (c->at == c->end || depth > JSON_MAX_DEPTH) return false;
    if (*c->at == '"') return skip_text(c);
    if (*c->at != '{' && *c->at != '[')
        return skip_word(c, "true") || skip_word(c, "false") || skip_word(c, "null") || skip_number(c);
    bool is_object = *c->at++ == '{';
    char close = is_object ? '}' : ']';
    skip_blanks(c);
    if (take(c, close)) return true;
    do {
        skip_blanks(c);
        if (is_object) {
            if (!skip_text(c)) return false;
            skip_blanks(c);
            if (!take(c, ':')) return false;
            skip_blanks(c);
        }
        if (!skip_value(c, depth + 1)) return false;
        skip_blanks(c);
    } while (take(c, ','));
    return take(c, close);
}

bool json_is_value(const char *text, size_t n) {
    cursor c = {text, text + n};
    return skip_value(&c, 0) && c.at == c.end;
}

/* ---- a member of an object that may be damaged behind it ---- */

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n'))
        at++;
    return at;
}

/* Behind the key or value that begins here, by its quotes and brackets; the end when it does not end. */
static const char *skip_any(const char *at, const char *end) {
    bool in_text = false;
    for (int depth = 0; at < end; at++) {
        if (*at == '\\')
            at += end - at > 1;
        else if (*at == '"')
            in_text = !in_text;
        else if (!in_text && (*at == '{' || *at == '['))
            depth++;
        else if (!in_text && (*at == '}' || *at == ']'))
            depth--;
        else if (in_text || depth > 0 || !memchr(", \t\r\n:", *at, 7))
            continue;
        else
            return at;
        if (depth < 0) return at;
        if (depth == 0 && !in_text) return at + 1;
    }
    return end;
}

static bool is_key(const char *at, const char *end, const char *key) {
    cJSON *item = *at == '"' ? cJSON_ParseWithLength(at, (size_t)(end - at)) : NULL;
    bool is_it = cJSON_IsString(item) && strcmp(item->valuestring, key) == 0;
    cJSON_Delete(item);
    return is_it;
}

bool json_find_written(const char *text, size_t n, const char *key, const char **value, size_t *n_value) {
    const char *end = text + n, *at = skip_space(text, end);
    for (char before = '{'; at < end && *at == before; before = ',') {
        const char *name = skip_space(at + 1, end), *name_end = skip_any(name, end);
        at = skip_space(name_end, end);
        if (at == end || *at != ':') return false;
        const char *begin = skip_space(at + 1, end), *behind = skip_any(begin, end);
        if (is_key(name, name_end, key)) {
            size_t n_found = (size_t)(behind - begin);
            if (!json_is_value(begin, n_found)) return false;
            *value = begin;
            *n_value = n_found;
            return true;
        }
        at = skip_space(behind, end);
    }
    return false;
}

/* ---- escapes ---- */

/* The code of the \uXXXX at the front of n bytes; -1 when there is none. */
static int read_escape(const char *text, size_t n) {
    int code = 0;
    if (n < 6 || text[0] != '\\' || text[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = text[i] ? strchr(digits, tolower((unsigned char)text[i])) : NULL;
        if (!digit) return -1;
        code = 16 * code + (int)(digit - digits);
    }
    return code;
}

bool json_mend_halves(char *text, size_t n) {
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '\\') continue;
        int code = read_escape(text + i, n - i);
        bool is_first = code >= 0xD800 && code < 0xDC00, is_second = code >= 0xDC00 && code < 0xE000;
        int next = is_first ? read_escape(text + i + 6, n - i - 6) : -1;
        if (next >= 0xDC00 && next < 0xE000) {
            i += 11;
        } else if (is_first || is_second) {
            memcpy(text + i, "\\ufffd", 6);
            found = true;
            i += 5;
        } else {
            i++; /* what the backslash covers */
        }
    }
    return found;
}
