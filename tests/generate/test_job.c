/* tests/generate/test_job.c: the text of a job as its tokens come: nothing is held that is certain, nothing
 * of the prompt is told again, and it ends where it should. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/generate/job.h"
#include "tests/fixtures/harness.h"

/* marks.json has the byte tokens <0x00> to <0xFF> from 3 on, <s> is 1 and special. */
#define BYTE(b) (3 + (b))
#define NONE    (-1) /* ends a list */

static const char marks_path[] = "tests/golden/tokenizer/marks.json";

static tokenizer *open_tokenizer(const char *name) {
    char path[1024];
    tokenizer *tok = NULL;
    snprintf(path, sizeof path, "%s/%s", harness_source_dir(), name);
    CHECK_OK(tokenizer_open(path, &tok));
    return tok;
}

/* The file with another decoder. */
static tokenizer *open_with_decoder(const char *name, const char *decoder) {
    char path[1024];
    size_t n;
    tokenizer *tok = NULL;
    snprintf(path, sizeof path, "%s/%s", harness_source_dir(), name);
    char *text = harness_read_file(path, &n);
    cJSON *json = cJSON_Parse(text);
    cJSON_ReplaceItemInObjectCaseSensitive(json, "decoder", cJSON_Parse(decoder));
    free(text);
    text = cJSON_PrintUnformatted(json);
    CHECK_OK(tokenizer_parse(text, strlen(text), name, &tok));
    free(text);
    cJSON_Delete(json);
    return tok;
}

static size_t count(const int32_t *ids) {
    size_t n = 0;
    while (ids[n] != NONE)
        n++;
    return n;
}

/* What each generated token adds behind the prompt, and what comes at the end; '|' stands after each. */
static bool adds(tokenizer *tok, const int32_t *prompt, const int32_t *generated, const char *expected) {
    text_stream stream = {.skip_special = true};
    text_buffer got = {0};
    text_stream_begin_behind(tok, &stream, prompt, count(prompt));
    for (size_t i = 0; i < count(generated); i++) {
        text_stream_push(tok, &stream, generated[i], &got);
        text_append(&got, "|", 1);
    }
    text_stream_flush(tok, &stream, &got);
    text_append(&got, "", 0);
    bool same = !strcmp(got.data, expected);
    if (!same) printf("expected %s, got %s\n", expected, got.data);
    text_stream_free(&stream);
    free(got.data);
    return same;
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__, NONE})
#define NO_IDS   ((const int32_t[]){NONE})
#define BAD      "\xEF\xBF\xBD"
#define GRIN     "\xF0\x9F\x98\x80"

static void test_bytes_as_they_come(void) {
    tokenizer *tok = open_tokenizer(marks_path);
    int32_t the = tokenizer_find(tok, "\xE2\x96\x81the");
    CU_ASSERT(the > 258);
    /* As tokenizers.decoders.DecodeStream 0.23.3 gives them. */
    CU_ASSERT(adds(tok, NO_IDS, IDS(BYTE('\n'), BYTE('\n'), BYTE('\n')), "\n|\n|\n|"));
    CU_ASSERT(
        adds(tok, NO_IDS, IDS(BYTE(0xF0), BYTE(0x9F), BYTE(0x98), BYTE(0x80), the), "|||" GRIN "| the|"));
    CU_ASSERT(adds(tok, NO_IDS, IDS(the, the), "the| the|"));
    CU_ASSERT(adds(tok, IDS(1), IDS(the, the), "the| the|"));
    /* Where that gives up ("Invalid prefix"): characters that were told stay, each bad byte is U+FFFD. */
    CU_ASSERT(adds(tok, NO_IDS, IDS(BYTE('\n'), BYTE(0xFF), the), "\n|" BAD "| the|"));
    CU_ASSERT(adds(tok, NO_IDS, IDS(BYTE(0xE4), BYTE(0xBD), BYTE('A')), "||" BAD BAD "A|"));
    CU_ASSERT(adds(tok, NO_IDS, IDS(BYTE(0xE4), BYTE(0xBD), the), "||" BAD BAD " the|"));
    CU_ASSERT(adds(tok, NO_IDS, IDS(BYTE(0xE4), BYTE(0xBD)), "||" BAD BAD));
    tokenizer_close(tok);
}

static void test_behind_a_prompt(void) {
    tokenizer *tok = open_tokenizer(marks_path);
    int32_t the = tokenizer_find(tok, "\xE2\x96\x81the");
    CU_ASSERT(adds(tok, IDS(1, the, BYTE('\n')), IDS(the), " the|"));
    CU_ASSERT(adds(tok, IDS(1, the, BYTE('\n')), IDS(BYTE('\n')), "\n|"));
    CU_ASSERT(adds(tok, IDS(BYTE(0xF0), BYTE(0x9F), BYTE(0x98), BYTE(0x80)), IDS(the), " the|"));
    /* Not the first of the text, however many special tokens stand between. */
    CU_ASSERT(adds(tok, IDS(the, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), IDS(the), " the|"));
    /* A character that the prompt cuts off is told when it is completed, and never as U+FFFD. */
    CU_ASSERT(adds(tok, IDS(the, BYTE(0xF0), BYTE(0x9F), BYTE(0x98)), IDS(BYTE(0x80), the), GRIN "| the|"));
    CU_ASSERT(adds(tok, IDS(the, BYTE(0xF0), BYTE(0x9F), BYTE(0x98)), IDS(the), " the|"));
    CU_ASSERT(adds(tok, IDS(the, BYTE(0xF0), BYTE(0x9F)), NO_IDS, ""));
    CU_ASSERT(adds(tok, IDS(the, BYTE(0xF0), BYTE(0x9F)), IDS(BYTE(0xFF)), BAD "|"));
    CU_ASSERT(adds(tok, IDS(the, BYTE(0xF0), BYTE(0x9F)), IDS(BYTE(0x98), the), "|" BAD " the|"));
    tokenizer_close(tok);
}

