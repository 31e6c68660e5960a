#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer_json.h"
#include "src/tokenizer_regex.h"
#include "src/tokenizer_unicode.h"

enum { MAX_DEPTH = 64 };
#define NO_ATOM SIZE_MAX

typedef struct group {
    size_t at; /* in the output */
    bool repeatable, outer_ignores_case;
} group;

typedef struct translator {
    const char *pattern, *at; /* the whole, what is left of it */
    text_buffer *out;
    size_t atom; /* where in the output the last atom begins; NO_ATOM: nothing to repeat */
    group groups[MAX_DEPTH];
    int depth;
    bool ignores_case;
    char last_letter; /* the literal before, where case is ignored */
} translator;

/* What an escape or a single character stands for: a code point, or a set as the inside of a class. */
typedef struct element {
    bool is_set, negated;
    uint32_t code;
} element;

static void emit(text_buffer *out, const char *text) {
    text_append(out, text, strlen(text));
}

static void emit_code(text_buffer *out, uint32_t code) {
    char text[16];
    uint32_t lower = code | 0x20;
    bool plain = (lower >= 'a' && lower <= 'z') || (code >= '0' && code <= '9');
    snprintf(text, sizeof text, plain ? "%c" : "\\x{%x}", (int)code);
    emit(out, text);
}

static status refuse_construct(const translator *t, const char *what) {
    return status_refuse("%s at byte %zu is not supported", what, (size_t)(t->at - t->pattern));
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return (c | 0x20) - 'a' + 10;
    return -1;
}

/* Up to `most` hexadecimal digits. */
static uint32_t read_hex(translator *t, int most, int *n_digits) {
    uint32_t code = 0;
    for (*n_digits = 0; *n_digits < most && hex_digit(*t->at) >= 0; (*n_digits)++)
        code = code * 16 + (uint32_t)hex_digit(*t->at++);
    return code;
}

static bool is_scalar(uint32_t code) {
    return code > 0 && code < 0x110000 && (code < 0xD800 || code > 0xDFFF);
}

/* \x41, \x{41}, \u0041; `at` stands behind the letter. */
static status read_code_escape(translator *t, char letter, uint32_t *code) {
    int n_digits;
    bool braces = letter == 'x' && *t->at == '{';
    if (braces) t->at++;
    *code = read_hex(t, braces ? 6 : letter == 'u' ? 4 : 2, &n_digits);
    if (braces && *t->at++ != '}') return refuse_construct(t, "this \\x{...}");
    bool complete = braces ? n_digits > 0 : letter == 'u' ? n_digits == 4 : n_digits == 2;
    if (!complete || !is_scalar(*code) || (letter == 'x' && !braces && *code >= 0x80))
        return refuse_construct(t, "this escaped character");
    return STATUS_OK;
}

/* \p{L}, \P{L}, \p{^L} by general category; `at` stands behind the p. Categories that hold characters
 * not assigned yet (C, Cn) change with every Unicode version and are refused. */
static status read_property(translator *t, text_buffer *set, bool *negated) {
    static const char *const known[] = {"L",  "M",  "N",  "P",  "S",  "Z",  "Lu", "Ll", "Lt", "Lm", "Lo",
                                        "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi",
                                        "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf"};
    if (*t->at++ != '{') return refuse_construct(t, "a character property without braces");
    if (*t->at == '^') {
        *negated = !*negated;
        t->at++;
    }
    size_t n = strcspn(t->at, "}");
    for (size_t i = 0; t->at[n] && i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i]) != n || strncmp(known[i], t->at, n) != 0) continue;
        emit(set, "\\p{");
        emit(set, known[i]);
        emit(set, "}");
        unicode_append_newer(set, known[i]);
        t->at += n + 1;
        return STATUS_OK;
    }
    return refuse_construct(t, "this character property");
}

