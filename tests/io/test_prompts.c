/* tests/io/test_prompts.c: prompts.jsonl and out.jsonl. */
#include <cjson/cJSON.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/json.h"
#include "io/jsonl/prompts.h"
#include "io/jsonl/results.h"
#include "io/snapshot/attempts.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/base/utf8.h"
#include "tests/fixtures/harness.h"

static const char *path_of(const char *name) {
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", harness_temp_dir(), name);
    return path;
}

static prompts *open_bytes(const char *bytes, size_t n) {
    harness_write_file(path_of("prompts.jsonl"), bytes, n);
    prompts *p = NULL;
    CHECK_OK(prompts_open(path_of("prompts.jsonl"), &p));
    return p;
}

static prompts *open_text(const char *text) {
    return open_bytes(text, strlen(text));
}

static const sampling_options defaults = {
    .temperature = 0.5, .top_p = 1, .repetition_penalty = 1, .max_tokens = 77};

/* The next line; false at the end. */
static bool next(prompts *p, prompt_line *line) {
    bool more = false;
    CHECK_OK(prompts_next(p, &defaults, line, &more));
    return more;
}

static void test_good_lines(void) {
    prompts *p = open_text(
        "\xEF\xBB\xBF{\"prompt\": \"Hello\"}\r\n"
        "\n"
        "  \t\r\n"
        "{\"id\": \"b\", \"tokens\": [1, 2, 2147483647], \"max_tokens\": 5, \"temperature\": 0.25, "
        "\"top_k\": 3, \"top_p\": 0.5, \"min_p\": 0.125, \"repetition_penalty\": 1.5, "
        "\"seed\": 9007199254740992, \"stop\": [\"\\n\", \"END\"], \"ignore_eos\": true, "
        "\"logprobs\": 4, \"stop_token_ids\": [0, 7], \"prompt_token_ids\": true}\n"
        "{\"id\": -7, \"prompt\": \"caf\\u00e9 \xFF\", \"stop\": \"x\", \"top_k\": null, "
        "\"add_special_tokens\": false}\n"
        "{\"prompt\": \"last\", \"stop\": [], \"stop_token_ids\": [], \"add_special_tokens\": true}");
    prompt_line line;
    CU_ASSERT(next(p, &line));
    CU_ASSERT(!line.error && line.line == 1 && line.id_is_json && !strcmp(line.id, "1"));
    CU_ASSERT(line.n_text == 5 && !strcmp(line.text, "Hello") && !line.tokens);
    CU_ASSERT(memcmp(&line.sampling, &defaults, sizeof defaults) == 0 && !line.has_stops);
    CU_ASSERT(line.special == SPECIAL_MISSING && !line.tells_prompt && line.n_stop_tokens == 0);
    prompt_line_free(&line);

    CU_ASSERT(next(p, &line));
    CU_ASSERT(!line.error && line.line == 4 && !line.id_is_json && !strcmp(line.id, "b"));
    CU_ASSERT(!line.text && line.n_tokens == 3 && line.tokens[0] == 1 && line.tokens[2] == 2147483647);
    const sampling_options *s = &line.sampling;
    CU_ASSERT(s->max_tokens == 5 && s->temperature == 0.25 && s->top_k == 3 && s->top_p == 0.5 &&
              s->min_p == 0.125);
    CU_ASSERT(s->repetition_penalty == 1.5 && s->seed == (int64_t)1 << 53 && s->ignore_eos &&
              s->n_logprobs == 4);
    CU_ASSERT(line.has_stops && line.n_stops == 2 && !strcmp(line.stops[0], "\n") &&
              !strcmp(line.stops[1], "END"));
    CU_ASSERT(line.n_stop_tokens == 2 && line.stop_tokens[0] == 0 && line.stop_tokens[1] == 7);
    CU_ASSERT(line.tells_prompt);
    prompt_line_free(&line);

    CU_ASSERT(next(p, &line));
    CU_ASSERT(!line.error && line.line == 5 && line.id_is_json && !strcmp(line.id, "-7"));
    CU_ASSERT(!strcmp(line.text, "caf\xC3\xA9 \xFF") && line.n_stops == 1 && line.sampling.top_k == 0);
    CU_ASSERT(line.special == SPECIAL_NONE);
    prompt_line_free(&line);

    CU_ASSERT(next(p, &line));
    CU_ASSERT(!line.error && line.line == 6 && line.has_stops && line.n_stops == 0);
    CU_ASSERT(line.special == SPECIAL_ALL && line.n_stop_tokens == 0);
    prompt_line_free(&line);
    CU_ASSERT(!next(p, &line));
    CU_ASSERT(!next(p, &line));
    prompts_close(p);
}

