/* src/study/pass_keys.h: "The pass key of Anna is 48213. ...": sentences put into a context, whose digits
 * only who can still read them knows (passkey retrieval, as in Mohtashami and Jaggi 2023, arXiv 2305.16300).
 * The keys of a window depend on its number alone. Rank 0. Local. */
#pragma once

#include "src/command/options.h"
#include "src/model/model_config.h"
#include "src/tokenizer/tokenizer.h"

enum { PASS_KEYS_MOST = 16, PASS_KEY_DIGITS = 5 };

/* Where the keys of a context lie. Zeroed is none. */
typedef struct pass_key_places {
    int64_t n;
    double percent[PASS_KEYS_MOST]; /* of the text around the keys that is before each; they rise */
} pass_key_places;

/* As --key-depths says, or --keys: in the middles of so many equal parts. */
status pass_keys_place(const options *o, pass_key_places *out);

/* Put sentences there into a context of n_tokens: as many of its first tokens go. Refuses a context that has
 * no room for them. */
status pass_keys_put(const model_config *config, tokenizer *tok, int64_t window, const pass_key_places *keys,
                     int32_t *context, int64_t n_tokens);

/* Append the question for a key of the window, and its digits, whose first token is *first_digit of the list.
 * Refuses a tokenizer that does not write digits. */
status pass_keys_append_question(const model_config *config, tokenizer *tok, int64_t window, int64_t key,
                                 token_list *out, int64_t *first_digit);
