/* tests/fuzz/fuzz.h: what every fuzz target has. It defines LLVMFuzzerTestOneInput, takes any bytes, returns
 * 0, and aborts on a bug. clang -fsanitize=fuzzer finds inputs; main.c runs those that were kept. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* What must hold for every input. */
static inline void fuzz_check(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz: this does not hold: %s\n", what);
    abort();
}

/* The text of a refusal is one printable line. */
static inline void fuzz_check_text(const char *text) {
    for (const char *c = text; *c; c++)
        fuzz_check((unsigned char)*c >= 0x20 && *c != 0x7F, "a refusal is one printable line");
    fuzz_check(*text != 0, "a refusal has a text");
}