/* Each bad line is refused by its number, and the good line behind it is read. */
static void test_bad_lines(void) {
    static const struct {
        const char *text, *part, *id;
    } cases[] = {
        {"not JSON", "line 1: not valid JSON at column", "1"},
        {"{\"prompt\": \"x\"", "line 1: not valid JSON", "1"},
        {"{\"prompt\": \"x\"} {}", "line 1: not valid JSON: more text behind the value", "1"},
        {"[1]", "line 1: an object", "1"},
        {"\"text\"", "line 1: an object", "1"},
        {"{\"id\": \"q\"}", "line 1: prompt: a text was expected, but it is missing", "q"},
        {"{\"id\": \"q\", \"prompt\": \"\"}", "line 1: prompt: it is empty", "q"},
        {"{\"id\": 5, \"prompt\": 5}", "line 1: prompt: a text was expected", "5"},
        {"{\"prompt\": \"x\", \"tokens\": [1]}", "line 1: tokens: a line has", "1"},
        {"{\"tokens\": []}", "line 1: tokens: an array with at least one", "1"},
        {"{\"tokens\": [1, -1]}", "line 1: tokens: element 1", "1"},
        {"{\"tokens\": [1, 2, 2147483648]}", "line 1: tokens: element 2", "1"},
        {"{\"tokens\": [1.5]}", "line 1: tokens: element 0", "1"},
        {"{\"tokens\": \"1\"}", "line 1: tokens: an array", "1"},
        {"{\"prompt\": \"x\", \"stop_token_ids\": 7}", "line 1: stop_token_ids: an array", "1"},
        {"{\"prompt\": \"x\", \"stop_token_ids\": [7, -1]}", "line 1: stop_token_ids: element 1", "1"},
        {"{\"prompt\": \"x\", \"add_special_tokens\": 1}", "line 1: add_special_tokens", "1"},
        {"{\"tokens\": [1], \"add_special_tokens\": true}", "line 1: add_special_tokens: tokens are", "1"},
        {"{\"prompt\": \"x\", \"prompt_token_ids\": []}", "line 1: prompt_token_ids", "1"},
        {"{\"prompt\": \"x\", \"temprature\": 1}",
         "line 1: temprature: this key is not known; known are id, custom_id, prompt", "1"},
        {"{\"a\\nb\\u001b[2J\": 1}", "line 1: a?b?[2J: this key is not known", "1"},
        {"{\"id\": \"m\", \"messages\": []}", "line 1: messages: chats are not rendered: give", "m"},
        {"{\"prompt\": \"x\", \"n\": 2}", "line 1: n: 2 texts of one prompt", "1"},
        {"{\"prompt\": \"x\", \"n\": 0}", "line 1: n: an integer", "1"},
        {"{\"prompt\": \"x\", \"top_k\": -2}", "line 1: top_k", "1"},
        {"{\"prompt\": \"x\", \"prompt\": \"y\"}", "line 1: the key \"prompt\" occurs twice", "1"},
        {"{\"prompt\": \"x\", \"temperature\": -1}", "line 1: temperature", "1"},
        {"{\"prompt\": \"x\", \"temperature\": \"hot\"}", "line 1: temperature", "1"},
        {"{\"prompt\": \"x\", \"temperature\": 1e999}", "line 1: temperature", "1"},
        {"{\"prompt\": \"x\", \"top_p\": 0}", "line 1: top_p must be above 0", "1"},
        {"{\"prompt\": \"x\", \"min_p\": 1}", "line 1: min_p must be", "1"},
        {"{\"prompt\": \"x\", \"repetition_penalty\": 0}", "line 1: repetition_penalty must be", "1"},
        {"{\"prompt\": \"x\", \"top_k\": 1.5}", "line 1: top_k", "1"},
        {"{\"prompt\": \"x\", \"max_tokens\": -1}", "line 1: max_tokens", "1"},
        {"{\"prompt\": \"x\", \"seed\": 9007199254740994}", "line 1: seed", "1"},
        {"{\"prompt\": \"x\", \"logprobs\": 21}", "line 1: logprobs", "1"},
        {"{\"prompt\": \"x\", \"ignore_eos\": 1}", "line 1: ignore_eos", "1"},
        {"{\"prompt\": \"x\", \"stop\": \"\"}", "line 1: stop", "1"},
        {"{\"prompt\": \"x\", \"stop\": [\"a\", 1]}", "line 1: stop", "1"},
        {"{\"prompt\": \"x\", \"stop\": "
         "[\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\","
         "\"1\",\"1\",\"1\",\"1\"]}",
         "line 1: stop: more than 16", "1"},
        {"{\"prompt\": \"a\\u0000b\"}", "line 1: zero character", "1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        text_buffer text = {0};
        text_append(&text, cases[i].text, strlen(cases[i].text));
        text_append(&text, "\n{\"prompt\": \"good\"}\n", 20);
        prompts *p = open_bytes(text.data, text.n);
        free(text.data);
        prompt_line line;
        if (next(p, &line)) {
            bool good = line.error && strstr(line.error, cases[i].part) &&
                        strstr(line.error, "prompts.jsonl: line 1: ");
            CU_ASSERT(good);
            if (!good)
                printf("%s: %s, not %s\n", cases[i].text, line.error ? line.error : "accepted",
                       cases[i].part);
            CU_ASSERT_STRING_EQUAL(line.id, cases[i].id);
            prompt_line_free(&line);
        } else {
            CU_FAIL("no line");
        }
        CU_ASSERT(next(p, &line));
        CU_ASSERT(!line.error && line.line == 2 && line.text && !strcmp(line.text, "good"));
        prompt_line_free(&line);
        CU_ASSERT(!next(p, &line));
        prompts_close(p);
    }
}

/* The id of a line comes out as it went in, whatever becomes of the line. */
static void test_ids(void) {
    static const struct {
        const char *line, *id;
        bool is_json, is_good;
    } cases[] = {
        {"{\"id\": 1234567890123456789, \"prompt\": \"x\"}", "1234567890123456789", true, true},
        {"{\"id\": -0.50e+2, \"prompt\": \"x\"}", "-0.50e+2", true, true},
        {"{\"id\":1e999,\"prompt\":\"x\"}", "1e999", true, true},
        {"{\"prompt\": \"x\", \"id\": true}", "true", true, true},
        {"{\"prompt\": \"x\", \"id\": [1, {\"a\": \"]\"}] }", "[1, {\"a\": \"]\"}]", true, true},
        {"{\"prompt\": \"x\", \"id\": null}", "null", true, true},
        {"{\"prompt\": \"x\", \"\\u0069d\": \"caf\\u00e9 \\ud83d\\ude00\"}", "caf\xC3\xA9 \xF0\x9F\x98\x80",
         false, true},
        {"{\"id\": \"a\\u0000b\", \"prompt\": \"x\"}", "\"a\\u0000b\"", true, false},
        {"{\"id\": \"a\\ud83d\", \"prompt\": \"x\"}", "\"a\\ud83d\"", true, true},
        {"{\"id\": \"a\", \"prompt\": \"\\u0000\"}", "a", false, false},
        {"{\"id\": \"a\", \"prompt\":", "a", false, false},
        {"{\"prompt\": \"x\\\"}, \", \"id\": 7} and more", "7", true, false},
        {"{\"id\": 1, \"id\": 2, \"prompt\": \"x\"}", "1", true, false},
        {"{\"a\": {\"id\": 3}, \"b\": [{\"id\": 4}]", "1", true, false},
        {"{\"id\": 01, \"prompt\": \"x\"}", "1", true, false},
        {"{\"id\": 1., \"prompt\": \"x\"}", "1", true, false},
        {"{\"id\": \"a\", \"custom_id\": \"b\", \"prompt\": \"x\"}", "a", false, true},
        {"{\"custom_id\": \"b\", \"prompt\": \"x\"}", "b", false, true},
        {"{\"custom_id\": 5", "5", true, false},
        {"{\"id\": 5 6}", "5", true, false},
        {"{\"id\":", "1", true, false},
        {"{\"id\"", "1", true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompts *p = open_text(cases[i].line);
        prompt_line line = {0};
        CU_ASSERT(next(p, &line));
        bool same = line.id && !strcmp(line.id, cases[i].id) && line.id_is_json == cases[i].is_json &&
                    !line.error == cases[i].is_good;
        CU_ASSERT(same);
        if (!same) printf("%s: id %s, %s\n", cases[i].line, line.id, line.error ? line.error : "accepted");
        prompt_line_free(&line);
        prompts_close(p);
    }
    static const char *const values[] = {"{\"a\" : [ ], \"b\":{} }", "-12.5E-3", "0", "[[true,null]]"};
    static const char *const others[] = {"1\n", "[1,]", "\"\\x\"", "\"\\u12g4\"", "\"\t\"", "",
                                         "-",   "01",   "{1:2}",   "[1",          "tru"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        CU_ASSERT(json_is_value(values[i], strlen(values[i])));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CU_ASSERT(!json_is_value(others[i], strlen(others[i])));
}

/* Lines as other programs write them. */
static void test_other_programs(void) {
    prompts *p =
        open_text("{\"prompt\": \"a\\ud800b\\udc00\\\\ud800\", \"top_k\": -1, \"logprobs\": true, \"n\": 1}\n"
                  "\xEF\xBB\xBF{\"prompt\": \"x\", \"logprobs\": false, \"metadata\": {\"a\": [1]}}\n"
                  "\xEF\xBB\xBF\n"
                  "{\"id\": 1, \"custom_id\": \"y\", \"prompt\": \"caf\xE9\", \"metadata\": 7}\n");
    sampling_options with = defaults;
    with.top_k = 5;
    with.n_logprobs = 3;
    prompt_line line;
    bool more;
    CHECK_OK(prompts_next(p, &with, &line, &more));
    CU_ASSERT(!line.error && !strcmp(line.text, "a\xEF\xBF\xBD"
                                                "b\xEF\xBF\xBD\\ud800"));
    CU_ASSERT(line.sampling.top_k == 0 && line.sampling.n_logprobs == 3);
    prompt_line_free(&line);
    CHECK_OK(prompts_next(p, &with, &line, &more));
    CU_ASSERT(!line.error && line.line == 2 && line.sampling.n_logprobs == 0);
    prompt_line_free(&line);
    int before = notice_count();
    CHECK_OK(prompts_next(p, &defaults, &line, &more));
    CU_ASSERT(!line.error && line.line == 4 && !strcmp(line.id, "1") && line.sampling.n_logprobs == 0);
    prompt_line_free(&line);
    CU_ASSERT(!next(p, &line) && !next(p, &line));
    prompts_close(p);
    static const char *const told[] = {
        "prompts.jsonl: \"metadata\" is not used, and not in the results (2 of the lines, the first is line "
        "2)",
        "\"custom_id\" is not used where there is an \"id\" too (1 of the lines, the first is line 4)",
        "half a surrogate pair (\\ud800 to \\udfff) is read as U+FFFD (1 of the lines, the first is line 1)",
        "bytes that are not UTF-8 are read as U+FFFD"};
    CU_ASSERT_EQUAL(notice_count() - before, 4);
    for (int i = 0; i < 4; i++)
        CU_ASSERT(before + i < notice_count() && strstr(notice_text(before + i), told[i]));

    p = open_text("{\"prompt\": \"x\", \"logprobs\": true}");
    CU_ASSERT(next(p, &line) && line.sampling.n_logprobs == 1);
    prompt_line_free(&line);
    prompts_close(p);
}

static void test_other_encodings(void) {
    static const struct {
        const char bytes[9];
        size_t n;
        const char *name;
    } cases[] = {{"\xFF\xFE{\0\"\0", 6, "UTF-16 "},     {"\xFE\xFF\0{\0\"", 6, "UTF-16 "},
                 {"{\0\"\0\n\0", 6, "UTF-16LE "},       {"\0{\0\"\0\n", 6, "UTF-16BE "},
                 {"\xFF\xFE\0\0{\0\0\0", 8, "UTF-32 "}, {"\0\0\xFE\xFF\0\0\0{", 8, "UTF-32 "},
                 {"{\0\0\0\"\0\0\0", 8, "UTF-32LE "},   {"\0\0\0{\0\0\0\"", 8, "UTF-32BE "},
                 {"\r\0\n\0{\0", 6, "UTF-16LE "},       {"\xFF\xFE", 2, "UTF-16 "}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompts *p = open_bytes(cases[i].bytes, cases[i].n);
        prompt_line line;
        bool more;
        char part[100];
        snprintf(part, sizeof part, "convert it first, with iconv -f %s-t UTF-8", cases[i].name);
        CHECK_REFUSED(prompts_next(p, &defaults, &line, &more), part);
        prompts_close(p);
    }
    CU_ASSERT_PTR_NULL(utf8_other_encoding("A\0", 2, false)); /* a text may hold zero bytes */
    CU_ASSERT_PTR_NULL(utf8_other_encoding("{\"a", 3, true));
}

static void test_standard_input(void) {
    static const char text[] = "{\"prompt\": \"x\"}\n{";
    int ends[2], saved = dup(STDIN_FILENO);
    CU_ASSERT(pipe(ends) == 0 && write(ends[1], text, sizeof text - 1) == (ssize_t)sizeof text - 1);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    prompts *p = NULL;
    CHECK_OK(prompts_open("-", &p));
    prompt_line line;
    CU_ASSERT(next(p, &line) && !line.error && !strcmp(line.text, "x"));
    prompt_line_free(&line);
    CU_ASSERT(next(p, &line) && line.error && strstr(line.error, "standard input: line 2: "));
    prompt_line_free(&line);
    CU_ASSERT(!next(p, &line));
    prompts_close(p);
    dup2(saved, STDIN_FILENO);
    close(saved);
}

static void test_long_lines(void) {
    /* Longer than one read, up to the limit, and above it. */
    static const size_t lengths[] = {3000000, PROMPT_MAX_LINE_BYTES, PROMPT_MAX_LINE_BYTES + 1,
                                     PROMPT_MAX_LINE_BYTES + (3 << 20)};
    static const char head[] = "{\"prompt\": \"", tail[] = "\"}";
    size_t ends = sizeof head + sizeof tail - 2;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t n = lengths[i], n_file = n + 19;
        char *file = mem_new(n_file, 1);
        memset(file, 'a', n);
        memcpy(file, head, sizeof head - 1);
        memcpy(file + n - 2, tail, 2);
        memcpy(file + n, "\n{\"prompt\": \"good\"}", 19);
        prompts *p = open_bytes(file, n_file);
        free(file);
        prompt_line line;
        CU_ASSERT(next(p, &line));
        if (n <= PROMPT_MAX_LINE_BYTES)
            CU_ASSERT(!line.error && line.n_text == n - ends)
        else
            CU_ASSERT(line.error && strstr(line.error, "line 1: longer than 67108864 bytes"));
        prompt_line_free(&line);
        CU_ASSERT(next(p, &line));
        CU_ASSERT(!line.error && line.line == 2);
        prompt_line_free(&line);
        CU_ASSERT(!next(p, &line));
        prompts_close(p);
    }
    unlink(path_of("prompts.jsonl"));
}

static void test_files(void) {
    prompts *p = NULL;
    CHECK_REFUSED(prompts_open(path_of("absent.jsonl"), &p), "absent.jsonl: cannot be opened: No such file");
    CU_ASSERT_PTR_NULL(p);
    static const char *const empty[] = {"", "\n", " \r\n\t", "\xEF\xBB\xBF", "\xEF\xBB\xBF\n\n"};
    prompt_line line;
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        p = open_text(empty[i]);
        CU_ASSERT(!next(p, &line));
        prompts_close(p);
    }
    bool more;
    CHECK_OK(prompts_open(harness_temp_dir(), &p));
    CHECK_REFUSED(prompts_next(p, &defaults, &line, &more), "is a directory, not a file of prompts");
    prompts_close(p);
}

/* ---- results ---- */

static results *open_results(const char *name) {
    results *r = NULL;
    CHECK_OK(results_open(path_of(name), &r));
    return r;
}

static char *read_results(const char *name, size_t *n) {
    return harness_read_file(path_of(name), n);
}

static void test_result_lines(void) {
    static const int32_t tokens[] = {5, 6}, top[] = {5, 9};
    static const float top_logprobs[] = {-0.25f, -3.5f};
    const result_logprob logprobs[] = {{5, -0.25f, 2, top, top_logprobs}, {6, -INFINITY, 0, NULL, NULL}};
    results *r = open_results("out.jsonl");
    const result first = {.id = "7.50",
                          .id_is_json = true,
                          .finish = FINISH_EOS,
                          .text = "a\n\xFF\"",
                          .n_text = 4,
                          .tokens = tokens,
                          .n_tokens = 2,
                          .n_prompt_tokens = 3,
                          .logprobs = logprobs};
    const result second = {.id = "x\"y", .finish = FINISH_ERROR, .error = "line 2: bad\x01"};
    const result third = {
        .id = "z", .finish = FINISH_LENGTH, .text = "", .prompt_tokens = tokens, .n_prompt_tokens = 1};
    CHECK_OK(results_write(r, &first));
    size_t n;
    char *text = read_results("out.jsonl", &n); /* there before the file is closed */
    CU_ASSERT_STRING_EQUAL(
        text, "{\"id\": 7.50, \"text\": \"a\\n\xEF\xBF\xBD\\\"\", \"tokens\": [5, 6], "
              "\"finish_reason\": \"eos\", "
              "\"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 2}, "
              "\"logprobs\": [{\"token\": 5, \"logprob\": -0.25, \"top\": [[5, -0.25], [9, -3.5]]}, "
              "{\"token\": 6, \"logprob\": null, \"top\": []}]}\n");
    free(text);
    CHECK_OK(results_write(r, &second));
    CHECK_OK(results_write(r, &third));
    results_close(r);
    text = read_results("out.jsonl", &n);
    CU_ASSERT_STRING_EQUAL(
        strchr(text, '\n') + 1,
        "{\"id\": \"x\\\"y\", \"finish_reason\": \"error\", \"error\": \"line 2: bad\\u0001\"}\n"
        "{\"id\": \"z\", \"prompt_token_ids\": [5], \"text\": \"\", \"tokens\": [], \"finish_reason\": "
        "\"length\", "
        "\"usage\": {\"prompt_tokens\": 1, \"completion_tokens\": 0}}\n");
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        cJSON *item = cJSON_ParseWithLength(line, (size_t)(end - line));
        CU_ASSERT_PTR_NOT_NULL(item);
        cJSON_Delete(item);
    }
    free(text);
    CU_ASSERT_STRING_EQUAL(finish_reason_name(FINISH_STOP), "stop");
}