static status read_set_escape(translator *t, char letter, text_buffer *set, element *out) {
    out->is_set = true;
    out->negated = letter >= 'A' && letter <= 'Z';
    switch (letter) {
    case 's':
    case 'S': /* PCRE2's own \s has U+180E too */
        emit(set, "\\x{9}-\\x{d}\\x{85}\\p{Z}");
        return STATUS_OK;
    case 'd':
    case 'D':
        emit(set, "\\p{Nd}");
        unicode_append_newer(set, "Nd");
        return STATUS_OK;
    case 'w':
    case 'W': /* PCRE2's own \w changes with its version */
        emit(set, "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"
                  "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}");
        unicode_append_newer(set, "L");
        unicode_append_newer(set, "M");
        unicode_append_newer(set, "Nd");
        unicode_append_newer(set, "Nl");
        return STATUS_OK;
    default:
        return read_property(t, set, &out->negated);
    }
}

/* An escape that stands for characters; `at` stands behind the backslash. Sets go to the end of `set`. */
static status read_escape(translator *t, text_buffer *set, element *out) {
    static const char letters[] = "ntrfvae", codes[] = "\n\t\r\f\v\a\x1B";
    *out = (element){0};
    const char *letter = *t->at ? strchr(letters, *t->at) : NULL;
    if (letter) {
        out->code = (uint32_t)codes[letter - letters];
        t->at++;
    } else if (*t->at && strchr("sSdDwWpP", *t->at)) {
        return read_set_escape(t, *t->at++, set, out);
    } else if (*t->at == 'x' || *t->at == 'u') {
        return read_code_escape(t, *t->at++, &out->code);
    } else {
        bool is_letter =
            ((*t->at | 0x20) >= 'a' && (*t->at | 0x20) <= 'z') || (*t->at >= '0' && *t->at <= '9');
        if (!*t->at || is_letter) return refuse_construct(t, "this escape");
        size_t n_bytes;
        out->code = utf8_read(t->at, &n_bytes);
        t->at += n_bytes;
    }
    return STATUS_OK;
}

static status read_class_element(translator *t, text_buffer *set, element *out) {
    *out = (element){0};
    if (*t->at == '\\') {
        t->at++;
        return read_escape(t, set, out);
    }
    if (!*t->at) return refuse_construct(t, "a class that does not end");
    if (*t->at == '[') return refuse_construct(t, "a class within a class");
    if (t->at[0] == '&' && t->at[1] == '&') return refuse_construct(t, "&& in a class");
    if (t->at[0] == '-' && t->at[1] == '-') return refuse_construct(t, "-- in a class");
    size_t n_bytes;
    out->code = utf8_read(t->at, &n_bytes);
    t->at += n_bytes;
    return STATUS_OK;
}

/* One element or range of a class: into `inside`, or into `except` if it is the complement of a set. */
static status read_class_part(translator *t, text_buffer *inside, text_buffer *except) {
    text_buffer set = {0};
    element first, last;
    status st = read_class_element(t, &set, &first);
    if (!st && t->ignores_case && (first.is_set || first.code >= 0x80))
        st = refuse_construct(t, "anything but ASCII in a class that ignores case");
    if (!st && first.negated && except->n) st = refuse_construct(t, "a second complement in a class");
    if (!st && first.is_set) {
        text_append(first.negated ? except : inside, set.data, set.n);
    } else if (!st) {
        emit_code(inside, first.code);
        if (t->at[0] == '-' && t->at[1] != ']') {
            t->at++;
            st = read_class_element(t, &set, &last);
            if (!st && (last.is_set || last.code < first.code || (t->ignores_case && last.code >= 0x80)))
                st = refuse_construct(t, "this range in a class");
            emit(inside, "-");
            if (!st) emit_code(inside, last.code);
        }
    }
    free(set.data);
    return st;
}

/* PCRE2 has no complement of several ranges inside a class, so with one the class becomes a group. */
static void emit_class(text_buffer *out, bool negated, const text_buffer *inside, const text_buffer *except) {
    if (!except->n) {
        emit(out, negated ? "[^" : "[");
        text_append(out, inside->data, inside->n);
        emit(out, "]");
        return;
    }
    emit(out, "(?:");
    if (inside->n) {
        emit(out, negated ? "(?![" : "[");
        text_append(out, inside->data, inside->n);
        emit(out, negated ? "])" : "]|");
    }
    emit(out, negated ? "[" : "[^");
    text_append(out, except->data, except->n);
    emit(out, "])");
}

