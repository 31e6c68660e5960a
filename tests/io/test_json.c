/* tests/io/test_json.c: JSON from outside, as its two readers take it, and strings as they are written. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "src/base/notice.h"
#include "tests/fixtures/harness.h"

static void test_json(void) {
    cJSON *item;
    CHECK_OK(json_parse("\xEF\xBB\xBF {\"a\": 1}\n ", 13, "x.json", &item));
    cJSON_Delete(item);
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "x.json: empty"},
        {"{", "x.json: not valid JSON at column"},
        {"{\"a\": 1,\n \"b\": tru }", "x.json: not valid JSON at line 2, column 7"},
        {"{} {}", "more text behind the value at column 4"},
        {"{\"a\": \"\\u0000\"}", "zero character \\u0000 at column 8"},
        {"[\"\\ud800\"]", "not valid JSON"},
        {"NaN", "not valid JSON"},
        {"\"abc", "not valid JSON"},
        {"\"abc\\", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_REFUSED(json_parse(cases[i].text, strlen(cases[i].text), "x.json", &item), cases[i].part);
    CHECK_REFUSED(json_parse("[1, \0 2]", 8, "x.json", &item), "zero byte at column 5");
    CHECK_REFUSED(json_parse("\"a\\\0\"", 5, "x.json", &item), "zero byte");

    enum { DEPTH = 1000000 };
    char *deep = mem_new(2 * DEPTH, 1);
    memset(deep, '[', DEPTH);
    memset(deep + DEPTH, ']', DEPTH);
    CHECK_REFUSED(json_parse(deep, 2 * DEPTH, "x.json", &item),
                  "x.json: too deeply nested JSON at column 101");
    CHECK_OK(json_parse(deep + DEPTH - 100, 200, "x.json", &item));
    cJSON_Delete(item);
    free(deep);

    CHECK_OK(json_parse("{\"a\": 5, \"a\": 6}", 16, "x.json", &item));
    json_object twice = json_view(item, "x.json");
    CHECK_REFUSED(twice.st, "x.json: the key \"a\" occurs twice");
    cJSON_Delete(item);
}

/* The first failure is that of all views around it, with its place in the document. */
static void test_views(void) {
    static const char text[] =
        "{\"a\": {\"b\": [{\"c\": 1}, {\"c\": \"x\"}, {\"c\": 3}]}, \"d\": null, \"e\": 5}";
    cJSON *document;
    if (!CHECK_OK(json_parse(text, strlen(text), "x.json", &document))) return;
    json_object root = json_view(document, "x.json"), none = json_view_optional(&root, "d"),
                a = json_view_member(&root, "a"), item = {0};
    CU_ASSERT(none.item == NULL && none.st == STATUS_OK && json_array_optional(&root, "d") == NULL);
    CU_ASSERT(json_next_object(&a, "b", &item) && json_int(&item, "c", 0, 9) == 1);
    CU_ASSERT(json_next_object(&a, "b", &item) && json_int(&item, "c", 0, 9) == 0);
    CHECK_REFUSED(root.st, "x.json: a.b[1].c: an integer from 0 to 9 was expected, but it is \"x\"");
    json_refuse(&root, "e", "later");
    json_adopt(&a, NULL, STATUS_REFUSED);
    CHECK_REFUSED(a.st, "x.json: a.b[1].c: an integer");
    CU_ASSERT(!json_next_object(&a, "b", &item) && json_int_or(&root, "e", 0, 9, 7) == 7);

    item = (json_object){0};
    root = json_view(document, "x.json");
    CU_ASSERT(!json_next_object(&root, "e", &item));
    CHECK_REFUSED(root.st, "x.json: e: an array was expected");
    root = json_view(document, "x.json");
    a = json_view_member(&root, "a");
    json_adopt(&a, "b", status_refuse("what became\n of it"));
    CHECK_REFUSED(root.st, "x.json: a.b: what became? of it");
    root = json_view(document, "x.json");
    json_refuse(&root, NULL, "as a whole");
    CHECK_REFUSED(root.st, "x.json: as a whole");
    cJSON_Delete(document);
}

