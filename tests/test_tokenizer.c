/* tests/test_tokenizer.c: equal to Hugging Face tokenizers, by the golden data of
 * golden/make_tokenizer_golden.py. */
#include <stdio.h>
#include <time.h>

#include "src/tokenizer.h"
#include "src/tokenizer_merge.h"
#include "tests/tokenizer_strings.h"

/* ---- files ---- */

static char *read_golden(const char *name, size_t *n) {
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s", harness_source_dir(), name);
    char *data = harness_read_file(path, n);
    if (!data) CU_FAIL("a golden file cannot be read");
    return data;
}

static cJSON *read_golden_json(const char *name) {
    size_t n;
    char *text = read_golden(name, &n);
    cJSON *json = text ? cJSON_Parse(text) : NULL;
    CU_ASSERT(json != NULL);
    free(text);
    return json;
}

/* The 32-bit numbers of NAME.u32. */
static uint32_t *read_hashes(const char *name, size_t *n) {
    char file[64];
    snprintf(file, sizeof file, "%s.u32", name);
    unsigned char *bytes = (unsigned char *)read_golden(file, n);
    *n /= 4;
    uint32_t *hashes = mem_new(*n, sizeof *hashes);
    for (size_t i = 0; bytes && i < *n; i++)
        for (size_t k = 0; k < 4; k++)
            hashes[i] |= (uint32_t)bytes[4 * i + k] << 8 * k;
    free(bytes);
    return hashes;
}

/* The texts of the shared directory, in the order of their names; NULL where there are none. */
static char *read_novels(size_t *n) {
    static const char *const names[] = {"persuasion", "pride-and-prejudice", "the-call-of-the-wild",
                                        "the-time-machine"};
    text_buffer all = {0};
    for (size_t i = 0; harness_shared_dir() && i < 4; i++) {
        char path[1024];
        size_t n_read;
        snprintf(path, sizeof path, "%s/texts/%s.txt", harness_shared_dir(), names[i]);
        char *text = harness_read_file(path, &n_read);
        if (text) text_append(&all, text, n_read);
        free(text);
    }
    *n = all.n;
    return all.data;
}

/* ---- hashes: FNV-1a of what a string becomes, as class Hash of the script does ---- */

typedef struct hash {
    uint64_t h;
} hash;

static void hash_bytes(hash *h, const void *data, size_t n) {
    for (size_t i = 0; i < n; i++)
        h->h = (h->h ^ ((const unsigned char *)data)[i]) * 0x100000001B3u;
}

static void hash_u32(hash *h, uint32_t value) {
    unsigned char bytes[4] = {(unsigned char)value, (unsigned char)(value >> 8), (unsigned char)(value >> 16),
                              (unsigned char)(value >> 24)};
    hash_bytes(h, bytes, 4);
}

static uint32_t hash_value(const hash *h) {
    return (uint32_t)(h->h ^ h->h >> 32);
}

/* Token by token the text must come in whole characters, and be the same as that of all at once. */
static void check_stream(tokenizer *tok, const token_list *list, bool skip, const text_buffer *whole) {
    text_stream stream = {.skip_special = skip};
    text_buffer streamed = {0};
    bool good = true;
    for (int round = 0; round < 2; round++) { /* a flushed stream is a fresh one */
        streamed.n = 0;
        for (size_t i = 0; i < list->n; i++) {
            size_t before = streamed.n;
            text_stream_push(tok, &stream, list->ids[i], &streamed);
            if (streamed.n > before)
                good &= utf8_count_valid(streamed.data + before, streamed.n - before) == streamed.n - before;
        }
        text_stream_flush(tok, &stream, &streamed);
        good &= streamed.n == whole->n && (whole->n == 0 || !memcmp(streamed.data, whole->data, whole->n));
    }
    text_stream_free(&stream);
    free(streamed.data);
    if (!good) CU_FAIL("a streamed text differs from the decoded one, or came in parts of characters");
}

static void hash_decoded(hash *h, tokenizer *tok, const token_list *list) {
    for (int skip = 0; skip < 2; skip++) {
        text_buffer text = {0};
        tokenizer_decode(tok, list->ids, list->n, skip, &text);
        hash_u32(h, (uint32_t)text.n);
        hash_bytes(h, text.data, text.n);
        check_stream(tok, list, skip, &text);
        free(text.data);
    }
}