/* The same where tokens are bytes themselves; there each cut-off character is one U+FFFD. */
static void test_byte_level(void) {
    tokenizer *tok = open_tokenizer("tests/golden/tokenizer/bytes.json");
    int32_t xE4 = tokenizer_find(tok, "\xC3\xA4"), xBD = tokenizer_find(tok, "\xC2\xBD"),
            xA0 = tokenizer_find(tok, "\xC5\x82"), x = tokenizer_find(tok, "x");
    CU_ASSERT(xE4 >= 0 && xBD >= 0 && xA0 >= 0 && x >= 0);
    CU_ASSERT(adds(tok, IDS(x, xE4, xBD), IDS(xA0, x), "\xE4\xBD\xA0|x|"));
    CU_ASSERT(adds(tok, IDS(x, xE4, xBD), IDS(x), "x|"));
    CU_ASSERT(adds(tok, IDS(x, xE4), IDS(xBD, x), "|x|"));
    CU_ASSERT(adds(tok, IDS(x, xE4), NO_IDS, ""));
    CU_ASSERT(adds(tok, IDS(x), IDS(xE4), "|" BAD));
    tokenizer_close(tok);
}

/* Decoders that need the whole text hold the prompt's as well; so does a run that a step looks at as one
 * token. */
static void test_held_texts(void) {
    tokenizer *tok = open_with_decoder(
        marks_path, "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
                    "\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\"_\"}]}");
    int32_t the = tokenizer_find(tok, "\xE2\x96\x81the");
    CU_ASSERT(adds(tok, NO_IDS, IDS(the, the), "||_the_the"));
    CU_ASSERT(adds(tok, IDS(the, the), IDS(the), "|_the"));
    tokenizer_close(tok);
    tok = open_with_decoder(marks_path,
                            "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":"
                            "\"Replace\",\"pattern\":{\"String\":\"he\"},\"content\":\"it\"}]}");
    CU_ASSERT(adds(tok, NO_IDS, IDS(BYTE('h'), BYTE('e')), "||it"));
    tokenizer_close(tok);
}

/* ---- where a job ends ---- */

/* Feed a job until it is over; how many tokens it took. The text may hold zero bytes. */
static size_t run_job(tokenizer *tok, job *j, const int32_t *tokens, const char *text, size_t n_text,
                      finish_reason finish) {
    const model_config config = {.end_tokens = {2}, .n_end_tokens = 1};
    bool over = false;
    for (size_t i = 0; !over && tokens[i] != NONE; i++) {
        token_list_append(&j->session.tokens, tokens[i]);
        over = job_take_token(j, tok, &config, &(sampler_choice){.token = tokens[i]}, tokens[i + 1] == NONE);
    }
    size_t n = j->session.tokens.n;
    CU_ASSERT(over && j->finish == finish);
    CU_ASSERT(j->text.n == n_text && (n_text == 0 || !memcmp(j->text.data, text, n_text)));
    job_free(j);
    return n;
}

static job new_job(const char *stop, int32_t stop_token) {
    job j = {.stream.skip_special = true};
    if (stop) j.stops[j.n_stops++] = mem_copy_text(stop, strlen(stop));
    if (stop_token != NONE) token_list_append(&j.stop_tokens, stop_token);
    return j;
}

static void test_ends(void) {
    tokenizer *tok = open_tokenizer(marks_path);
    int32_t the = tokenizer_find(tok, "\xE2\x96\x81the");
    job j = new_job("\n", NONE);
    CU_ASSERT(run_job(tok, &j, IDS(BYTE('\n'), BYTE('\n'), BYTE('\n')), "", 0, FINISH_STOP) == 1);
    /* Behind a prompt that ends so. */
    j = new_job("\n", NONE);
    text_stream_begin_behind(tok, &j.stream, IDS(1, the, BYTE('\n')), 3);
    CU_ASSERT(run_job(tok, &j, IDS(the, BYTE('\n'), the), " the", 4, FINISH_STOP) == 2);
    /* Behind zero bytes, which end no text. */
    j = new_job("\n", NONE);
    CU_ASSERT(run_job(tok, &j, IDS(the, BYTE(0), BYTE(0), BYTE('\n'), the), "the\0\0", 5, FINISH_STOP) == 4);
    /* A stop token is no part of the text, and neither is what comes after it. */
    j = new_job(NULL, 1);
    CU_ASSERT(run_job(tok, &j, IDS(the, BYTE(0xE4), 1, the), "the" BAD, 6, FINISH_STOP) == 3);
    j = new_job(NULL, the);
    CU_ASSERT(run_job(tok, &j, IDS(the, the), "", 0, FINISH_STOP) == 1);
    /* An end token is one, unless it shall be gone on behind; then it may be a stop token. */
    j = new_job(NULL, 2);
    CU_ASSERT(run_job(tok, &j, IDS(the, 2, the), "the", 3, FINISH_EOS) == 2);
    j = new_job(NULL, 2);
    j.session.sampling.ignore_eos = true;
    CU_ASSERT(run_job(tok, &j, IDS(the, 2, the), "the", 3, FINISH_STOP) == 2);
    tokenizer_close(tok);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"bytes as they come", test_bytes_as_they_come},
                           {"behind a prompt", test_behind_a_prompt},
                           {"byte level", test_byte_level},
                           {"texts that are held", test_held_texts},
                           {"ends", test_ends},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "job", tests);
}