static void test_result_files(void) {
    const result line = {.id = "1", .id_is_json = true, .finish = FINISH_ERROR, .error = "e"};
    results *r = NULL;
    size_t n;
    CHECK_REFUSED(results_open(path_of("no/such/out.jsonl"), &r),
                  "out.jsonl: cannot be written: No such file");
    CHECK_REFUSED(results_open(harness_temp_dir(), &r), "cannot be written: Is a directory");

    char old[500];
    memset(old, 'o', sizeof old); /* longer than what is written over it */
    harness_write_file(path_of("old.jsonl"), old, sizeof old);
    r = open_results("old.jsonl");
    char *text = read_results("old.jsonl", &n);
    CU_ASSERT_EQUAL(n, sizeof old); /* kept until there is something to say */
    free(text);
    CHECK_OK(results_write(r, &line));
    CHECK_OK(results_write(r, &line));
    results_close(r);
    text = read_results("old.jsonl", &n);
    CU_ASSERT_STRING_EQUAL(text, "{\"id\": 1, \"finish_reason\": \"error\", \"error\": \"e\"}\n"
                                 "{\"id\": 1, \"finish_reason\": \"error\", \"error\": \"e\"}\n");
    free(text);

    r = open_results("new.jsonl");
    results_close(r);
    CU_ASSERT_PTR_NULL(read_results("new.jsonl", &n)); /* nothing was written: nothing is left behind */
    results_close(NULL);
}

