/* src/command/number_list.h: a list of numbers of tokens, as given to an option. Local. */
#pragma once

#include <stdint.h>

#include "src/base/status.h"

enum { MAX_NUMBERS = 16 };

typedef struct numbers {
    int64_t at[MAX_NUMBERS];
    int n;
} numbers;

/* Append "1,2,3"; "none" is an empty list. Refuses, naming the option, numbers below `least`. */
status numbers_parse(const char *option, const char *text, int64_t least, numbers *out);

/* 0 of an empty list. */
int64_t numbers_largest(const numbers *list);
