/* tests/study/test_pass_keys.c: contexts with pass keys, and questions for them, by tokenizers of several
 * kinds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/study/pass_keys.h"
#include "tests/fixtures/harness.h"

enum { TOKENS = 800 };

/* As a context has it. */
typedef struct sentence {
    char name[16], digits[8];
} sentence;

static tokenizer *open_demo(void) {
    char path[1024];
    tokenizer *tok = NULL;
    snprintf(path, sizeof path, "%s/jobs/demo/model/tokenizer.json", harness_source_dir());
    CHECK_OK(tokenizer_open(path, &tok));
    return tok;
}

static model_config config_for(const tokenizer *tok) {
    return (model_config){.vocab_size = tokenizer_n_tokens(tok)};
}

/* Tokens of the demo page, again and again. */
static void fill_text(tokenizer *tok, int32_t *text) {
    char path[1024];
    size_t n = 0;
    token_list ids = {0};
    snprintf(path, sizeof path, "%s/jobs/demo/page.txt", harness_source_dir());
    char *page = harness_read_file(path, &n);
    CHECK_OK(tokenizer_encode(tok, page, n, false, &ids));
    for (size_t i = 0; i < TOKENS; i++)
        text[i] = ids.ids[i % ids.n];
    free(page);
    free(ids.ids);
}

static int count_digits(const char *text) {
    int n = 0;
    for (; *text; text++)
        n += *text >= '0' && *text <= '9';
    return n;
}

static char *decode(tokenizer *tok, const int32_t *ids, size_t n) {
    text_buffer text = {0};
    text_append(&text, "", 0);
    tokenizer_decode(tok, ids, n, false, &text);
    return text.data;
}

/* The sentences of a context, in their order; how many there are. */
static int find_sentences(tokenizer *tok, const int32_t *context, sentence out[PASS_KEYS_MOST]) {
    char *text = decode(tok, context, TOKENS);
    int n = 0;
    for (const char *at = text; n < PASS_KEYS_MOST && (at = strstr(at, "The pass key of ")); at++, n++) {
        int n_read = 0;
        char again[8], name[16];
        CU_ASSERT(sscanf(at,
                         "The pass key of %15s is %7[0-9]. Remember it: %7[0-9] is the pass key of "
                         "%15[A-Za-z].\n\n%n",
                         out[n].name, out[n].digits, again, name, &n_read) == 4);
        CU_ASSERT(n_read > 0 && strlen(out[n].digits) == PASS_KEY_DIGITS);
        CU_ASSERT(!strcmp(again, out[n].digits) && !strcmp(name, out[n].name));
    }
    free(text);
    return n;
}

/* The text without its first tokens, and the sentences where they are to be in it. */
static void check_context(tokenizer *tok, const int32_t *text, const int32_t *context, const sentence *all,
                          const pass_key_places *keys) {
    const int n = (int)keys->n;
    token_list tokens = {0};
    size_t ends[PASS_KEYS_MOST], at = 0, taken = 0;
    for (int k = 0; k < n; k++) {
        char words[1024];
        snprintf(words, sizeof words,
                 "\n\nThe pass key of %s is %s. Remember it: %s is the pass key of %s.\n\n", all[k].name,
                 all[k].digits, all[k].digits, all[k].name);
        CHECK_OK(tokenizer_encode(tok, words, strlen(words), false, &tokens));
        ends[k] = tokens.n;
    }
    const size_t n_text = TOKENS - tokens.n;
    bool good = true;
    for (int k = 0; k <= n; k++) {
        const size_t until = k < n ? (size_t)llround(keys->percent[k] / 100 * (double)n_text) : n_text;
        for (; taken < until; taken++)
            good &= context[at++] == text[tokens.n + taken];
        for (size_t i = k > 0 ? ends[k - 1] : 0; k < n && i < ends[k]; i++)
            good &= context[at++] == tokens.ids[i];
    }
    CU_ASSERT(good && at == TOKENS);
    free(tokens.ids);
}

/* It asks for this key, and the digits begin where it says; how many tokens they are. */
static int check_question(tokenizer *tok, int64_t window, int64_t key, const sentence *wanted) {
    const model_config config = config_for(tok);
    token_list ids = {0};
    int64_t first = 0;
    char words[1024];
    token_list_append(&ids, 7); /* something before it */
    CHECK_OK(pass_keys_append_question(&config, tok, window, key, &ids, &first));
    char *all = decode(tok, ids.ids + 1, ids.n - 1), *before = decode(tok, ids.ids + 1, (size_t)first - 1),
         *begun = decode(tok, ids.ids + 1, (size_t)first);
    snprintf(words, sizeof words, "What is the pass key of %s? The pass key of %s is %s", wanted->name,
             wanted->name, wanted->digits);
    CU_ASSERT(strlen(all) >= strlen(words) && !strcmp(all + strlen(all) - strlen(words), words));
    CU_ASSERT(count_digits(before) == 0 && count_digits(begun) > 0);
    const int n_tokens = (int)((int64_t)ids.n - first);
    CU_ASSERT(n_tokens >= 1 && n_tokens <= PASS_KEY_DIGITS);
    free(all);
    free(before);
    free(begun);
    free(ids.ids);
    return n_tokens;
}