/* A second run, as another process would be: it has a file description of its own. */
static void test_one_writer(void) {
    const result line = {.id = "1", .id_is_json = true, .finish = FINISH_ERROR, .error = "e"};
    results *first = open_results("locked.jsonl"), *second = NULL;
    CHECK_REFUSED(results_open(path_of("locked.jsonl"), &second), "another run writes its results there");
    CHECK_OK(results_write(first, &line));
    CHECK_REFUSED(results_reopen(path_of("locked.jsonl"), 0, (uint64_t[2]){0}, &second), "another run");
    results_close(first);
    size_t n;
    char *text = read_results("locked.jsonl", &n);
    CU_ASSERT(text && strstr(text, "\"error\": \"e\"") != NULL); /* neither emptied nor removed */
    free(text);
    CHECK_OK(results_open(path_of("locked.jsonl"), &second));
    results_close(second);
}

/* Standard output in the middle of a file: nothing of it is lost. */
static void test_standard_output(void) {
    const result line = {.id = "1", .id_is_json = true, .finish = FINISH_ERROR, .error = "e"};
    results *r = NULL;
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    harness_write_file(path_of("log"), "", 0);
    CU_ASSERT_PTR_NOT_NULL(freopen(path_of("log"), "w", stdout));
    fputs("before\n", stdout);
    fflush(stdout);
    CHECK_OK(results_open("/dev/stdout", &r));
    CHECK_OK(results_write(r, &line));
    fputs("after\n", stdout);
    fflush(stdout);
    CHECK_OK(results_write(r, &line));
    results_close(r);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    size_t n;
    char *text = read_results("log", &n);
    CU_ASSERT_STRING_EQUAL(text, "before\n{\"id\": 1, \"finish_reason\": \"error\", \"error\": \"e\"}\n"
                                 "after\n{\"id\": 1, \"finish_reason\": \"error\", \"error\": \"e\"}\n");
    free(text);
}

