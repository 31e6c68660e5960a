/* The JSON text of a manifest, a zero byte, and the arrays that it refers to; or, when it begins with
 * "kvarve", a whole manifest file but for its digest. */
#include <string.h>

#include "io/snapshot/manifest_private.h"
#include "tests/fuzz/fuzz.h"

/* What holds of every manifest that was accepted. */
static void check_accepted(const manifest *m) {
    for (int64_t i = 0; i < m->n_sequences; i++) {
        const manifest_sequence *s = &m->sequences[i];
        fuzz_check(s->n_prompt >= 0 && s->n_prompt <= s->n_tokens, "the prompt is among the tokens");
        fuzz_check(manifest_kv_tokens(s) <= s->n_tokens, "what is saved is among the tokens");
        fuzz_check(sampling_check(&s->sampling) == STATUS_OK, "sampling options are good");
        fuzz_check(s->line < m->batch.n_lines, "a line is one of the batch");
        for (int64_t k = 0; k < s->n_tokens; k++)
            fuzz_check(s->tokens[k] >= 0 && s->tokens[k] < m->vocab_size, "a token is in the vocabulary");
        for (int64_t k = 0; k < s->n_extents; k++)
            fuzz_check(s->extents[k].row0 + s->extents[k].n_tokens <= m->n_rows,
                       "rows are those of the snapshot");
    }
    for (int64_t i = 0; i < m->n_segments; i++)
        fuzz_check(segment_check(&m->segments[i], "here") == STATUS_OK, "a segment is possible");
    fuzz_check(manifest_check_rows(m, "here") == STATUS_OK, "every row is somewhere");
}

/* Write it again and parse that. */
static void check_again(const manifest *m) {
    text_buffer arrays[N_MANIFEST_ARRAYS] = {0}, json = {0}, file = {0};
    int64_t offsets[N_MANIFEST_ARRAYS];
    manifest_gather(m, arrays);
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++) {
        offsets[a] = (int64_t)file.n;
        text_append(&file, arrays[a].data, arrays[a].n);
    }
    manifest_write_json(m, arrays, offsets, &json);
    manifest again;
    status st = manifest_parse_json(json.data, json.n, file.data, file.n, "again", &again);
    if (st != STATUS_OK) fprintf(stderr, "%s\n", status_text());
    fuzz_check(st == STATUS_OK, "what was written can be read");
    fuzz_check(again.n_sequences == m->n_sequences && again.n_segments == m->n_segments, "nothing is lost");
    manifest_drop_unused(&again);
    check_accepted(&again);
    manifest_free(&again);
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++)
        free(arrays[a].data);
    free(json.data);
    free(file.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const char *bytes = (const char *)data;
    manifest m;
    status st;
    if (n >= 6 && memcmp(bytes, "kvarve", 6) == 0) {
        st = manifest_parse(bytes, n, "here", &m);
    } else {
        const char *end = n ? memchr(bytes, '\0', n) : NULL;
        const size_t n_json = end ? (size_t)(end - bytes) : n, n_skip = end ? n_json + 1 : n;
        st = manifest_parse_json(bytes, n_json, bytes + n_skip, n - n_skip, "here", &m);
    }
    if (st == STATUS_OK) {
        check_accepted(&m);
        check_again(&m);
        manifest_free(&m);
    } else {
        fuzz_check(st == STATUS_REFUSED, "bad input is refused");
        fuzz_check_text(status_text());
    }
    return 0;
}
