/* tests/sanitizers/sanitizer_probe.c: one fault, to show that the sanitizers, with the options and
 * suppressions of the tests, would report it. Exit 0 means that the fault was not seen. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *fault = argc == 2 ? argv[1] : "";
    volatile int one = 1;
    char *volatile bytes = malloc(8);
    if (bytes == NULL) return 0;
    if (strcmp(fault, "overflow") == 0) bytes[7 + one] = 1;
    if (strcmp(fault, "undefined") == 0) one += INT_MAX;
    if (strcmp(fault, "leak") == 0) bytes = malloc(1);
    free(bytes);
    return 0;
}