/* A disk that becomes full in the middle of a line. */
static void test_full_disk(void) {
    const result line = {.id = "1", .id_is_json = true, .finish = FINISH_ERROR, .error = "e"};
    static char long_text[2000];
    memset(long_text, 'x', sizeof long_text - 1);
    const result long_line = {.id = "2", .id_is_json = true, .finish = FINISH_ERROR, .error = long_text};
    results *r = open_results("full.jsonl");
    CHECK_OK(results_write(r, &line));
    struct rlimit before, small = {1000, 1000};
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    status st = results_write(r, &long_line);
    bool named = strstr(status_text(), "full.jsonl: cannot be written: File too large") != NULL;
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, old);
    CU_ASSERT(st == STATUS_FAILED && named);
    size_t n;
    char *text = read_results("full.jsonl", &n);
    CU_ASSERT_STRING_EQUAL(
        text, "{\"id\": 1, \"finish_reason\": \"error\", \"error\": \"e\"}\n"); /* no half line */
    free(text);
    CHECK_OK(results_write(r, &line));
    results_close(r);
    text = read_results("full.jsonl", &n);
    CU_ASSERT_EQUAL(n, 2 * strlen("{\"id\": 1, \"finish_reason\": \"error\", \"error\": \"e\"}\n"));
    free(text);

    if (access("/dev/full", W_OK) != 0) return;
    CHECK_OK(results_open("/dev/full", &r));
    CU_ASSERT_EQUAL(results_write(r, &line), STATUS_FAILED);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_text(), "/dev/full: cannot be written: No space left"));
    results_close(r);
}

