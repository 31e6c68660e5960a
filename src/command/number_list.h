/* src/command/number_list.h: a list of numbers, as given to an option. Local. */
#pragma once

#include <stdint.h>

#include "src/base/status.h"

enum { MAX_NUMBERS = 16 };

typedef struct numbers {
    int64_t at[MAX_NUMBERS];
    int n;
} numbers;

#define NUMBERS_MOST ((int64_t)1 << 40) /* tokens, where nothing else bounds them */

/* Append "1,2,3"; "none" is an empty list. Refuses, naming the option, numbers that are not in least ..
 * most. */
status numbers_parse(const char *option, const char *text, int64_t least, int64_t most, numbers *out);

/* 0 of an empty list. */
int64_t numbers_largest(const numbers *list);
