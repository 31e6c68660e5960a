/* src/study/windows.h: parts of texts, for commands that read samples of them. Rank 0. Local. */
#pragma once

#include "src/command/options.h"
#include "src/model/model_config.h"
#include "src/tokenizer/tokenizer.h"

/* Windows of n_tokens tokens each, one behind the other. Zeroed is empty; release with free(ids). */
typedef struct window_list {
    token_list tokens;
    int64_t n, n_tokens;
} window_list;

static inline const int32_t *window_at(const window_list *w, int64_t i) {
    return w->tokens.ids + i * w->n_tokens;
}

/* Append up to `most` windows of the text of the file that `option` named, spread evenly over it; none of
 * them overlap. Refuses a text that has not one, and tokens that the model does not know. */
status windows_append(const char *option, const char *path, const model_config *config, tokenizer *tok,
                      int64_t most, window_list *w);
