/* Any bytes as prompts.jsonl, and as the text of a result, which must be a line of JSON again. */
#include <string.h>

#include "io/json.h"
#include "io/jsonl/prompts.h"
#include "io/jsonl/results.h"
#include "src/base/utf8.h"
#include "tests/fuzz/fuzz_dir.h"

static void check_line(const prompt_line *line) {
    fuzz_check(line->id != NULL, "a line has an id");
    fuzz_check(!line->id_is_json || json_is_value(line->id, strlen(line->id)),
               "an id without quotes is a value");
    if (line->error) {
        fuzz_check_text(line->error);
        return;
    }
    fuzz_check(!line->text != !line->tokens, "text or tokens");
    fuzz_check(line->text ? line->n_text == strlen(line->text) && line->n_text > 0 : line->n_tokens > 0,
               "not empty");
    fuzz_check(sampling_check(&line->sampling) == STATUS_OK, "sampling options");
}

/* The file holds one line of valid JSON whose text is the repaired bytes. */
static void check_result(const char *path, const char *bytes, size_t n) {
    static char text[1 << 16];
    FILE *f = fopen(path, "rb");
    size_t got = f ? fread(text, 1, sizeof text, f) : 0;
    if (f) fclose(f);
    if (got == sizeof text || memchr(bytes, 0, n)) return;
    fuzz_check(got > 0 && memchr(text, '\n', got) == text + got - 1, "a result is one whole line");
    cJSON *item = NULL;
    fuzz_check(json_parse(text, got, path, &item) == STATUS_OK, "a result is JSON");
    text_buffer repaired = {0};
    utf8_append_repaired(&repaired, bytes, n);
    text_append(&repaired, "", 0);
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(item, "text");
    fuzz_check(cJSON_IsString(member) && strcmp(member->valuestring, repaired.data) == 0,
               "the text comes back");
    free(repaired.data);
    cJSON_Delete(item);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char in[128], out[128];
    fuzz_dir_write("input", data, n);
    fuzz_dir_file("input", in);
    fuzz_dir_file("output", out);
    prompts *p;
    fuzz_check(prompts_open(in, &p) == STATUS_OK, "the file opens");
    const sampling_options defaults = sampling_defaults();
    int64_t last = 0;
    for (bool more = true; more;) {
        prompt_line line;
        if (prompts_next(p, &defaults, &line, &more) != STATUS_OK) {
            fuzz_check(last == 0 && strstr(status_text(), "convert it first"),
                       "the file reads, or is no UTF-8");
            break;
        }
        if (!more) break;
        fuzz_check(line.line > last, "line numbers rise");
        last = line.line;
        check_line(&line);
        prompt_line_free(&line);
    }
    prompts_close(p);

    results *r;
    fuzz_check(results_open(out, &r) == STATUS_OK, "the output opens");
    const result line = {.id = "x", .text = (const char *)data, .n_text = n, .n_tokens = 0};
    fuzz_check(results_write(r, &line) == STATUS_OK, "the output is written");
    results_close(r);
    check_result(out, (const char *)data, n);
    return 0;
}