static void hash_string(hash *h, tokenizer *tok, const char *text, size_t n) {
    token_list with = {0}, without = {0};
    CHECK_OK(tokenizer_encode(tok, text, n, true, &with));
    CHECK_OK(tokenizer_encode(tok, text, n, false, &without));
    hash_u32(h, (uint32_t)with.n);
    for (size_t i = 0; i < with.n; i++)
        hash_u32(h, (uint32_t)with.ids[i]);
    hash_u32(h, (uint32_t)without.n);
    for (size_t i = 0; i < without.n; i++)
        hash_u32(h, (uint32_t)without.ids[i]);
    hash_decoded(h, tok, &with);
    free(with.ids);
    free(without.ids);
}

static void hash_random_ids(hash *h, tokenizer *tok, uint64_t *state) {
    uint64_t n_tokens = (uint64_t)tokenizer_n_tokens(tok), n_first = n_tokens < 300 ? n_tokens : 300;
    token_list list = {0};
    for (uint64_t n = below(state, 13); n > 0; n--) {
        bool first = below(state, 3) == 0;
        token_list_append(&list, (int32_t)below(state, first ? n_first : n_tokens));
    }
    hash_decoded(h, tok, &list);
    free(list.ids);
}

/* The strings of a seed; prints the first few that differ. */
static size_t count_wrong(tokenizer *tok, const string_maker *maker, uint64_t seed, const uint32_t *expected,
                          size_t n) {
    size_t n_wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t state = seed * 1000003 + i;
        text_buffer text = {0};
        text_append(&text, "", 0);
        append_string(maker, &state, &text);
        hash h = {0xCBF29CE484222325u};
        hash_string(&h, tok, text.data, text.n);
        hash_random_ids(&h, tok, &state);
        if (hash_value(&h) != expected[i] && n_wrong++ < 3) {
            printf("differs: seed %llu, string %zu:", (unsigned long long)seed, i);
            for (size_t k = 0; k < text.n && k < 100; k++)
                printf(" %02x", (unsigned char)text.data[k]);
            printf("\n");
        }
        free(text.data);
    }
    return n_wrong;
}

/* ---- golden tests of whole tokenizers ---- */

static void check_tokenizer(const char *path, const char *golden, uint64_t seed, bool with_novels) {
    size_t n, n_json;
    string_maker maker = {.parts = read_golden_json("strings.json")};
    char *json = harness_read_file(path, &n_json);
    char *novels = with_novels ? read_novels(&maker.n_novel) : NULL;
    maker.novel = novels;
    if (!json || (with_novels && !novels)) {
        harness_skip("%s or the texts are not there", path);
    } else {
        uint32_t *expected = read_hashes(golden, &n);
        tokenizer *tok = NULL;
        maker.tokenizer = cJSON_Parse(json);
        if (CHECK_OK(tokenizer_open(path, &tok))) {
            size_t n_wrong = count_wrong(tok, &maker, seed, expected, n);
            CU_ASSERT(n >= 3000 && n_wrong == 0);
            printf("%s: %zu strings, %zu differ\n", golden, n, n_wrong);
        }
        tokenizer_close(tok);
        free(expected);
    }
    cJSON_Delete(maker.parts);
    cJSON_Delete(maker.tokenizer);
    free(json);
    free(novels);
}

static void check_shared(const char *name, uint64_t seed) {
    if (!harness_shared_dir()) {
        harness_skip("no shared directory with the tokenizer %s", name);
        return;
    }
    char path[1024];
    snprintf(path, sizeof path, "%s/tokenizers/%s/tokenizer.json", harness_shared_dir(), name);
    check_tokenizer(path, name, seed, true);
}

static const char *demo_path(void) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/jobs/demo/model/tokenizer.json", harness_source_dir());
    return path;
}

static void test_demo(void) {
    check_tokenizer(demo_path(), "demo", 1, false);
}

static void test_demo_novels(void) {
    check_tokenizer(demo_path(), "demo_novels", 2, true);
}

static void test_smollm2(void) {
    check_shared("smollm2", 3);
}

static void test_openllama(void) {
    check_shared("openllama-3b", 4);
}

/* ---- variants of small tokenizers ---- */

