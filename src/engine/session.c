#include "src/engine/session.h"

#include <stdlib.h>

session session_new(const int32_t *tokens, int64_t n_tokens) {
    session s = {.n_prompt = n_tokens, .sampling = sampling_defaults(), .score_from = -1, .source = -1};
    s.handle = -1;
    for (int64_t i = 0; i < n_tokens; i++)
        token_list_append(&s.tokens, tokens[i]);
    return s;
}

void session_free(session *s) {
    free(s->tokens.ids);
    free(s->failure);
    s->failure = NULL;
    s->tokens = (token_list){0};
}

void sessions_free(session *s, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        session_free(&s[i]);
    free(s);
}
