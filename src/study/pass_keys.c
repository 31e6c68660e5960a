#include "src/study/pass_keys.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/command/number_list.h"
#include "src/model/sampler.h"
#include "src/study/windows.h"

typedef struct pass_key {
    const char *name;
    char digits[PASS_KEY_DIGITS + 1];
} pass_key;

static pass_key key_of(int64_t window, int64_t key) {
    static const char *const names[PASS_KEYS_MOST] = {"Anna",  "Peter", "Maria",  "Paul",  "Clara", "Henry",
                                                      "Laura", "Simon", "Helen",  "Oscar", "Julia", "David",
                                                      "Emma",  "Frank", "Sophie", "Victor"};
    pass_key k = {.name = names[(window + key) % PASS_KEYS_MOST]};
    snprintf(k.digits, sizeof k.digits, "%0*u", PASS_KEY_DIGITS, sampler_random(0, window, key) % 100000);
    return k;
}

/* Its sentences, or the question for it and the answer. */
static status encode(const model_config *config, tokenizer *tok, const pass_key *k, bool is_question,
                     token_list *out) {
    char text[160];
    const int n =
        is_question ? snprintf(text, sizeof text, "\n\nWhat is the pass key of %s? The pass key of %s is %s",
                               k->name, k->name, k->digits)
                    : snprintf(text, sizeof text,
                               "\n\nThe pass key of %s is %s. Remember it: %s is the pass key of %s.\n\n",
                               k->name, k->digits, k->digits, k->name);
    return windows_encode("--keys", "a sentence", text, (size_t)n, config, tok, out);
}

status pass_keys_place(const options *o, pass_key_places *out) {
    numbers depths = {0};
    pass_key_places keys = {.n = o->keys};
    for (int64_t key = 0; key < keys.n; key++)
        keys.percent[key] = 100 * (2 * (double)key + 1) / (2 * (double)keys.n);
    status st = o->key_depths ? numbers_parse("key-depths", o->key_depths, 0, 100, &depths) : STATUS_OK;
    static_assert((int)MAX_NUMBERS <= (int)PASS_KEYS_MOST, "a depth for each key");
    for (int i = 0; st == STATUS_OK && i < depths.n; i++, keys.n++) {
        if (i > 0 && depths.at[i] < depths.at[i - 1])
            st = status_refuse("--key-depths %s: expected them to rise", o->key_depths);
        keys.percent[i] = (double)depths.at[i];
    }
    if (st == STATUS_OK) *out = keys;
    return st;
}

status pass_keys_put(const model_config *config, tokenizer *tok, int64_t window, const pass_key_places *keys,
                     int32_t *context, int64_t n_tokens) {
    token_list sentences = {0}, made = {0};
    int64_t ends[PASS_KEYS_MOST] = {0};
    status st = STATUS_OK;
    for (int64_t key = 0; st == STATUS_OK && key < keys->n; key++) {
        const pass_key k = key_of(window, key);
        st = encode(config, tok, &k, false, &sentences);
        ends[key] = (int64_t)sentences.n;
    }
    const int64_t n_text = n_tokens - (int64_t)sentences.n;
    if (st == STATUS_OK && n_text <= 0)
        st = status_refuse(
            "the sentences of %lld pass keys take %zu tokens of a context of %lld: raise --context",
            (long long)keys->n, sentences.n, (long long)n_tokens);
    for (int64_t key = 0, text = 0, at = 0; st == STATUS_OK && key <= keys->n; key++) {
        const int64_t text_end = key < keys->n ? llround(keys->percent[key] / 100 * (double)n_text) : n_text;
        for (; text < text_end; text++)
            token_list_append(&made, context[(int64_t)sentences.n + text]);
        for (; key < keys->n && at < ends[key]; at++)
            token_list_append(&made, sentences.ids[at]);
    }
    if (st == STATUS_OK) memcpy(context, made.ids, made.n * sizeof *context);
    free(sentences.ids);
    free(made.ids);
    return st;
}

static int count_digits(tokenizer *tok, const int32_t *ids, size_t n) {
    text_buffer text = {0};
    int n_digits = 0;
    tokenizer_decode(tok, ids, n, false, &text);
    for (size_t i = 0; i < text.n; i++)
        n_digits += text.data[i] >= '0' && text.data[i] <= '9';
    free(text.data);
    return n_digits;
}

status pass_keys_append_question(const model_config *config, tokenizer *tok, int64_t window, int64_t key,
                                 token_list *out, int64_t *first_digit) {
    const pass_key k = key_of(window, key);
    const size_t begin = out->n;
    status st = encode(config, tok, &k, true, out);
    if (st != STATUS_OK) return st;
    if (count_digits(tok, out->ids + begin, out->n - begin) != PASS_KEY_DIGITS)
        return status_refuse("--keys: this tokenizer does not write the digits of a pass key");
    size_t n = 1; /* tokens up to the first digit */
    while (count_digits(tok, out->ids + begin, n) == 0)
        n++;
    *first_digit = (int64_t)(begin + n) - 1;
    return STATUS_OK;
}
