#include "src/tokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "src/tokenizer_json.h"

/* Steps back after which a match is given up: in proportion to the text, for long runs of one character. */
#define LEAST_STEPS 10000000u
#define MOST_STEPS  UINT32_MAX

struct regex {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    char *pattern; /* as in the file, for messages */
};

static const uint32_t OPTIONS = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;

static status compile(const char *pattern, pcre2_code **out) {
    text_buffer translated = {0};
    status st = regex_translate(pattern, &translated);
    if (!st) {
        pcre2_compile_context *context = pcre2_compile_context_create(NULL);
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        int error;
        PCRE2_SIZE at;
        *out = pcre2_compile((PCRE2_SPTR)translated.data, translated.n, OPTIONS, &error, &at, context);
        pcre2_compile_context_free(context);
        PCRE2_UCHAR why[160];
        if (!*out) {
            pcre2_get_error_message(error, why, sizeof why);
            st = status_refuse("the pattern cannot be compiled: %s", (const char *)why);
        }
    }
    free(translated.data);
    return status_at(st, "regex %s", tokenizer_json_quote_text(pattern).text);
}

status regex_open(const char *pattern, regex **out) {
    pcre2_code *code;
    status st = compile(pattern, &code);
    if (st) return st;
    regex *re = mem_new(1, sizeof *re);
    re->code = code;
    re->pattern = mem_copy_text(pattern, strlen(pattern));
    re->match = pcre2_match_data_create(1, NULL);
    re->limits = pcre2_match_context_create(NULL);
    /* Where no executable memory can be had the pattern is interpreted: slower, the same matches. */
    if (pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0) {
        re->stack = pcre2_jit_stack_create(32 << 10, 16 << 20, NULL);
        pcre2_jit_stack_assign(re->limits, NULL, re->stack);
    }
    *out = re;
    return STATUS_OK;
}

void regex_close(regex *re) {
    if (!re) return;
    pcre2_code_free(re->code);
    pcre2_match_data_free(re->match);
    pcre2_match_context_free(re->limits);
    if (re->stack) pcre2_jit_stack_free(re->stack);
    free(re->pattern);
    free(re);
}

status regex_find(regex *re, const char *text, size_t n, size_t from, bool *found, size_t *start,
                  size_t *end) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    pcre2_set_match_limit(re->limits, n < MOST_STEPS / 16 ? LEAST_STEPS + 8 * (uint32_t)n : MOST_STEPS);
    int rc = pcre2_match(re->code, subject, n, from, PCRE2_NO_UTF_CHECK, re->match, re->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc =
            pcre2_match(re->code, subject, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, re->match, re->limits);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR why[160];
        pcre2_get_error_message(rc, why, sizeof why);
        return status_refuse("the tokenizer's regex %s failed on this text: %s",
                             tokenizer_json_quote_text(re->pattern).text, (const char *)why);
    }
    *found = rc >= 0;
    if (*found) {
        const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(re->match);
        *start = bounds[0];
        *end = bounds[1];
    }
    return STATUS_OK;
}
