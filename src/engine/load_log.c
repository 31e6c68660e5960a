#include "src/engine/load_log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/files.h"
#include "kernels/kv_page.h"
#include "src/base/memory.h"

static const char *const ways[] = {[LOAD_COMPUTED] = "computed",
                                   [LOAD_WHOLE] = "loaded",
                                   [LOAD_ITS_BASE] = "base",
                                   [LOAD_FAILED] = "failed",
                                   [LOAD_DROPPED] = "dropped"};

void load_log_add(load_log *log, const load_record *records, int64_t n, int rank, int64_t prompt) {
    if (n == 0) return;
    log->records = mem_resize(log->records, (size_t)(log->n + n), sizeof *log->records);
    load_record *to = log->records + log->n;
    memcpy(to, records, (size_t)n * sizeof *records);
    for (int64_t i = 0; i < n; i++) {
        to[i].rank = rank;
        to[i].prompt = prompt;
    }
    log->n += n;
}

static const char *parts_of(const load_record *r) {
    if (r->first_part != r->last_part) return "kv";
    return r->first_part == KV_PART_K ? "k" : "v";
}

status load_log_write(const load_log *log, const char *path) {
    text_buffer text = {0};
    char line[256];
    const char *names = "prompt,rank,first_layer,last_layer,part,first_position,last_position,way,bytes,"
                        "begin_seconds,read_seconds,decode_seconds\n";
    text_append(&text, names, strlen(names));
    for (const load_record *r = log->records; r < log->records + log->n; r++) {
        snprintf(line, sizeof line,
                 "%" PRId64 ",%d,%d,%d,%s,%" PRId64 ",%" PRId64 ",%s,%" PRId64 ",%.6f,%.6f,%.6f\n", r->prompt,
                 r->rank, r->first_layer, r->last_layer, parts_of(r), r->first_pos, r->last_pos, ways[r->way],
                 r->bytes, r->begin_seconds, r->read_seconds, r->decode_seconds);
        text_append(&text, line, strlen(line));
    }
    status st = file_write_all(path, text.data, text.n);
    free(text.data);
    return st;
}