static status read_class(translator *t) {
    text_buffer inside = {0}, except = {0};
    status st = STATUS_OK;
    t->atom = t->out->n;
    t->at++;
    bool negated = *t->at == '^';
    if (negated) t->at++;
    if (*t->at == ']') st = refuse_construct(t, "] at the beginning of a class");
    if (negated && t->ignores_case) st = refuse_construct(t, "a negated class that ignores case");
    while (!st && *t->at != ']')
        st = read_class_part(t, &inside, &except);
    if (!st) {
        t->at++;
        emit_class(t->out, negated, &inside, &except);
    }
    free(inside.data);
    free(except.data);
    return st;
}

static status read_literal(translator *t, uint32_t code) {
    if (t->ignores_case) {
        if (code >= 0x80) return refuse_construct(t, "ignoring the case of a character outside ASCII");
        /* Letters that fold together with one other character: ss with U+00DF, and the ligatures. */
        static const char *const folds[] = {"ff", "fi", "fl", "ss", "st"};
        char now[3] = {t->last_letter, (char)(code >= 'A' && code <= 'Z' ? code | 0x20 : code), 0};
        for (size_t i = 0; i < sizeof folds / sizeof *folds; i++)
            if (!strcmp(now, folds[i]))
                return refuse_construct(t, "ignoring the case of ff, fi, fl, ss or st");
        t->last_letter = now[1];
    }
    t->atom = t->out->n;
    emit_code(t->out, code);
    return STATUS_OK;
}

