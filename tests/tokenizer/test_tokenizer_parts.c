/* tests/tokenizer/test_tokenizer_parts.c: parts of the tokenizer for themselves, long words, and what is
 * refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer/cache.h"
#include "src/tokenizer/merge.h"
#include "src/tokenizer/regex.h"
#include "src/tokenizer/tokenizer.h"
#include "tests/fixtures/harness.h"

static tokenizer *open_at(const char *name) {
    char path[1024];
    tokenizer *tok = NULL;
    snprintf(path, sizeof path, "%s/%s", harness_source_dir(), name);
    return CHECK_OK(tokenizer_open(path, &tok)) ? tok : NULL;
}

static int32_t below(uint64_t *state, int32_t n) {
    return (int32_t)(harness_random(state) % (uint64_t)n);
}

static void test_utf8(void) {
    static const struct {
        const char *bytes, *repaired;
    } cases[] = {{"", ""},
                 {"a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80", "a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80"},
                 {"\xFFz", "?z"},
                 {"\xC0\xAF", "??"},
                 {"\xE0\x80\x80", "???"},
                 {"\xED\xA0\x80", "???"},
                 {"\xF4\x90\x80\x80", "????"},
                 {"\xF5\x80", "??"},
                 {"\xE4\xBD", "?"},
                 {"\xE4\xBD\xE4", "??"},
                 {"\xF0\x9F\x98g", "?g"},
                 {"\xF0\x9F\xF0\x9F", "??"},
                 {"\x80\xBF", "??"},
                 {"\xC3", "?"},
                 {"\xF1\x80\x80\xE1\x80\xC2"
                  "b\x80",
                  "???b?"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        text_buffer out = {0}, marked = {0};
        text_append(&marked, "", 0);
        utf8_append_repaired(&out, cases[i].bytes, strlen(cases[i].bytes));
        for (size_t at = 0, n_bytes; at < out.n; at += n_bytes) {
            uint32_t code = utf8_read(out.data + at, &n_bytes);
            if (code == 0xFFFD)
                text_append(&marked, "?", 1);
            else
                utf8_append(&marked, code);
        }
        CU_ASSERT_STRING_EQUAL(marked.data, cases[i].repaired);
        free(out.data);
        free(marked.data);
    }
    for (uint32_t code = 0; code < 0x110000; code++) {
        char bytes[4];
        size_t n_bytes, n = utf8_write(code, bytes);
        bool surrogate = code >= 0xD800 && code <= 0xDFFF, incomplete;
        bool good = utf8_read(bytes, &n_bytes) == code && n_bytes == n;
        good &= utf8_check(bytes, n, NULL) == (surrogate ? -1 : (int)n);
        good &= n == 1 || surrogate || (utf8_check(bytes, n - 1, &incomplete) == 1 - (int)n && incomplete);
        if (!good) CU_FAIL("a code point is not read as it was written");
    }
}

/* Merge as the definition says. */
static size_t merge_plainly(const merge *merges, size_t n_merges, int32_t *ids, size_t n) {
    for (;;) {
        size_t best = n, best_rank = n_merges;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t k = 0; k < best_rank; k++)
                if (merges[k].left == ids[i] && merges[k].right == ids[i + 1]) {
                    best = i;
                    best_rank = k;
                }
        if (best == n) return n;
        ids[best] = merges[best_rank].result;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

static void test_merges(void) {
    enum { N_MERGES = 40, N_MOST = 200 };
    uint64_t state = 7;
    for (int round = 0; round < 2000; round++) {
        merge merges[N_MERGES];
        merge_table table;
        merge_table_init(&table, N_MERGES);
        int32_t n_ids = 4;
        for (uint32_t k = 0; k < N_MERGES; k++, n_ids++) {
            int32_t left = below(&state, n_ids), right = below(&state, n_ids);
            merges[k] = (merge){left, right, k, n_ids};
            bool known = false;
            for (uint32_t i = 0; i < k; i++)
                known |= merges[i].left == left && merges[i].right == right;
            if (known)
                merges[k].left = -2; /* no symbol */
            else
                merge_table_add(&table, merges[k]);
        }
        int32_t a[N_MOST], b[N_MOST];
        size_t n = 1 + (size_t)below(&state, round % 2 ? 60 : N_MOST);
        int32_t n_symbols = 1 + below(&state, 4);
        for (size_t i = 0; i < n; i++)
            a[i] = b[i] = below(&state, n_symbols);
        size_t n_a = merge_run(&table, a, n), n_b = merge_plainly(merges, N_MERGES, b, n);
        CU_ASSERT(n_a == n_b && !memcmp(a, b, n_b * sizeof *b));
        merge_table_free(&table);
    }
}

/* More runs than the cache holds: what it knows is right, and it knows the latest. */
static void test_cache(void) {
    word_cache cache;
    word_cache_init(&cache);
    size_t n_known = 0;
    for (int32_t i = 0; i < 200000; i++) {
        int32_t symbols[CACHE_MAX_SYMBOLS], ids[2] = {i, -i};
        size_t n = 2 + (size_t)i % (CACHE_MAX_SYMBOLS - 1), n_ids = 1 + (size_t)i % 2;
        for (size_t k = 0; k < n; k++)
            symbols[k] = k ? (int32_t)k : i % 100000;
        size_t n_found;
        const int32_t *found = word_cache_find(&cache, symbols, n, &n_found);
        if (!found) word_cache_add(&cache, symbols, n, ids, n_ids);
        n_known += found != NULL;
        found = word_cache_find(&cache, symbols, n, &n_found);
        bool good = found && n_found == n_ids && found[0] % 100000 == i % 100000;
        if (!good) CU_FAIL("the cache forgot a run at once, or mistook it for another");
    }
    CU_ASSERT(n_known == 0); /* 100,000 others came between */
    word_cache_free(&cache);
}

static void test_lookup(void) {
    tokenizer *tok = open_at("jobs/demo/model/tokenizer.json");
    if (!tok) return;
    CU_ASSERT_EQUAL(tokenizer_n_tokens(tok), 4096);
    CU_ASSERT_EQUAL(tokenizer_find(tok, "<|begin_of_text|>"), 4088);
    CU_ASSERT_EQUAL(tokenizer_find(tok, "!"), 0);
    CU_ASSERT_EQUAL(tokenizer_find(tok, "no such token"), -1);
    static const int32_t ids[] = {-1, 4096, INT32_MAX, INT32_MIN, 4088, 0};
    text_buffer text = {0};
    tokenizer_decode(tok, ids, 6, true, &text);
    CU_ASSERT_STRING_EQUAL(text.data, "!");
    free(text.data);
    tokenizer_close(tok);
}

/* Long words must not take the square of their length: then this test does not end. */
static void test_long_words(void) {
    static const char *const parts[] = {"a",    "ab", " ", "\n", "!", "\xE4\xBD\xA0", "e\xCC\x81\xCC\xA3",
                                        "\xFF", "0"};
    tokenizer *toks[] = {open_at("tests/golden/tokenizer/marks.json"),
                         open_at("tests/golden/tokenizer/bytes.json")};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        text_buffer text = {0};
        while (text.n < (harness_is_slow() ? 50000 : 1000000))
            text_append(&text, parts[i], strlen(parts[i]));
        for (size_t k = 0; k < 2; k++) {
            token_list list = {0};
            text_buffer decoded = {0}, repaired = {0};
            if (!toks[k] || !CHECK_OK(tokenizer_encode(toks[k], text.data, text.n, false, &list))) continue;
            tokenizer_decode(toks[k], list.ids, list.n, false, &decoded);
            utf8_append_repaired(&repaired, text.data, text.n);
            CU_ASSERT(decoded.n == repaired.n && !memcmp(decoded.data, repaired.data, repaired.n));
            free(list.ids);
            free(decoded.data);
            free(repaired.data);
        }
        free(text.data);
    }
    for (size_t k = 0; k < 2; k++)
        tokenizer_close(toks[k]);
}

