/* src/tokenizer/pattern.h: cutting a text at what a pattern matches. Local. */
#pragma once

#include <stdbool.h>

#include "io/json.h"
#include "src/tokenizer/regex.h"

/* A part of a text, which is a match or stands between matches. */
typedef struct span {
    size_t start, end;
    bool matched;
} span;

/* Zeroed is empty; released with free(items). */
typedef struct span_list {
    span *items;
    size_t n, capacity;
} span_list;

/* A literal text or a regular expression. */
typedef struct text_pattern {
    char *literal; /* NULL: the expression */
    size_t n;
    regex *re;
} text_pattern;

/* From the member "pattern" of an object: {"String": text} or {"Regex": text}. The caller frees also after a
 * refusal. */
void text_pattern_parse(text_pattern *pattern, json_object *owner);
void text_pattern_free(text_pattern *pattern);

/* Fill the list with the spans of a text, in order and covering it. Matches may be empty. */
status text_pattern_cut(const text_pattern *pattern, const char *text, size_t n, span_list *spans);

/* The same where each character for which is() holds is a match. */
void text_cut_at_chars(bool (*is)(uint32_t code), const char *text, size_t n, span_list *spans);