static void test_words(void) {
    static const char text[] =
        "{\"a\": \"two\", \"b\": \"three\", \"c\": \"\xC3\xA9\", \"d\": \"\xC3\xA9x\", \"e\": \"\"}";
    static const char *const names[] = {"one", "two", "none"};
    cJSON *document;
    if (!CHECK_OK(json_parse(text, strlen(text), "x.json", &document))) return;
    json_object o = json_view(document, "x.json");
    CU_ASSERT(json_choice(&o, "a", names, 3) == 1 && json_character(&o, "c") == 0xE9 && o.st == STATUS_OK);
    json_choice(&o, "b", names, 3);
    CHECK_REFUSED(o.st, "x.json: b: \"three\" is not supported; one, two and none are");
    for (int i = 0; i < 2; i++) {
        o = json_view(document, "x.json");
        json_character(&o, i ? "d" : "e");
        CHECK_REFUSED(o.st, "a single character was expected, but it is \"");
    }
    cJSON_Delete(document);
}

/* Any two of many keys that are the same, and none that only have much in common. */
static void test_many_keys(void) {
    enum { N = 3000 };
    for (int twice = -1; twice < N; twice += 271) {
        text_buffer text = {0};
        json_writer w = {.out = &text};
        char key[16], message[64];
        json_open_line(&w, NULL, '{');
        for (int i = 0; i <= N; i++) {
            snprintf(key, sizeof key, "key %d", i == N ? twice : i);
            json_put_bool(&w, key, true);
        }
        json_close(&w);
        cJSON *document;
        if (!CHECK_OK(json_parse(text.data, text.n, "x.json", &document))) return;
        snprintf(message, sizeof message, "x.json: the key \"key %d\" occurs twice", twice);
        status st = json_view(document, "x.json").st;
        if (twice < 0)
            CHECK_OK(st);
        else
            CHECK_REFUSED(st, message);
        cJSON_Delete(document);
        free(text.data);
    }
}

static void test_json_text(void) {
    static const struct {
        const char *bytes, *json;
    } cases[] = {
        {"plain", "\"plain\""},
        {"a\"b\\c\n\t\r\x01\x7F", "\"a\\\"b\\\\c\\n\\t\\r\\u0001\\u007f\""},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\""},
        /* Unicode 15, 3.9, tables 3-8 to 3-11: one U+FFFD for each maximal invalid part */
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41",
         "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
         "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\x41\""},
        {"\xED\xA0\x80\x41", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\x41\""},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42",
         "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\x41"
         "\xEF\xBF\xBD\xEF\xBF\xBD\x42\""},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\x41\""},
        {"\xF0\x9F\x98", "\"\xEF\xBF\xBD\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        text_buffer out = {0};
        json_append_text(&out, cases[i].bytes, strlen(cases[i].bytes));
        CU_ASSERT_STRING_EQUAL(out.data, cases[i].json);
        free(out.data);
    }
    uint64_t random = 5;
    for (int i = 0; i < 1000; i++) {
        uint32_t bits = (uint32_t)harness_random(&random);
        float value;
        memcpy(&value, &bits, sizeof value);
        text_buffer out = {0};
        json_put_float(&(json_writer){.out = &out}, NULL, value);
        CU_ASSERT(isfinite(value) ? strtof(out.data, NULL) == value : strcmp(out.data, "null") == 0);
        free(out.data);
    }
}

static void test_writer(void) {
    text_buffer out = {0};
    json_writer w = {.out = &out};
    json_open(&w, NULL, '{');
    json_open(&w, "none", '[');
    json_close(&w);
    json_open_line(&w, "a\"", '[');
    json_put_integer(&w, NULL, JSON_MAX_EXACT);
    json_open(&w, NULL, '{');
    json_put_bool(&w, "b", true);
    json_put_text(&w, "c", NULL);
    json_close(&w);
    json_open(&w, NULL, '[');
    json_close(&w);
    json_close(&w);
    json_open(&w, "d", '[');
    json_put_integer(&w, NULL, INT64_MIN);
    json_put_number(&w, NULL, 0.1);
    json_put_number(&w, NULL, -INFINITY);
    json_put_bytes(&w, NULL, "e\xFF", 2);
    json_close(&w);
    json_put_verbatim(&w, "f", "1.50");
    json_close(&w);
    CU_ASSERT_STRING_EQUAL(out.data, "{\n  \"none\": [],\n"
                                     "  \"a\\\"\": [9007199254740992, {\"b\": true, \"c\": \"\"}, []],\n"
                                     "  \"d\": [\n    \"-9223372036854775808\",\n    0.10000000000000001,\n"
                                     "    null,\n    \"e\xEF\xBF\xBD\"\n  ],\n  \"f\": 1.50\n}");
    free(out.data);
}

