/* tests/fuzz/fuzz_dir.h: a directory in memory for targets that read files, removed at exit. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

static char fuzz_dir_path[64];
static const char *const fuzz_dir_names[] = {"model.safetensors", "model.safetensors.index.json",
                                             "a.safetensors", "input", "output"};

static inline const char *fuzz_dir_file(const char *name, char path[128]) {
    snprintf(path, 128, "%s/%s", fuzz_dir_path, name);
    return path;
}

static inline void fuzz_dir_remove(void) {
    char path[128];
    for (size_t i = 0; i < sizeof fuzz_dir_names / sizeof *fuzz_dir_names; i++)
        unlink(fuzz_dir_file(fuzz_dir_names[i], path));
    rmdir(fuzz_dir_path);
}

static inline const char *fuzz_dir(void) {
    if (*fuzz_dir_path) return fuzz_dir_path;
    const char *parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(fuzz_dir_path, sizeof fuzz_dir_path, "%s/kvarve-fuzz-XXXXXX", parent);
    fuzz_check(mkdtemp(fuzz_dir_path) != NULL, "a temporary directory can be made");
    atexit(fuzz_dir_remove);
    return fuzz_dir_path;
}

/* name is one of the above. */
static inline void fuzz_dir_write(const char *name, const void *data, size_t n) {
    char path[128];
    fuzz_dir();
    FILE *f = fopen(fuzz_dir_file(name, path), "wb");
    fuzz_check(f && fwrite(data, 1, n, f) == n && fclose(f) == 0, "a temporary file can be written");
}