/* ---- what is refused ---- */

#define MODEL(vocab, merges) "\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}"
#define GOOD_MODEL           MODEL("{\"a\":0,\"b\":1,\"ab\":2}", "[\"a b\"]")
#define FILE_OF(members)     "{" members "," GOOD_MODEL "}"
#define TOKEN(id, content, more)                                                                             \
    "{\"id\":" id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"    \
    "\"normalized\":" more ",\"special\":true}"
#define SPLIT(regex)                                                                                         \
    FILE_OF("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                          \
            "\"},\"behavior\":\"Isolated\",\"invert\":false}")

#define TEXTS            "{\"Sequence\":{\"id\":\"A\"}},{\"Sequence\":{\"id\":\"A\"}}"
#define TEMPLATE(items)  "{\"type\":\"TemplateProcessing\",\"special_tokens\":{},\"single\":[" items "]}"
#define PAIR             "{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1]}"
#define PROCESSORS(list) FILE_OF("\"post_processor\":{\"type\":\"Sequence\",\"processors\":[" list "]}")

static void test_quote(void) {
    static const struct {
        const char *text, *quoted;
    } cases[] = {{"", "\"\""},
                 {"a \"b\"\n\x7F\xC3\xA9\xFF", "\"a \"b\"??\xC3\xA9?\""},
                 {"0123456789012345678901234567890123456789012345678901234567890123456789",
                  "\"012345678901234567890123456789012345678901234567890123456789012345...\""},
                 {"01234567890123456789012345678901234567890123456789012345678901234\xC3\xA9",
                  "\"01234567890123456789012345678901234567890123456789012345678901234...\""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CU_ASSERT_STRING_EQUAL(utf8_quote(cases[i].text).text, cases[i].quoted);
}

static void test_refused(void) {
    static const struct {
        const char *json, *part;
    } cases[] = {
        {"", "x.json: empty, but JSON was expected"},
        {"{\"model\":", "x.json: not valid JSON at column 9"},
        {"{} {}", "more text"},
        {"[]", "x.json: an object {...} was expected"},
        {"{}", "x.json: model: an object {...} was expected"},
        {"{\"model\":\"\xFF\"}", "UTF-8 at byte 10"},
        {"{\"model\":\"\\u0000\"}", "\\u0000"},
        {"{\"model\":3}", "x.json: model: an object {...} was expected"},
        {"{\"model\":{},\"model\":{}}", "x.json: the key \"model\" occurs twice"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "x.json: model.type: \"Unigram\" is not supported"},
        {"{\"model\":{\"type\":\"BPE\"}}", "model.vocab: an object {...} was expected"},
        {"{" MODEL("[]", "[]") "}", "model.vocab: an object {...} was expected"},
        {"{" MODEL("{}", "{}") "}", "model.merges: an array was expected"},
        {"{" MODEL("{\"a\":-1}", "[]") "}", "vocab: the id of \"a\""},
        {"{" MODEL("{\"a\":1.5}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":\"0\"}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":99999999}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":1e300}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":0,\"b\":0}", "[]") "}", "\"b\" has the id 0 of another token"},
        {"{" MODEL("{\"a\\n\":0,\"a\\n\":1}", "[]") "}", "model.vocab: the key \"a?\" occurs twice"},
        {"{" MODEL("{\"a\":0}", "[\"a\"]") "}", "merges[0]: must be two tokens"},
        {"{" MODEL("{\"a\":0}", "[\"a a a\"]") "}", "merges[0]: must be two tokens"},
        {"{" MODEL("{\"a\":0}", "[[\"a\"]]") "}", "merges[0]: must be a string or"},
        {"{" MODEL("{\"a\":0}", "[[\"a\",1]]") "}", "merges[0]: must be a string or"},
        {"{" MODEL("{\"a\":0}", "[\"a c\"]") "}", "merges[0]: the token \"c\" is not in the vocabulary"},
        {"{" MODEL("{\"a\":0,\"aa\":1}", "[\"a a\",\"aa a\"]") "}", "merges[1]: the token \"aaa\""},
        {"{\"model\":{\"dropout\":0.1,\"vocab\":{},\"merges\":[]}}", "dropout"},
        {"{\"model\":{\"end_of_word_suffix\":\"</w>\",\"vocab\":{},\"merges\":[]}}", "end_of_word_suffix"},
        {"{\"model\":{\"unk_token\":1,\"vocab\":{},\"merges\":[]}}", "unk_token"},
        {"{\"model\":{\"byte_fallback\":1,\"vocab\":{},\"merges\":[]}}", "byte_fallback"},
        {FILE_OF("\"version\":\"2.0\""), "version"},
        {FILE_OF("\"added_tokens\":{}"), "added_tokens: an array was expected"},
        {FILE_OF("\"added_tokens\":[{\"id\":3}]"),
         "added_tokens[0].content: a text was expected, but it is missing"},
        {FILE_OF("\"added_tokens\":[" TOKEN("7", "x", "false") "]"), "\"x\" must have the id 3"},
        {FILE_OF("\"added_tokens\":[" TOKEN("3", "a", "false") "]"), "\"a\" must have the id 0"},
        {FILE_OF("\"added_tokens\":[" TOKEN("3", "", "false") "]"), "\"\" is nothing"},
        {FILE_OF("\"added_tokens\":[" TOKEN("0", "a", "true") "," TOKEN("0", "a", "false") "]"),
         "is there twice"},
        {FILE_OF("\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[" TOKEN(
             "3", "X", "true") "," TOKEN("4", "x", "true") "]"),
         "are the same after normalization"},
        {FILE_OF("\"normalizer\":{}"), "normalizer.type: a text was expected, but it is missing"},
        {FILE_OF("\"normalizer\":{\"type\":\"Precompiled\"}"),
         "normalizer.type: \"Precompiled\" is not supported"},
        {FILE_OF("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
                 "\"Strip\"}]}"),
         "normalizer.normalizers[1].strip_left: true or false was expected, but it is missing"},
        {FILE_OF("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}"),
         "normalizer.pattern.Regex: a text was expected, but it is missing"},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Words\"}"), "pre_tokenizer.type: \"Words\""},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), "a single character"},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false,"
                 "\"prepend_scheme\":\"first\"}"),
         "contradict"},
        {SPLIT("["), "regex \"[\": the pattern cannot be compiled: premature end of char-class"},
        {SPLIT("(a"), "unmatched parenthesis"},
        {SPLIT("a)"), "unmatched close parenthesis"},
        {SPLIT("\\\\"), "end pattern at escape"},
        {SPLIT("\\\\p{Hann}"), "invalid character property name {Hann}"},
        {SPLIT("\\\\xE3"), "too short multibyte"},
        {SPLIT("a{100001}"), "too big number for repeat range"},
        {SPLIT("(?<a>\\\\g<a>)"), "never ending recursion"},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\","
                 "\"invert\":false}"),
         "behavior: \"Odd\" is not supported"},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Punctuation\",\"behavior\":\"isolated\"}"),
         "behavior: \"isolated\""},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}"),
         "pre_tokenizer.length: an integer from 1"},
        {FILE_OF("\"post_processor\":{\"type\":\"Pairs\"}"), "post_processor.type: \"Pairs\""},
        {FILE_OF("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\"],\"sep\":[\"b\",1]}"),
         "post_processor.cls: must be a token and its id"},
        {FILE_OF("\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"z\",9]}"),
         "no token has the id 9"},
        {PROCESSORS(TEMPLATE(TEXTS) "," PAIR),
         "post_processor.processors[1]: BertProcessing behind a TemplateProcessing"},
        {PROCESSORS(PAIR "," PAIR "," PAIR "," PAIR "," PAIR "," PAIR "," PAIR "," PAIR "," TEMPLATE(
             TEXTS "," TEXTS "," TEXTS "," TEXTS "," TEXTS "," TEXTS "," TEXTS "," TEXTS)),
         "processors[8]: more than 256 tokens"},
        {FILE_OF("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                 "\"s\"}}],"
                 "\"special_tokens\":{}}"),
         "post_processor.special_tokens.s: an object {...} was expected"},
        {FILE_OF("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                 "\"s\"}}],"
                 "\"special_tokens\":{\"s\":{\"ids\":[9]}}}"),
         "no token has the id 9"},
        {FILE_OF("\"decoder\":{\"type\":\"WordPiece\"}"), "decoder.type: \"WordPiece\""},
        {FILE_OF("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}"),
         "decoder.start: an integer from 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tokenizer *tok = NULL;
        bool refused = CHECK_REFUSED(tokenizer_parse(cases[i].json, strlen(cases[i].json), "x.json", &tok),
                                     cases[i].part);
        CU_ASSERT(tok == NULL && !strchr(status_text(), '\n'));
        if (!refused) printf("not refused as it should be: %s\n", cases[i].json);
        tokenizer_close(tok);
    }
    tokenizer *tok;
    CHECK_REFUSED(tokenizer_open("/no/such/tokenizer.json", &tok),
                  "/no/such/tokenizer.json: cannot be opened");
    CHECK_OK(tokenizer_parse("{" GOOD_MODEL "}", strlen("{" GOOD_MODEL "}"), "x.json", &tok));
    tokenizer_close(tok);
}

