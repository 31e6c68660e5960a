#include "src/study/windows.h"

#include <stdlib.h>

#include "src/base/memory.h"
#include "src/command/progress.h"
#include "src/command/run.h"

status windows_encode(const char *option, const char *name, const char *text, size_t n,
                      const model_config *config, tokenizer *tok, token_list *out) {
    size_t i = out->n;
    status st = tokenizer_encode(tok, text, n, false, out);
    for (; st == STATUS_OK && i < out->n; i++)
        if (out->ids[i] >= config->vocab_size)
            st = status_refuse("%s %s: token %d is not among the model's %d", option, name, out->ids[i],
                               config->vocab_size);
    return st;
}

status windows_begin_token(const options *o, const model_config *config, const tokenizer *tok, int32_t *out) {
    *out = -1;
    if (!o->add_bos) return STATUS_OK;
    const int32_t of_texts = tokenizer_begin_token(tok);
    const int32_t id = of_texts >= 0 ? of_texts : config->begin_token;
    if (id < 0 || id >= config->vocab_size)
        return status_refuse("--add-bos: %s has no begin token: tokenizer.json puts none before texts, and "
                             "config.json names no bos_token_id",
                             run_model_name(o));
    *out = id;
    return STATUS_OK;
}

status windows_read_text(const char *option, const char *path, const model_config *config, tokenizer *tok,
                         token_list *out, size_t *n_bytes) {
    text_buffer text = {0};
    status st = run_read_prompt(option, path, &text);
    *n_bytes = text.n;
    if (st == STATUS_OK)
        st = windows_encode(option, path, text.data ? text.data : "", text.n, config, tok, out);
    free(text.data);
    return st;
}

status windows_append(const char *option, const char *path, const model_config *config, tokenizer *tok,
                      int64_t most, window_list *w) {
    token_list text = {0};
    size_t n_bytes = 0;
    status st = windows_read_text(option, path, config, tok, &text, &n_bytes);
    const int64_t n_all = (int64_t)text.n / w->n_tokens, n = n_all < most ? n_all : most;
    if (st == STATUS_OK && n == 0)
        st = status_refuse("%s %s: has %zu tokens, and a window takes %lld", option, path, text.n,
                           (long long)w->n_tokens);
    for (int64_t i = 0; st == STATUS_OK && i < n; i++, w->n++)
        for (int64_t k = 0, begin = i * n_all / n * w->n_tokens; k < w->n_tokens; k++)
            token_list_append(&w->tokens, text.ids[begin + k]);
    free(text.ids);
    return st;
}

void windows_read(engine *e, int64_t n_tokens) {
    progress bar = progress_begin("tokens");
    for (event ev; engine_next(e, &ev);) {
        const int64_t n_read = engine_get_times(e).prompt_tokens;
        progress_update(&bar, (double)n_read, (double)n_tokens, "read %lld of %lld tokens", (long long)n_read,
                        (long long)n_tokens);
    }
    progress_end(&bar);
}