static void write_numbers(results *r, int first, int n) {
    for (int i = first; i < first + n; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", i);
        CHECK_OK(
            results_write(r, &(result){.id = id, .id_is_json = true, .finish = FINISH_ERROR, .error = "e"}));
    }
}

/* A second run goes on behind what a snapshot knew of the first one's results, and nothing else. */
static void test_reopened(void) {
    uint64_t digest[2], again[2];
    int64_t n_bytes, n_again;
    results *r = open_results("whole.jsonl");
    write_numbers(r, 0, 9);
    results_close(r);
    r = open_results("parts.jsonl");
    results_position(r, &n_bytes, digest);
    CU_ASSERT(n_bytes == 0 && !results_are_missing(path_of("whole.jsonl")));
    write_numbers(r, 0, 4);
    CHECK_OK(results_flush(r));
    results_position(r, &n_bytes, digest);
    write_numbers(r, 100, 8); /* behind the save: they are cut off */
    results_close(r);
    CHECK_OK(results_reopen(path_of("parts.jsonl"), n_bytes, digest, &r));
    results_position(r, &n_again, again);
    CU_ASSERT(n_again == n_bytes && again[0] == digest[0] && again[1] == digest[1]);
    write_numbers(r, 4, 5);
    results_position(r, &n_again, again);
    results_close(r);
    size_t n, n_parts;
    char *whole = read_results("whole.jsonl", &n), *parts = read_results("parts.jsonl", &n_parts);
    CU_ASSERT(n == n_parts && (int64_t)n == n_again && memcmp(whole, parts, n) == 0);

    parts[n_bytes - 3] ^= 1;
    harness_write_file(path_of("other.jsonl"), parts, n);
    harness_write_file(path_of("short.jsonl"), whole, (size_t)n_bytes - 1);
    harness_write_file(path_of("empty.jsonl"), "", 0);
    CHECK_REFUSED(results_reopen(path_of("other.jsonl"), n_bytes, digest, &r), "does not begin with the");
    CHECK_REFUSED(results_reopen(path_of("short.jsonl"), n_bytes, digest, &r), "does not begin with the");
    char *kept = read_results("other.jsonl", &n_parts);
    CU_ASSERT(n_parts == n && memcmp(kept, parts, n) == 0); /* a refusal changes nothing */
    CU_ASSERT(results_are_missing(path_of("empty.jsonl")) && results_are_missing(path_of("none.jsonl")));
    free(whole);
    free(parts);
    free(kept);
}

