/* tests/tokenizer/test_tokenizer.c: equal to Hugging Face tokenizers, by the golden data of
 * golden/make_tokenizer_golden.py. */
#define _GNU_SOURCE /* memmem */
#include <stdio.h>
#include <time.h>

#include "src/tokenizer/tokenizer.h"
#include "tests/fixtures/tokenizer_strings.h"

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

/* Token by token the text must come in whole characters, and be the same as that of all at once: unless there
 * are bad bytes, for which tests/generate/test_job.c has cases. */
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
        bool has_bad_bytes = whole->n > 0 && memmem(whole->data, whole->n, "\xEF\xBF\xBD", 3);
        good &= has_bad_bytes ||
                (streamed.n == whole->n && (whole->n == 0 || !memcmp(streamed.data, whole->data, whole->n)));
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

/* Returns the ids, which the caller frees. */
static token_list hash_ids(hash *h, tokenizer *tok, const text_buffer *text, bool add_special) {
    token_list list = {0};
    CHECK_OK(tokenizer_encode(tok, text->data, text->n, add_special, &list));
    hash_u32(h, (uint32_t)list.n);
    for (size_t i = 0; i < list.n; i++)
        hash_u32(h, (uint32_t)list.ids[i]);
    return list;
}

static void hash_string(hash *h, tokenizer *tok, const text_buffer *text) {
    token_list with = hash_ids(h, tok, text, true), without = hash_ids(h, tok, text, false);
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
        hash_string(&h, tok, &text);
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

/* Where it is slow, it is not for the numbers: one of so many strings and code points has to do. */
enum { SLOW_SHARE = 16 };

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
            size_t n_checked = harness_is_slow() ? n / SLOW_SHARE : n;
            size_t n_wrong = count_wrong(tok, &maker, seed, expected, n_checked);
            CU_ASSERT(n >= 3000 && n_wrong == 0);
            printf("%s: %zu strings, %zu differ\n", golden, n_checked, n_wrong);
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
enum { FIRST_EMPTY_BLOCK = 0x40, LAST_EMPTY_BLOCK = 0xDF }; /* planes 4 to 13: no characters at all */

typedef struct variant_check {
    string_maker maker;
    uint32_t *expected;
    size_t n, done; /* hashes, and how many of them were used */
} variant_check;

/* A variant that the script did not make hashes of is no variant that passes. */
static bool has_hashes(const variant_check *check, const cJSON *variant, size_t n) {
    bool has = check->done + n <= check->n;
    CU_ASSERT(has);
    if (!has) printf("variant %s: no hashes of it\n", maker_get(variant, "name")->valuestring);
    return has;
}

static void check_variant(const cJSON *variant, size_t index, const cJSON *json, tokenizer *tok,
                          void *context) {
    variant_check *check = context;
    if (!has_hashes(check, variant, STRINGS_PER_VARIANT)) return;
    check->maker.tokenizer = (cJSON *)json;
    size_t n_checked = harness_is_slow() ? STRINGS_PER_VARIANT / SLOW_SHARE : STRINGS_PER_VARIANT;
    size_t n_wrong = count_wrong(tok, &check->maker, 100 + index, check->expected + check->done, n_checked);
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

/* Code points between others, 64 to a string, as the script does. */
static uint32_t hash_code_points(tokenizer *tok, uint32_t block) {
    hash h = {0xCBF29CE484222325u};
    static const char *const before[] = {"Z", "%", "9%.a"};
    for (uint32_t first = block; first < block + 4096; first += 64) {
        text_buffer text = {0};
        text_append(&text, "", 0);
        for (uint32_t code = first; code < first + 64; code++) {
            if (code >= 0xD800 && code <= 0xDFFF) continue;
            for (size_t i = 0; i < 3; i++) {
                text_append(&text, before[i], strlen(before[i]));
                utf8_append(&text, code);
            }
            text_append(&text, ".", 1);
        }
        free(hash_ids(&h, tok, &text, false).ids);
        free(text.data);
    }
    return hash_value(&h);
}

static void check_code_points(const cJSON *variant, size_t index, const cJSON *json, tokenizer *tok,
                              void *context) {
    (void)index;
    (void)json;
    variant_check *check = context;
    if (!cJSON_IsTrue(maker_get(variant, "code_points"))) return;
    if (!has_hashes(check, variant, HASHES_PER_VARIANT)) return;
    const uint32_t *expected = check->expected + check->done;
    check->done += HASHES_PER_VARIANT;
    for (uint32_t i = 0; i < HASHES_PER_VARIANT; i += harness_is_slow() ? SLOW_SHARE : 1) {
        /* The first stands for all. */
        if (!harness_is_long() && i > FIRST_EMPTY_BLOCK && i <= LAST_EMPTY_BLOCK) continue;
        bool same = hash_code_points(tok, i * 4096) == expected[i];
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

/* ---- whole texts ---- */

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
    if (harness_is_slow()) n /= SLOW_SHARE;
    static const char *const names[] = {"smollm2", "openllama-3b"};
    print_speed("demo", demo_path(), novels, n);
    for (size_t i = 0; i < 2; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/tokenizers/%s/tokenizer.json", harness_shared_dir(), names[i]);
        print_speed(names[i], path, novels, n);
    }
    free(novels);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"cases", test_cases},
                           {"variants", test_variants},
                           {"code points", test_code_points},
                           {"demo", test_demo},
                           {"demo on novels", test_demo_novels},
                           {"smollm2", test_smollm2},
                           {"openllama", test_openllama},
                           {"novels", test_novels},
                           CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "tokenizer", tests);
}