/* A base with the members of a patch put in; "model" gives members of the model. */
static cJSON *patched(const cJSON *base, const cJSON *patch) {
    cJSON *out = cJSON_Duplicate(base, true);
    const cJSON *member, *option;
    cJSON_ArrayForEach(member, patch) {
        bool is_model = !strcmp(member->string, "model");
        cJSON *owner = is_model ? cJSON_GetObjectItemCaseSensitive(out, "model") : out;
        if (!is_model)
            cJSON_ReplaceItemInObjectCaseSensitive(out, member->string, cJSON_Duplicate(member, true));
        for (option = is_model ? member->child : NULL; option; option = option->next)
            if (!cJSON_ReplaceItemInObjectCaseSensitive(owner, option->string, cJSON_Duplicate(option, true)))
                cJSON_AddItemToObject(owner, option->string, cJSON_Duplicate(option, true));
    }
    return out;
}

static tokenizer *open_json(const cJSON *json, const char *name) {
    tokenizer *tok = NULL;
    char *text = cJSON_PrintUnformatted(json);
    if (!CHECK_OK(tokenizer_parse(text, strlen(text), name, &tok))) tok = NULL;
    free(text);
    return tok;
}

static cJSON *read_base(const char *name) {
    char file[64];
    snprintf(file, sizeof file, "%s.json", name);
    return read_golden_json(file);
}

/* Each variant, as JSON and opened. */
typedef void variant_visit(const cJSON *variant, size_t index, const cJSON *json, tokenizer *tok,
                           void *context);

static void for_each_variant(variant_visit *visit, void *context) {
    cJSON *variants = read_golden_json("variants.json");
    const cJSON *variant;
    size_t i = 0;
    cJSON_ArrayForEach(variant, variants) {
        const char *name = maker_get(variant, "name")->valuestring;
        cJSON *base = read_base(maker_get(variant, "base")->valuestring);
        cJSON *json = patched(base, maker_get(variant, "patch"));
        tokenizer *tok = open_json(json, name);
        if (tok) visit(variant, i, json, tok, context);
        i++;
        tokenizer_close(tok);
        cJSON_Delete(json);
        cJSON_Delete(base);
    }
    CU_ASSERT(i > 100);
    cJSON_Delete(variants);
}

enum { STRINGS_PER_VARIANT = 400, HASHES_PER_VARIANT = 0x110 };

typedef struct variant_check {
    string_maker maker;
    uint32_t *expected;
    size_t n, done; /* hashes, and how many of them were used */
} variant_check;

static void check_variant(const cJSON *variant, size_t index, const cJSON *json, tokenizer *tok,
                          void *context) {
    variant_check *check = context;
    if (check->done + STRINGS_PER_VARIANT > check->n) return;
    check->maker.tokenizer = (cJSON *)json;
    size_t n_wrong =
        count_wrong(tok, &check->maker, 100 + index, check->expected + check->done, STRINGS_PER_VARIANT);
    check->done += STRINGS_PER_VARIANT;
    CU_ASSERT(n_wrong == 0);
    if (n_wrong) printf("variant %s: %zu strings differ\n", maker_get(variant, "name")->valuestring, n_wrong);
}

static void test_variants(void) {
    variant_check check = {.maker.parts = read_golden_json("strings.json")};
    check.expected = read_hashes("variants", &check.n);
    for_each_variant(check_variant, &check);
    CU_ASSERT(check.done == check.n && check.n > 0);
    cJSON_Delete(check.maker.parts);
    free(check.expected);
}

/* Every code point behind an a and before a full stop, 64 to a string. */
static uint32_t hash_code_points(tokenizer *tok, uint32_t block) {
    hash h = {0xCBF29CE484222325u};
    for (uint32_t first = block; first < block + 4096; first += 64) {
        text_buffer text = {0};
        text_append(&text, "", 0);
        for (uint32_t code = first; code < first + 64; code++) {
            if (code >= 0xD800 && code <= 0xDFFF) continue;
            text_append(&text, "a", 1);
            utf8_append(&text, code);
            text_append(&text, ".", 1);
        }
        hash_string(&h, tok, text.data, text.n);
        free(text.data);
    }
    return hash_value(&h);
}