static void test_deep(void) {
    text_buffer json = {0};
    for (int i = 0; i < 100000; i++)
        text_append(&json, "[", 1);
    tokenizer *tok;
    CHECK_REFUSED(tokenizer_parse(json.data, json.n, "deep.json", &tok), "deep.json: too deeply nested JSON");
    free(json.data);
}

/* Decoder steps for which Hugging Face tokenizers fails. */
static void test_odd_parts(void) {
    static const char strip[] =
        FILE_OF("\"decoder\":{\"type\":\"Strip\",\"content\":\"a\",\"start\":2,\"stop\":3}");
    static const int32_t ids[] = {0, 1, 2, 0, 0};
    tokenizer *tok;
    text_buffer text = {0};
    if (CHECK_OK(tokenizer_parse(strip, strlen(strip), "x.json", &tok))) {
        tokenizer_decode(tok, ids, 5, false, &text);
        CU_ASSERT_STRING_EQUAL(text.data, "bb");
        tokenizer_close(tok);
    }
    free(text.data);
}

/* n times a text, between two others. */
static char *repeated(const char *before, const char *text, int n, const char *after) {
    text_buffer out = {0};
    text_append(&out, before, strlen(before));
    for (int i = 0; i < n; i++)
        text_append(&out, text, strlen(text));
    text_append(&out, after, strlen(after));
    return out.data;
}