static status read_outer_escape(translator *t) {
    t->at++;
    if (*t->at && strchr("AzZ", *t->at)) {
        char anchor[] = {'\\', *t->at++, 0};
        emit(t->out, anchor);
        t->atom = NO_ATOM;
        return STATUS_OK;
    }
    text_buffer set = {0};
    element found;
    /* Oniguruma's \w has these, but not its \w in a class. */
    if ((*t->at | 0x20) == 'w') emit(&set, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
    status st = read_escape(t, &set, &found);
    if (!st && !found.is_set) {
        st = read_literal(t, found.code);
    } else if (!st && t->ignores_case) {
        st = refuse_construct(t, "a set of characters where case is ignored");
    } else if (!st) {
        t->atom = t->out->n;
        emit(t->out, found.negated ? "[^" : "[");
        text_append(t->out, set.data, set.n);
        emit(t->out, "]");
    }
    free(set.data);
    return st;
}

/* Atomic groups, (?>...), are refused: the JIT of PCRE2 10.42 forgets that (?>a*|b) is atomic. */
static status open_group(translator *t) {
    static const struct {
        const char *text;
        bool repeatable;
    } kinds[] = {{"(?:", true},  {"(?i:", true},  {"(?=", false},
                 {"(?!", false}, {"(?<=", false}, {"(?<!", false}};
    if (t->depth == MAX_DEPTH) return refuse_construct(t, "so deep a nest of groups");
    if (t->at == t->pattern && !strncmp(t->at, "(?i)", 4)) {
        emit(t->out, "(?i)");
        t->ignores_case = true;
        t->at += 4;
        return STATUS_OK;
    }
    group opened = {t->out->n, true, t->ignores_case};
    if (t->at[1] != '?') {
        emit(t->out, "(?:"); /* what a group has captured is never asked for */
        t->at++;
    } else {
        size_t i = 0, n_kinds = sizeof kinds / sizeof *kinds;
        while (i < n_kinds && strncmp(t->at, kinds[i].text, strlen(kinds[i].text)) != 0)
            i++;
        if (i == n_kinds) return refuse_construct(t, "this kind of group");
        emit(t->out, kinds[i].text);
        opened.repeatable = kinds[i].repeatable;
        if (t->at[2] == 'i') t->ignores_case = true;
        t->at += strlen(kinds[i].text);
    }
    t->groups[t->depth++] = opened;
    t->atom = NO_ATOM;
    return STATUS_OK;
}

static status close_group(translator *t) {
    if (t->depth == 0) return refuse_construct(t, "a ) without its (");
    group closed = t->groups[--t->depth];
    emit(t->out, ")");
    t->at++;
    t->ignores_case = closed.outer_ignores_case;
    t->atom = closed.repeatable ? closed.at : NO_ATOM;
    return STATUS_OK;
}

/* {n}, {n,}, {,m} or {n,m}, as n and m (-1: no limit). Returns its length, 0 when the { is a literal. */
static size_t read_interval(const char *text, int *least, int *most) {
    int n = 0;
    if (text[1 + strspn(text + 1, "0123456789,")] != '}') return 0;
    if (sscanf(text, "{%5d,%5d}%n", least, most, &n) == 2 && n) return (size_t)n;
    *least = 0;
    if (sscanf(text, "{,%5d}%n", most, &n) == 1 && n) return (size_t)n;
    *most = -1;
    if (sscanf(text, "{%5d,}%n", least, &n) == 1 && n) return (size_t)n;
    if (sscanf(text, "{%5d}%n", least, &n) == 1 && n) {
        *most = *least;
        return (size_t)n;
    }
    return 0;
}

static void wrap_atom(translator *t) {
    text_buffer atom = {0};
    text_append(&atom, t->out->data + t->atom, t->out->n - t->atom);
    t->out->n = t->atom;
    emit(t->out, "(?:");
    text_append(t->out, atom.data, atom.n);
    emit(t->out, ")");
    free(atom.data);
}

static status read_interval_quantifier(translator *t, size_t n_bytes, int least, int most) {
    char text[32];
    if (least < 0 || (most >= 0 && most < least)) return refuse_construct(t, "this interval");
    snprintf(text, sizeof text, most < 0 ? "{%d,}" : "{%d,%d}", least, most);
    emit(t->out, text);
    bool exact = !memchr(t->at, ',', n_bytes);
    t->at += n_bytes;
    if (*t->at == '?' && !exact) {
        emit(t->out, "?");
        t->at++;
    } else if (*t->at == '?' || *t->at == '+') { /* in Ruby these repeat what is repeated */
        wrap_atom(t);
        emit(t->out, *t->at == '?' ? "?" : "+");
        t->at++;
    }
    return STATUS_OK;
}

static status read_quantifier(translator *t) {
    int least, most;
    size_t n_bytes = *t->at == '{' ? read_interval(t->at, &least, &most) : 1;
    if (n_bytes == 0) {
        t->at++;
        return read_literal(t, '{');
    }
    if (t->atom == NO_ATOM) return refuse_construct(t, "a repetition of nothing or of a repetition");
    status st = STATUS_OK;
    if (*t->at == '{') {
        st = read_interval_quantifier(t, n_bytes, least, most);
    } else {
        text_append(t->out, t->at++, 1);
        if (*t->at == '?' || *t->at == '+') text_append(t->out, t->at++, 1);
    }
    t->atom = NO_ATOM;
    t->last_letter = 0;
    return st;
}

static status read_next(translator *t) {
    char first = *t->at;
    if (strchr("[()|^$.", first)) t->last_letter = 0;
    switch (first) {
    case '\\':
        return read_outer_escape(t);
    case '[':
        return read_class(t);
    case '(':
        return open_group(t);
    case ')':
        return close_group(t);
    case '*':
    case '+':
    case '?':
    case '{':
        return read_quantifier(t);
    case '|':
    case '^':
    case '$':
    case '.':
        t->atom = first == '.' ? t->out->n : NO_ATOM;
        text_append(t->out, t->at++, 1);
        return STATUS_OK;
    default: {
        size_t n_bytes;
        uint32_t code = utf8_read(t->at, &n_bytes);
        t->at += n_bytes;
        return read_literal(t, code);
    }
    }
}

status regex_translate(const char *pattern, text_buffer *out) {
    translator t = {.pattern = pattern, .at = pattern, .out = out, .atom = NO_ATOM};
    text_append(out, "", 0);
    while (*t.at) {
        status st = read_next(&t);
        if (st) return st;
    }
    if (t.depth) return refuse_construct(&t, "a ( without its )");
    return STATUS_OK;
}