static void check_code_points(const cJSON *variant, size_t index, const cJSON *json, tokenizer *tok,
                              void *context) {
    (void)index;
    (void)json;
    variant_check *check = context;
    if (!cJSON_IsTrue(maker_get(variant, "code_points")) || check->done + HASHES_PER_VARIANT > check->n)
        return;
    for (uint32_t i = 0; i < HASHES_PER_VARIANT; i++) {
        bool same = hash_code_points(tok, i * 4096) == check->expected[check->done++];
        CU_ASSERT(same);
        if (!same)
            printf("variant %s: differs in U+%04X to U+%04X\n", maker_get(variant, "name")->valuestring,
                   i * 4096, i * 4096 + 4095);
    }
}

static void test_code_points(void) {
    variant_check check = {0};
    check.expected = read_hashes("code_points", &check.n);
    for_each_variant(check_code_points, &check);
    CU_ASSERT(check.done == check.n && check.n > 0);
    free(check.expected);
}

/* ---- strings with their ids in full ---- */

static size_t read_hex(const char *hex, char *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (char)strtoul(digits, NULL, 16);
    }
    return n;
}

static void check_case(tokenizer *tok, const cJSON *line) {
    char text[512];
    size_t n = read_hex(maker_get(line, "hex")->valuestring, text), i = 0;
    token_list list = {0};
    CHECK_OK(tokenizer_encode(tok, text, n, true, &list));
    const cJSON *ids = maker_get(line, "ids"), *id;
    bool same = list.n == (size_t)cJSON_GetArraySize(ids);
    cJSON_ArrayForEach(id, ids) {
        same = same && list.ids[i] == id->valueint;
        i++;
    }
    text_buffer decoded = {0};
    text_append(&decoded, "", 0);
    tokenizer_decode(tok, list.ids, list.n, false, &decoded);
    /* A zero byte, which cJSON cannot hold, ends both. */
    same = same && !strcmp(decoded.data, maker_get(line, "text")->valuestring);
    CU_ASSERT(same);
    if (!same)
        printf("case differs: %s: %s\n", maker_get(line, "tokenizer")->valuestring,
               maker_get(line, "hex")->valuestring);
    free(list.ids);
    free(decoded.data);
}

typedef struct case_list {
    char *text;
    size_t n_checked;
} case_list;

static void check_cases(case_list *cases, const char *name, tokenizer *tok) {
    for (char *line = cases->text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        cJSON *json = cJSON_Parse(line);
        *end = '\n';
        if (json && !strcmp(maker_get(json, "tokenizer")->valuestring, name)) {
            check_case(tok, json);
            cases->n_checked++;
        }
        cJSON_Delete(json);
    }
}

static void check_cases_of_variant(const cJSON *variant, size_t index, const cJSON *json, tokenizer *tok,
                                   void *context) {
    (void)index;
    (void)json;
    check_cases(context, maker_get(variant, "name")->valuestring, tok);
}

static void test_cases(void) {
    size_t n;
    case_list cases = {.text = read_golden("cases.jsonl", &n)};
    tokenizer *demo;
    for_each_variant(check_cases_of_variant, &cases);
    if (CHECK_OK(tokenizer_open(demo_path(), &demo))) {
        check_cases(&cases, "demo", demo);
        tokenizer_close(demo);
    }
    CU_ASSERT(cases.n_checked >= 200);
    free(cases.text);
}

/* ---- parts ---- */

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
            int32_t left = (int32_t)below(&state, (uint64_t)n_ids),
                    right = (int32_t)below(&state, (uint64_t)n_ids);
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
        size_t n = 1 + below(&state, round % 2 ? 60 : N_MOST);
        uint64_t n_symbols = 1 + below(&state, 4);
        for (size_t i = 0; i < n; i++)
            a[i] = b[i] = (int32_t)below(&state, n_symbols);
        size_t n_a = merge_run(&table, a, n), n_b = merge_plainly(merges, N_MERGES, b, n);
        CU_ASSERT(n_a == n_b && !memcmp(a, b, n_b * sizeof *b));
        merge_table_free(&table);
    }
}