static void check_hostile(const char *pattern, const char *refusal) {
    char *text = repeated("", "a", 48, "c");
    regex *re = NULL;
    bool found;
    size_t start, end;
    status st = regex_open(pattern, &re);
    if (st == STATUS_OK) st = regex_find(re, text, strlen(text), 1, &found, &start, &end);
    CHECK_REFUSED(st, refusal);
    CU_ASSERT(!strchr(status_text(), '\n'));
    regex_close(re);
    free(text);
}

/* Expressions that would take all time, memory or stack, or match what is no part of the text. */
static void test_hostile(void) {
    char *calls = repeated("(?<a>a)", "\\g<a>", 17, "");
    char *deep = repeated("", "(", 100000, "");
    char *open = repeated("", "(?:", 5000, ""), *nested = repeated(open, "a)*", 5000, "");
    char *alternatives = repeated("a", "|a", 40000, "");
    check_hostile("(a+)+$|(?:a|aa)+b", "failed on this text: retry-limit");
    check_hostile("(?<=\\Ka)a", "failed on this text: a match that is no part of it");
    check_hostile(calls, "more than 16 calls of groups");
    check_hostile(deep, "a pattern of 100000 bytes is too long");
    check_hostile(nested, "parse depth limit over");
    check_hostile(alternatives, "a pattern of 80001 bytes is too long");
    free(calls);
    free(deep);
    free(open);
    free(nested);
    free(alternatives);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"utf8", test_utf8},
                           {"merges", test_merges},
                           {"cache", test_cache},
                           {"quote", test_quote},
                           {"lookup", test_lookup},
                           {"long words", test_long_words},
                           {"refused", test_refused},
                           {"deep json", test_deep},
                           {"odd parts", test_odd_parts},
                           {"hostile patterns", test_hostile},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "tokenizer parts", tests);
}
