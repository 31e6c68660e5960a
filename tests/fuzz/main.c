/* tests/fuzz/main.c: runs a fuzz target over every file of the directories given. A crash is the failure; so
 * is finding no file at all. */
#include <dirent.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static int run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    size_t n = 0, capacity = 1 << 20, got;
    uint8_t *data = malloc(capacity);
    while ((got = fread(data + n, 1, capacity - n, f)) > 0) {
        n += got;
        if (n == capacity) data = realloc(data, capacity *= 2);
    }
    fclose(f);
    uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past the end */
    memcpy(exact, data, n);
    free(data);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    return 1;
}

static int skip_dots(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

int main(int argc, char **argv) {
    int n_passed = 0, n_failed = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **entries;
        int n = scandir(argv[i], &entries, skip_dots, alphasort);
        if (n < 0) {
            fprintf(stderr, "%s: cannot be read\n", argv[i]);
            n_failed++;
        }
        for (int k = 0; k < n; k++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], entries[k]->d_name);
            int passed = run_file(path);
            if (!passed) fprintf(stderr, "%s: cannot be read\n", path);
            n_passed += passed;
            n_failed += !passed;
            free(entries[k]);
        }
        if (n >= 0) free(entries);
    }
    if (n_passed == 0) {
        fprintf(stderr, "no input found; usage: %s DIRECTORY ...\n", argv[0]);
        n_failed++;
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed > 0;
}