static void test_lookup(void) {
    tokenizer *tok;
    if (!CHECK_OK(tokenizer_open(demo_path(), &tok))) return;
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
    cJSON *base = read_base("marks"), *bytes = read_base("bytes");
    tokenizer *toks[] = {open_json(base, "marks"), open_json(bytes, "bytes")};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        text_buffer text = {0};
        while (text.n < 1000000)
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
    cJSON_Delete(base);
    cJSON_Delete(bytes);
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void print_speed(const char *name, const char *path, const char *text, size_t n) {
    tokenizer *tok;
    token_list list = {0};
    text_buffer decoded = {0};
    if (!CHECK_OK(tokenizer_open(path, &tok))) return;
    double start = seconds_now();
    CHECK_OK(tokenizer_encode(tok, text, n, false, &list));
    double encoded = seconds_now();
    tokenizer_decode(tok, list.ids, list.n, true, &decoded);
    double end = seconds_now();
    printf("speed: %-12s %.1f MB/s encoded, %.1f MB/s decoded, %.2f bytes a token\n", name,
           (double)n / 1e6 / (encoded - start), (double)n / 1e6 / (end - encoded),
           (double)n / (double)list.n);
    CU_ASSERT(decoded.n == n && !memcmp(decoded.data, text, n));
    free(list.ids);
    free(decoded.data);
    tokenizer_close(tok);
}

static void test_novels(void) {
    size_t n;
    char *novels = read_novels(&n);
    if (!novels) {
        harness_skip("no shared directory with texts");
        return;
    }
    static const char *const names[] = {"smollm2", "openllama-3b"};
    print_speed("demo", demo_path(), novels, n);
    for (size_t i = 0; i < 2; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/tokenizers/%s/tokenizer.json", harness_shared_dir(), names[i]);
        print_speed(names[i], path, novels, n);
    }
    free(novels);
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

static void test_refused(void) {
    static const struct {
        const char *json, *part;
    } cases[] = {
        {"", "x.json: not JSON"},
        {"{\"model\":", "not JSON"},
        {"{} {}", "more text"},
        {"[]", "JSON object"},
        {"{}", "\"model\" is missing"},
        {"{\"model\":\"\xFF\"}", "UTF-8 at byte 10"},
        {"{\"model\":\"\\u0000\"}", "\\u0000"},
        {"{\"model\":3}", "\"model\" must be an object"},
        {"{\"model\":{},\"model\":{}}", "\"model\" is there twice"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "x.json: model: type \"Unigram\" is not supported"},
        {"{\"model\":{\"type\":\"BPE\"}}", "\"vocab\" is missing"},
        {"{" MODEL("[]", "[]") "}", "\"vocab\" must be an object"},
        {"{" MODEL("{}", "{}") "}", "\"merges\" must be an array"},
        {"{" MODEL("{\"a\":-1}", "[]") "}", "vocab: the id of \"a\""},
        {"{" MODEL("{\"a\":1.5}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":\"0\"}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":99999999}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":1e300}", "[]") "}", "the id of \"a\""},
        {"{" MODEL("{\"a\":0,\"b\":0}", "[]") "}", "\"b\" has the id 0 of another token"},
        {"{" MODEL("{\"a\\n\":0,\"a\\n\":1}", "[]") "}", "\"a?\" is there twice"},
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
        {FILE_OF("\"added_tokens\":{}"), "added_tokens: must be an array"},
        {FILE_OF("\"added_tokens\":[{\"id\":3}]"), "added_tokens: [0]: \"content\" is missing"},
        {FILE_OF("\"added_tokens\":[" TOKEN("7", "x", "false") "]"), "\"x\" must have the id 3"},
        {FILE_OF("\"added_tokens\":[" TOKEN("3", "a", "false") "]"), "\"a\" must have the id 0"},
        {FILE_OF("\"added_tokens\":[" TOKEN("3", "", "false") "]"), "\"\" is nothing"},
        {FILE_OF("\"added_tokens\":[" TOKEN("0", "a", "true") "," TOKEN("0", "a", "false") "]"),
         "is there twice"},
        {FILE_OF("\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[" TOKEN(
             "3", "X", "true") "," TOKEN("4", "x", "true") "]"),
         "are the same after normalization"},
        {FILE_OF("\"normalizer\":{}"), "normalizer: \"type\" is missing"},
        {FILE_OF("\"normalizer\":{\"type\":\"Nmt\"}"), "normalizer: type \"Nmt\" is not supported"},
        {FILE_OF("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
                 "\"Strip\"}]}"),
         "normalizer: normalizers[1]: \"strip_left\" is missing"},
        {FILE_OF("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}"),
         "\"Regex\" is missing"},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Punctuation\"}"), "pre_tokenizer: type \"Punctuation\""},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), "a single character"},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false,"
                 "\"prepend_scheme\":\"first\"}"),
         "contradict"},
        {SPLIT("["), "a class that does not end"},
        {SPLIT("(a"), "a ( without its )"},
        {SPLIT("a)"), "a ) without its ("},
        {SPLIT("[a[b]]"), "a class within a class"},
        {SPLIT("[a&&b]"), "&& in a class"},
        {SPLIT("(?>a*|b)"), "this kind of group"},
        {SPLIT("(?<=a*)b"), "the pattern cannot be compiled"},
        {SPLIT("a**"), "a repetition of nothing or of a repetition"},
        {SPLIT("\\\\p{Han}"), "this character property"},
        {SPLIT("\\\\p{Cn}"), "this character property"},
        {SPLIT("\\\\b"), "this escape"},
        {SPLIT("(?i:stop)"), "ff, fi, fl, ss or st"},
        {SPLIT("\\\\"), "this escape"},
        {FILE_OF("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\","
                 "\"invert\":false}"),
         "behavior \"Odd\""},
        {FILE_OF("\"post_processor\":{\"type\":\"BertProcessing\"}"),
         "post_processor: type \"BertProcessing\""},
        {FILE_OF("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                 "\"s\"}}],"
                 "\"special_tokens\":{}}"),
         "single[0]: special_tokens: \"s\" is missing"},
        {FILE_OF("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                 "\"s\"}}],"
                 "\"special_tokens\":{\"s\":{\"ids\":[9]}}}"),
         "no token has the id 9"},
        {FILE_OF("\"decoder\":{\"type\":\"WordPiece\"}"), "decoder: type \"WordPiece\""},
        {FILE_OF("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}"), "\"start\""},
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
    CHECK_REFUSED(tokenizer_open("/no/such/tokenizer.json", &tok), "/no/such/tokenizer.json: cannot be read");
    CHECK_OK(tokenizer_parse("{" GOOD_MODEL "}", strlen("{" GOOD_MODEL "}"), "x.json", &tok));
    tokenizer_close(tok);
}

