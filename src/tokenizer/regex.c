#include "src/tokenizer/regex.h"

#include <limits.h>
#include <oniguruma.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/utf8.h"
#include "src/tokenizer/charset.h"

enum {
    MAX_PATTERN_BYTES = 1 << 16, /* compiling takes a time that may grow with its square */
    MAX_CALLS = 16,              /* of groups: those that call others that do take exponential time */
    LEAST_STEPS =
        10000000, /* after which a match is given up; more for long texts, for runs of one character */
    STEPS_PER_BYTE = 8,
};

struct regex {
    OnigEncodingType encoding;
    OnigRegex code;
    OnigRegion *match;
    OnigMatchParam *limits;
    char *pattern; /* as in the file, for messages */
};

typedef struct onig_text {
    char text[ONIG_MAX_ERROR_MESSAGE_LEN + 1];
} onig_text;

static onig_text error_text(int error, OnigErrorInfo *info) {
    onig_text why;
    int n = onig_error_code_to_str((OnigUChar *)why.text, error, info);
    why.text[n] = '\0';
    return why;
}

/* How often a backslash stands before this letter. */
static int count_escapes(const char *pattern, char letter) {
    int n = 0;
    for (; *pattern; pattern++)
        if (*pattern == '\\' && pattern[1]) n += *++pattern == letter;
    return n;
}

static status compile(regex *re, const char *pattern) {
    size_t n = strlen(pattern);
    if (n > MAX_PATTERN_BYTES)
        return status_refuse("a pattern of %zu bytes is too long (at most %d)", n, MAX_PATTERN_BYTES);
    if (count_escapes(pattern, 'g') > MAX_CALLS)
        return status_refuse("more than %d calls of groups (\\g<...>) are not supported", MAX_CALLS);
    if (ONIGURUMA_VERSION_INT < 60909 && count_escapes(pattern, 'R')) /* \R+ finds a single one */
        return status_refuse("\\R needs Oniguruma 6.9.9 or newer");
    const OnigUChar *text = (const OnigUChar *)pattern;
    OnigErrorInfo info;
    int error =
        onig_new(&re->code, text, text + n, ONIG_OPTION_NONE, &re->encoding, ONIG_SYNTAX_DEFAULT, &info);
    if (error == ONIG_NORMAL) return STATUS_OK;
    re->code = NULL;
    return status_refuse("the pattern cannot be compiled: %s", error_text(error, &info).text);
}

status regex_open(const char *pattern, regex **out) {
    regex *re = mem_new(1, sizeof *re);
    re->encoding = charset_utf8();
    re->pattern = mem_copy_text(pattern, strlen(pattern));
    status st = compile(re, pattern);
    if (st != STATUS_OK) {
        st = status_at(st, "regex %s", utf8_quote(pattern).text);
        regex_close(re);
        return st;
    }
    re->match = onig_region_new();
    re->limits = onig_new_match_param();
    if (!re->match || !re->limits) status_die("out of memory for a regular expression");
    onig_initialize_match_param(re->limits);
    *out = re;
    return STATUS_OK;
}

void regex_close(regex *re) {
    if (!re) return;
    if (re->limits) onig_free_match_param(re->limits);
    if (re->match) onig_region_free(re->match, 1);
    onig_free(re->code);
    free(re->pattern);
    free(re);
}

static bool is_boundary(const char *text, size_t n, int at) {
    return at >= 0 && (size_t)at <= n && ((size_t)at == n || ((unsigned char)text[at] & 0xC0) != 0x80);
}

status regex_find(regex *re, const char *text, size_t n, size_t from, bool *found, size_t *start,
                  size_t *end) {
    if (n > INT_MAX) return status_refuse("a text of %zu bytes is too long for the tokenizer's regex", n);
    unsigned long steps = LEAST_STEPS + STEPS_PER_BYTE * n;
    onig_set_retry_limit_in_match_of_match_param(re->limits, steps);
    onig_set_retry_limit_in_search_of_match_param(re->limits, steps);
    onig_set_match_stack_limit_size_of_match_param(re->limits,
                                                   (unsigned)(steps < UINT_MAX ? steps : UINT_MAX));
    const OnigUChar *begin = (const OnigUChar *)text, *stop = begin + n;
    int rc = onig_search_with_param(re->code, begin, stop, begin + from, stop, re->match, ONIG_OPTION_NONE,
                                    re->limits);
    *found = rc >= 0;
    if (rc == ONIG_MISMATCH) return STATUS_OK;
    int first = rc < 0 ? -1 : re->match->beg[0], last = rc < 0 ? -1 : re->match->end[0];
    bool is_part = is_boundary(text, n, first) && is_boundary(text, n, last) && (size_t)first >= from;
    if (!is_part || last < first) /* \K may set the beginning anywhere */
        return status_refuse("the tokenizer's regex %s failed on this text: %s", utf8_quote(re->pattern).text,
                             rc < 0 ? error_text(rc, NULL).text : "a match that is no part of it");
    *start = (size_t)first;
    *end = (size_t)last;
    return STATUS_OK;
}
