/* Any bytes as model.safetensors, or, when they begin with {, as the index of one good shard. */
#include <string.h>

#include "io/weights/weights.h"
#include "tests/fuzz/fuzz_dir.h"

static const char good_header[] = "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                                  "\"y\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[8,16]}}";

static void write_good_shard(void) {
    char bytes[8 + sizeof good_header - 1 + 16] = {sizeof good_header - 1};
    memcpy(bytes + 8, good_header, sizeof good_header - 1);
    fuzz_dir_write("a.safetensors", bytes, sizeof bytes);
}

/* Whatever was accepted must be readable, and lie within the file. */
static void read_all(weights *w, size_t file_bytes) {
    uint64_t expected = 0;
    for (size_t i = 0; i < weights_count(w); i++) {
        const tensor *t = weights_at(w, i);
        fuzz_check(weights_find(w, t->name) == t, "a tensor is found by its name");
        fuzz_check(t->offset <= file_bytes && t->n_bytes <= file_bytes - t->offset,
                   "a tensor lies within its file");
        int64_t n = (int64_t)(t->n_bytes / dtype_bytes(t->type));
        void *data = malloc(t->n_bytes + 1);
        status st = weights_read(w, t, 0, n, data);
        fuzz_check(st != STATUS_FAILED, "reading does not fail");
        fuzz_check(st == STATUS_OK || strstr(status_text(), "NaN"), "only NaN is refused while reading");
        free(data);
        expected += t->n_bytes;
        const tensor *same;
        (void)weights_expect(w, t->name, 2, 2, &same);
    }
    fuzz_check(weights_bytes_read(w) == expected, "bytes are counted");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static int has_shard;
    if (!has_shard) write_good_shard();
    has_shard = 1;
    int is_index = n && data[0] == '{';
    char path[128];
    if (is_index) {
        unlink(fuzz_dir_file("model.safetensors", path));
        fuzz_dir_write("model.safetensors.index.json", data, n);
    } else {
        fuzz_dir_write("model.safetensors", data, n);
    }
    weights *w;
    if (weights_open(fuzz_dir(), &w) == STATUS_OK) {
        read_all(w, is_index ? 8 + sizeof good_header - 1 + 16 : n);
        weights_close(w);
    } else {
        fuzz_check_text(status_text());
    }
    return 0;
}
