/* src/study/windows.h: parts of texts, for commands that read samples of them. Rank 0. Local. */
#pragma once

#include "src/command/options.h"
#include "src/engine/engine.h"
#include "src/tokenizer/tokenizer.h"

/* Windows of n_tokens tokens each, one behind the other. Zeroed is empty; release with free(ids). */
typedef struct window_list {
    token_list tokens;
    int64_t n, n_tokens;
} window_list;

static inline const int32_t *window_at(const window_list *w, int64_t i) {
    return w->tokens.ids + i * w->n_tokens;
}

/* Append the tokens of n bytes of text. Refuses those that the model does not know; `option` and `name` are
 * for messages. */
status windows_encode(const char *option, const char *name, const char *text, size_t n,
                      const model_config *config, tokenizer *tok, token_list *out);

/* With --add-bos what the tokenizer puts before texts, else what the config names; -1 without. Refuses a
 * model that has neither. */
status windows_begin_token(const options *o, const model_config *config, const tokenizer *tok, int32_t *out);

/* Append the tokens of the text of the file that `option` named, and count its bytes. Refuses the same.
 */
status windows_read_text(const char *option, const char *path, const model_config *config, tokenizer *tok,
                         token_list *out, size_t *n_bytes);

/* Append up to `most` windows of the text of the file that `option` named, spread evenly over it; none of
 * them overlap. Refuses a text that has not one, and tokens that the model does not know. */
status windows_append(const char *option, const char *path, const model_config *config, tokenizer *tok,
                      int64_t most, window_list *w);

/* Take the events of the sessions that were submitted, n_tokens to be read in all and nothing to be
 * generated, showing progress: what comes of them the probe sees. While the other ranks serve. */
void windows_read(engine *e, int64_t n_tokens);