static void test_attempts(void) {
    const char *dir = harness_temp_dir();
    for (int i = 0; i < 4; i++)
        CU_ASSERT(attempts_begin(dir) == i);
    attempts_end(dir);
    CU_ASSERT(attempts_begin(dir) == 0);
    harness_write_file(path_of("attempts"), "-7", 2);
    CU_ASSERT(attempts_begin(dir) == 0 && attempts_begin(dir) == 1);
    harness_write_file(path_of("attempts"), "99999999999999999999 and more", 29);
    CU_ASSERT(attempts_begin(dir) == 0);
    attempts_end(dir);
    CU_ASSERT(mkdir(path_of("attempts"), 0777) == 0 && attempts_begin(dir) == 0);
    CU_ASSERT(rmdir(path_of("attempts")) == 0 && attempts_begin("/no/such/directory") == 0);
}

static void test_sampling(void) {
    sampling_options o = sampling_defaults();
    CHECK_OK(sampling_check(&o));
    o.temperature = NAN;
    CHECK_REFUSED(sampling_check(&o), "temperature");
    o = sampling_defaults();
    o.top_p = NAN;
    CHECK_REFUSED(sampling_check(&o), "top_p");
    o = sampling_defaults();
    o.seed = ((int64_t)1 << 53) + 1;
    CHECK_REFUSED(sampling_check(&o), "seed must be from 0 to 9007199254740992, got 9007199254740993");
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"good lines", test_good_lines},
                           {"bad lines", test_bad_lines},
                           {"ids", test_ids},
                           {"lines of other programs", test_other_programs},
                           {"other encodings", test_other_encodings},
                           {"standard input", test_standard_input},
                           {"long lines", test_long_lines},
                           {"files", test_files},
                           {"result lines", test_result_lines},
                           {"result files", test_result_files},
                           {"one writer of a result file", test_one_writer},
                           {"standard output", test_standard_output},
                           {"full disk", test_full_disk},
                           {"reopened results", test_reopened},
                           {"attempts", test_attempts},
                           {"sampling", test_sampling},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "prompts", tests);
}
