#include "src/study/pass_keys.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/sampler.h"
#include "src/study/windows.h"

typedef struct pass_key {
    char question[64], digits[PASS_KEY_DIGITS + 1];
} pass_key;

static pass_key key_of(int64_t window, int64_t key) {
    static const char *const names[PASS_KEYS_MOST] = {"Anna",  "Peter", "Maria",  "Paul",  "Clara", "Henry",
                                                      "Laura", "Simon", "Helen",  "Oscar", "Julia", "David",
                                                      "Emma",  "Frank", "Sophie", "Victor"};
    const uint32_t drawn = sampler_random(0, window, key);
    pass_key k;
    snprintf(k.question, sizeof k.question, "\n\nThe pass key of %s is",
             names[(window + key) % PASS_KEYS_MOST]);
    snprintf(k.digits, sizeof k.digits, "%0*u", PASS_KEY_DIGITS, drawn % 100000);
    return k;
}

static status encode(const model_config *config, tokenizer *tok, const pass_key *k, const char *end,
                     token_list *out) {
    char text[128];
    const int n = snprintf(text, sizeof text, "%s %s%s", k->question, k->digits, end);
    return windows_encode("--keys", "a sentence", text, (size_t)n, config, tok, out);
}

status pass_keys_put(const model_config *config, tokenizer *tok, int64_t window, int64_t n_keys,
                     int32_t *context, int64_t n_tokens) {
    assert(n_keys <= PASS_KEYS_MOST);
    token_list sentences = {0}, made = {0};
    int64_t ends[PASS_KEYS_MOST] = {0};
    status st = STATUS_OK;
    for (int64_t key = 0; st == STATUS_OK && key < n_keys; key++) {
        const pass_key k = key_of(window, key);
        st = encode(config, tok, &k, ". Remember it.\n\n", &sentences);
        ends[key] = (int64_t)sentences.n;
    }
    const int64_t n_text = n_tokens - (int64_t)sentences.n;
    if (st == STATUS_OK && n_text <= 0)
        st = status_refuse(
            "--keys %lld: their sentences take %zu tokens of a context of %lld: raise --context",
            (long long)n_keys, sentences.n, (long long)n_tokens);
    for (int64_t key = 0, text = 0, at = 0; st == STATUS_OK && key <= n_keys; key++) {
        const int64_t text_end = key < n_keys ? (2 * key + 1) * n_text / (2 * n_keys) : n_text;
        for (; text < text_end; text++)
            token_list_append(&made, context[(int64_t)sentences.n + text]);
        for (; key < n_keys && at < ends[key]; at++)
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
    status st = encode(config, tok, &k, "", out);
    if (st != STATUS_OK) return st;
    if (count_digits(tok, out->ids + begin, out->n - begin) != PASS_KEY_DIGITS)
        return status_refuse("--keys: this tokenizer does not write the digits of a pass key");
    size_t n = 1; /* tokens up to the first digit */
    while (count_digits(tok, out->ids + begin, n) == 0)
        n++;
    *first_digit = (int64_t)(begin + n) - 1;
    return STATUS_OK;
}