static void test_deep(void) {
    text_buffer json = {0};
    for (int i = 0; i < 100000; i++)
        text_append(&json, "[", 1);
    tokenizer *tok;
    CHECK_REFUSED(tokenizer_parse(json.data, json.n, "deep.json", &tok),
                  "deep.json: not JSON, or nested more than");
    free(json.data);
}

/* Decoder steps for which Hugging Face tokenizers fails, and an expression that never comes to an end. */
static void test_odd_parts(void) {
    static const char strip[] =
        FILE_OF("\"decoder\":{\"type\":\"Strip\",\"content\":\"a\",\"start\":2,\"stop\":3}");
    static const int32_t ids[] = {0, 1, 2, 0, 0};
    tokenizer *tok;
    text_buffer text = {0};
    token_list list = {0};
    if (CHECK_OK(tokenizer_parse(strip, strlen(strip), "x.json", &tok))) {
        tokenizer_decode(tok, ids, 5, false, &text);
        CU_ASSERT_STRING_EQUAL(text.data, "bb");
        tokenizer_close(tok);
    }
    static const char endless[] = SPLIT("(a+)+$|(?:a|aa)+b");
    if (CHECK_OK(tokenizer_parse(endless, strlen(endless), "x.json", &tok))) {
        CHECK_REFUSED(
            tokenizer_encode(tok, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 48, true, &list),
            "failed on this text");
        CU_ASSERT_EQUAL(list.n, 0);
        tokenizer_close(tok);
    }
    free(list.ids);
    free(text.data);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"utf8", test_utf8},           {"merges", test_merges},
                           {"lookup", test_lookup},       {"cases", test_cases},
                           {"variants", test_variants},   {"code points", test_code_points},
                           {"demo", test_demo},           {"demo on novels", test_demo_novels},
                           {"smollm2", test_smollm2},     {"openllama", test_openllama},
                           {"novels", test_novels},       {"long words", test_long_words},
                           {"refused", test_refused},     {"deep json", test_deep},
                           {"odd parts", test_odd_parts}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "tokenizer", tests);
}