/* Those of --keys N. */
static pass_key_places evenly(int64_t n) {
    pass_key_places keys = {0};
    CHECK_OK(pass_keys_place(&(options){.keys = n}, &keys));
    return keys;
}

/* The fewest tokens of the digits of a key. */
static int check_tokenizer(tokenizer *tok) {
    const model_config config = config_for(tok);
    static const int counts[] = {0, 1, 3, PASS_KEYS_MOST};
    int32_t text[TOKENS], context[TOKENS];
    int fewest = PASS_KEY_DIGITS;
    fill_text(tok, text);
    for (int64_t window = 0; window < 12; window++) {
        const int n = counts[window % 4];
        const pass_key_places keys = evenly(n);
        sentence all[PASS_KEYS_MOST];
        memcpy(context, text, sizeof text);
        CHECK_OK(pass_keys_put(&config, tok, window, &keys, context, TOKENS));
        CU_ASSERT(find_sentences(tok, context, all) == n);
        check_context(tok, text, context, all, &keys);
        for (int k = 0; k < n; k++) {
            const int n_tokens = check_question(tok, window, k, &all[k]);
            if (n_tokens < fewest) fewest = n_tokens;
            for (int other = 0; other < k; other++)
                CU_ASSERT(strcmp(all[k].name, all[other].name) && strcmp(all[k].digits, all[other].digits));
        }
    }
    return fewest;
}

/* It has a few pairs of digits among its tokens. */
static void demo(void) {
    tokenizer *tok = open_demo();
    CU_ASSERT(check_tokenizer(tok) < PASS_KEY_DIGITS);
    tokenizer_close(tok);
}

/* One token for each digit, behind a space that is one, too. */
static void others(void) {
    static const char *const names[] = {"smollm2", "openllama-3b"};
    for (int i = 0; i < 2; i++) {
        char path[1024];
        tokenizer *tok = NULL;
        if (!harness_shared_dir()) {
            harness_skip("no shared directory with the tokenizer %s", names[i]);
            return;
        }
        snprintf(path, sizeof path, "%s/tokenizers/%s/tokenizer.json", harness_shared_dir(), names[i]);
        CHECK_OK(tokenizer_open(path, &tok));
        CU_ASSERT(check_tokenizer(tok) == PASS_KEY_DIGITS);
        tokenizer_close(tok);
    }
}

static void places(void) {
    pass_key_places keys = evenly(2);
    CU_ASSERT(keys.n == 2 && keys.percent[0] == 25 && keys.percent[1] == 75);
    CHECK_OK(pass_keys_place(&(options){.key_depths = "0,50,50,100"}, &keys));
    CU_ASSERT(keys.n == 4 && keys.percent[0] == 0 && keys.percent[2] == 50 && keys.percent[3] == 100);
    tokenizer *tok = open_demo();
    const model_config config = config_for(tok);
    int32_t text[TOKENS], context[TOKENS];
    sentence all[PASS_KEYS_MOST];
    fill_text(tok, text);
    memcpy(context, text, sizeof text);
    CHECK_OK(pass_keys_put(&config, tok, 3, &keys, context, TOKENS));
    CU_ASSERT(find_sentences(tok, context, all) == 4);
    check_context(tok, text, context, all, &keys);
    tokenizer_close(tok);
    CHECK_REFUSED(pass_keys_place(&(options){.key_depths = "50,10"}, &keys),
                  "--key-depths 50,10: expected them");
    CHECK_REFUSED(pass_keys_place(&(options){.key_depths = "5,101"}, &keys), "16 numbers from 0 to 100");
}

static void refusals(void) {
    const pass_key_places three = evenly(3);
    tokenizer *tok = open_demo(), *letters = NULL;
    model_config config = config_for(tok);
    int32_t context[TOKENS];
    int64_t first;
    token_list ids = {0};
    fill_text(tok, context);
    CHECK_REFUSED(pass_keys_put(&config, tok, 0, &three, context, 60), "of a context of 60: raise --context");
    config.vocab_size = 100;
    CHECK_REFUSED(pass_keys_put(&config, tok, 0, &three, context, TOKENS), "is not among the model's 100");
    static const char json[] =
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"e\": 0, \"s\": 1}, \"merges\": []}}";
    CHECK_OK(tokenizer_parse(json, sizeof json - 1, "letters", &letters));
    CHECK_REFUSED(pass_keys_append_question(&config, letters, 0, 0, &ids, &first),
                  "does not write the digits");
    free(ids.ids);
    tokenizer_close(letters);
    tokenizer_close(tok);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"demo tokenizer", demo}, {"other tokenizers", others}, {"places", places}, {"refusals", refusals},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "pass_keys", tests);
}