/* What is written reads back as the same. */
static void test_integers(void) {
    static const int64_t values[] = {0, -7, JSON_MAX_EXACT, JSON_MAX_EXACT + 1, INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        text_buffer out = {0};
        json_writer w = {.out = &out};
        json_open(&w, NULL, '{');
        json_put_integer(&w, "a", values[i]);
        json_close(&w);
        cJSON *item;
        if (!CHECK_OK(json_parse(out.data, out.n, "x.json", &item))) return;
        json_object object = json_view(item, "x.json");
        CU_ASSERT(json_int64(&object, "a") == values[i] && object.st == STATUS_OK);
        cJSON_Delete(item);
        free(out.data);
    }
}

static void test_as_python(void) {
    static const char text[] =
        "{\"a\": [\"NaN \\\" -Infinity\", NaN, -Infinity, Infinity], \"b\": 1, \"b\": {\"c\": 2, \"c\": 3}}";
    cJSON *item;
    int first = notice_count();
    if (!CHECK_OK(json_parse_as_python(text, sizeof text - 1, "x.json", &item))) return;
    const cJSON *a = item->child->child;
    CU_ASSERT_STRING_EQUAL(a->valuestring, "NaN \" -Infinity");
    CU_ASSERT(isinf(a->next->valuedouble) && a->next->next->valuedouble == -INFINITY);
    CU_ASSERT(a->next->next->next->valuedouble == INFINITY);
    CU_ASSERT_EQUAL_FATAL(cJSON_GetArraySize(item), 2);
    CU_ASSERT_EQUAL_FATAL(cJSON_GetArraySize(item->child->next), 1);
    CU_ASSERT(item->child->next->child->valuedouble == 3);
    CU_ASSERT_EQUAL_FATAL(notice_count(), first + 2);
    CU_ASSERT_STRING_EQUAL(notice_text(first),
                           "x.json: the key \"b\" occurs twice: the last one is read, as by transformers");
    cJSON_Delete(item);
    CHECK_REFUSED(json_parse_as_python("[NaNa]", 6, "x.json", &item), "not valid JSON");
    CHECK_REFUSED(json_parse_as_python("\"NaN\\", 5, "x.json", &item), "not valid JSON");
    CHECK_REFUSED(json_parse_as_python("", 0, "x.json", &item), "empty");
}

static void test_neutral(void) {
    static const struct {
        const char *json;
        double neutral;
        bool is_neutral;
    } cases[] = {{"null", 1, true},        {"1", 1, true},     {"1.0000001", 1, true}, {"1.001", 1, false},
                 {"0", 0, true},           {"false", 0, true}, {"true", 0, false},     {"true", 1, true},
                 {"[]", 5, true},          {"{}", 5, true},    {"[1, [1]]", 1, true},  {"[1, 0]", 1, false},
                 {"{\"a\": 0}", 0, false}, {"\"\"", 0, false}, {"1e999", 1, false},    {"false", 1, false}};
    CU_ASSERT(json_item_is_neutral(NULL, 3));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *item;
        CHECK_OK(json_parse(cases[i].json, strlen(cases[i].json), "x.json", &item));
        CU_ASSERT(json_item_is_neutral(item, cases[i].neutral) == cases[i].is_neutral);
        cJSON_Delete(item);
    }
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"parse", test_json},          {"views", test_views},
                           {"words", test_words},         {"many keys", test_many_keys},
                           {"as python", test_as_python}, {"neutral", test_neutral},
                           {"text", test_json_text},      {"writer", test_writer},
                           {"integers", test_integers},   CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "json", tests);
}
