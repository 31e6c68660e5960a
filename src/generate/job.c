#define _GNU_SOURCE /* memmem */
#include "src/generate/job.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

static size_t longest_stop(const job *j) {
    size_t longest = 0;
    for (int i = 0; i < j->n_stops; i++)
        if (strlen(j->stops[i]) > longest) longest = strlen(j->stops[i]);
    return longest;
}

/* Cut the text before the first stop text that ends behind `from`; true when there is one. */
static bool cut_at_stop(job *j, size_t from) {
    size_t longest = longest_stop(j);
    size_t begin = from > longest ? from - longest : 0, cut = j->text.n;
    bool found = false;
    for (int i = 0; i < j->n_stops && j->text.data; i++) {
        const char *at = memmem(j->text.data + begin, j->text.n - begin, j->stops[i], strlen(j->stops[i]));
        if (!at || (found && (size_t)(at - j->text.data) >= cut)) continue;
        cut = (size_t)(at - j->text.data);
        found = true;
    }
    if (!found) return false;
    j->text.n = cut;
    j->text.data[cut] = '\0';
    return true;
}

static bool is_end_token(const model_config *config, int32_t token) {
    for (int i = 0; i < config->n_end_tokens; i++)
        if (config->end_tokens[i] == token) return true;
    return false;
}

static bool is_stop_token(const job *j, int32_t token) {
    for (size_t i = 0; i < j->stop_tokens.n; i++)
        if (j->stop_tokens.ids[i] == token) return true;
    return false;
}

static void keep_logprobs(job *j, const sampler_choice *choice) {
    size_t n = (size_t)session_n_generated(&j->session), n_top = (size_t)choice->n_top;
    j->logprobs = mem_resize(j->logprobs, n, sizeof *j->logprobs);
    int32_t *tokens = mem_new(n_top, sizeof *tokens);
    float *values = mem_new(n_top, sizeof *values);
    memcpy(tokens, choice->top_tokens, n_top * sizeof *tokens);
    memcpy(values, choice->top_logprobs, n_top * sizeof *values);
    j->logprobs[n - 1] = (result_logprob){choice->token, choice->logprob, choice->n_top, tokens, values};
}

static bool end_job(job *j, finish_reason reason) {
    j->is_over = true;
    j->finish = reason;
    return true;
}

bool job_take_token(job *j, tokenizer *tok, const model_config *config, const sampler_choice *choice,
                    bool is_last) {
    if (choice->token < 0) {
        const char *why = j->session.failure ? j->session.failure : "the model's logits are not numbers";
        j->error = mem_copy_text(why, strlen(why));
        return end_job(j, FINISH_ERROR);
    }
    if (j->session.sampling.n_logprobs > 0) keep_logprobs(j, choice);
    size_t before = j->text.n;
    bool ends = !j->session.sampling.ignore_eos && is_end_token(config, choice->token);
    bool stops = !ends && is_stop_token(j, choice->token);
    if (!ends && !stops) text_stream_push(tok, &j->stream, choice->token, &j->text);
    if (ends || stops || is_last) text_stream_flush(tok, &j->stream, &j->text);
    if (cut_at_stop(j, before) || stops) return end_job(j, FINISH_STOP);
    if (ends) return end_job(j, FINISH_EOS);
    return is_last ? end_job(j, FINISH_LENGTH) : false;
}

void job_take_end(job *j) {
    if (j->session.failure) j->error = mem_copy_text(j->session.failure, strlen(j->session.failure));
    end_job(j, j->session.failure ? FINISH_ERROR : FINISH_LENGTH);
}

void job_print_text(job *j, FILE *to) {
    size_t held = j->is_over || j->n_stops == 0 ? 0 : longest_stop(j) - 1;
    size_t end = j->text.n > held ? j->text.n - held : 0;
    while (!j->is_over && end > 0 && end < j->text.n && ((unsigned char)j->text.data[end] & 0xC0) == 0x80)
        end--; /* not into a character */
    if (end <= j->n_printed) return;
    fwrite(j->text.data + j->n_printed, 1, end - j->n_printed, to);
    fflush(to);
    j->n_printed = end;
}

status job_write_result(const job *j, results *out) {
    const session *s = &j->session;
    const int32_t *generated = s->tokens.ids ? s->tokens.ids + s->n_prompt : NULL;
    text_buffer text = {0};
    text_append(&text, j->echo.data, j->echo.n);
    if (j->text.n) text_append(&text, j->text.data, j->text.n);
    result line = {
        .id = j->id,
        .id_is_json = j->id_is_json,
        .finish = j->error ? FINISH_ERROR : j->finish,
        .error = j->error,
        .text = text.data,
        .n_text = text.n,
        .tokens = generated,
        .n_tokens = (size_t)session_n_generated(s),
        .prompt_tokens = j->tells_prompt ? s->tokens.ids : NULL,
        .n_prompt_tokens = (size_t)s->n_prompt,
        .logprobs = j->logprobs,
    };
    status st = results_write(out, &line);
    free(text.data);
    return st;
}

void job_free(job *j) {
    for (int64_t i = 0; j->logprobs && i < session_n_generated(&j->session); i++) {
        free((void *)j->logprobs[i].top_tokens);
        free((void *)j->logprobs[i].top_logprobs);
    }
    for (int i = 0; i < j->n_stops; i++)
        free(j->stops[i]);
    free(j->logprobs);
    free(j->id);
    free(j->error);
    free(j->inexact);
    free(j->pages);
    free(j->echo.data);
    free(j->stop_tokens.ids);
    free(j->prompt_text.data);
    session_free(&j->session);
    text_stream_free(&j->stream);
    free(j->text.data);
}

void job_empty(job *j) {
    job over = {.is_over = true,
                .was_written = j->was_written,
                .line = j->line,
                .session = {.id = j->session.id, .handle = j->session.handle},
                .finish = j->finish};
    job_free(j);
    *j = over;
}
