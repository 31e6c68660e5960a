/* The prompts of `kvarve generate`: a text, or a file with one JSON object a line, as jobs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/alive.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/command/run.h"
#include "src/generate/generation.h"

/* What holds where a line does not say otherwise: the model's advice, replaced by options. Advice that cannot
 * be followed is refused where it would count. */
static status choose_sampling(const generation *g, sampling_options *out) {
    const options *o = g->options;
    sampling_options s = g->config.sampling;
    s.seed = 0;
    s.max_tokens = DEFAULT_MAX_TOKENS;
    s.n_logprobs = 0;
    s = generate_override_sampling(o, s);
    *out = s;
    status st = sampling_check(&s);
    if (st == STATUS_OK) return st;
    if (s.temperature == 0) { /* filters do not count: are they all that is wrong? */
        const sampling_options off = sampling_defaults();
        s.top_k = off.top_k;
        s.top_p = off.top_p;
        s.min_p = off.min_p;
        notice_add("%s/generation_config.json: %s: not used, as the likeliest tokens are taken", o->model,
                   status_text());
        st = sampling_check(&s);
    }
    *out = s;
    return status_at(st, "%s/generation_config.json", o->model);
}

sampling_options generate_override_sampling(const options *o, sampling_options s) {
    if (!isnan(o->temperature)) s.temperature = o->temperature;
    if (!isnan(o->top_p)) s.top_p = o->top_p;
    if (!isnan(o->min_p)) s.min_p = o->min_p;
    if (!isnan(o->repetition_penalty)) s.repetition_penalty = o->repetition_penalty;
    if (o->top_k != OPTION_UNSET) s.top_k = o->top_k > 0 ? o->top_k : 0;
    if (o->seed != OPTION_UNSET) s.seed = o->seed;
    if (o->max_tokens != OPTION_UNSET) s.max_tokens = o->max_tokens;
    if (o->logprobs != OPTION_UNSET) s.n_logprobs = o->logprobs;
    if (o->ignore_eos) s.ignore_eos = true;
    return s;
}

/* FNV-1a (Fowler, Noll, Vo): a prompt's draws depend on its id, not on its place in the file; those of the
 * lines behind the first that have the same id, on how many came before, too. */
static int64_t sequence_id(const char *id, int64_t n_before) {
    const unsigned char *parts[] = {(const unsigned char *)id, (const unsigned char *)&n_before};
    const size_t sizes[] = {strlen(id), n_before > 0 ? sizeof n_before : 0};
    uint64_t hash = 0xCBF29CE484222325u;
    for (int p = 0; p < 2; p++)
        for (size_t i = 0; i < sizes[p]; i++)
            hash = (hash ^ parts[p][i]) * 0x100000001B3u;
    return (int64_t)hash;
}

static int by_id_and_line(const void *a, const void *b) {
    const job *x = *(job *const *)a, *y = *(job *const *)b;
    int order = strcmp(x->id, y->id);
    return order ? order : x->line < y->line ? -1 : x->line > y->line;
}

/* Lines of the same id would draw the same numbers: each gets its own. */
static void part_doubles(generation *g) {
    job **sorted = mem_new((size_t)g->n_jobs, sizeof *sorted);
    const job *first = NULL;
    int64_t n_before = 0, n_doubled = 0;
    for (int64_t i = 0; i < g->n_jobs; i++)
        sorted[i] = &g->jobs[i];
    qsort(sorted, (size_t)g->n_jobs, sizeof *sorted, by_id_and_line);
    for (int64_t i = 1; i < g->n_jobs; i++) {
        n_before = strcmp(sorted[i]->id, sorted[i - 1]->id) ? 0 : n_before + 1;
        if (n_before == 0) continue;
        sorted[i]->session.sequence_id = sequence_id(sorted[i]->id, n_before);
        n_doubled += n_before == 1;
        if (!first) first = sorted[i];
    }
    if (first)
        notice_add(
            "--input %s: %lld id%s more than once, such as \"%.60s\": each line has draws of its own, but "
            "its result is not told apart by its id",
            g->options->input, (long long)n_doubled, n_doubled == 1 ? " is there" : "s are there", first->id);
    free(sorted);
}

job *generate_add_job(generation *g) {
    g->jobs = mem_grow(g->jobs, (size_t)g->n_jobs, sizeof *g->jobs);
    job *j = &g->jobs[g->n_jobs++];
    *j = (job){.stream.skip_special = true, .line = g->options->input ? g->n_jobs - 1 : -1};
    j->session = session_new(NULL, 0);
    j->session.id = g->n_jobs - 1;
    return j;
}

/* A special token is no part of the text: one that is a stop text is a stop token, and a stop text that holds
 * one beside other things never comes. */
static status take_special_stop(generation *g, job *j, const char *stop) {
    int32_t id = tokenizer_find(g->tok, stop);
    if (tokenizer_is_special(g->tok, id)) {
        token_list_append(&j->stop_tokens, id);
        return STATUS_OK;
    }
    token_list ids = {0};
    status st = tokenizer_encode(g->tok, stop, strlen(stop), false, &ids);
    for (size_t i = 0; i < ids.n; i++)
        if (tokenizer_is_special(g->tok, ids.ids[i]))
            notice_add(
                "the stop text %s holds a special token, which is no part of a text: it never ends one; "
                "give the token alone",
                stop);
    free(ids.ids);
    return st;
}

static status take_stops(generation *g, job *j, const char *const *stops, int64_t n) {
    status st = STATUS_OK;
    for (j->n_stops = 0; st == STATUS_OK && j->n_stops < n; j->n_stops++) {
        j->stops[j->n_stops] = mem_copy_text(stops[j->n_stops], strlen(stops[j->n_stops]));
        st = take_special_stop(g, j, stops[j->n_stops]);
    }
    return st;
}

/* --stop, or else the model's advice. */
static status take_default_stops(generation *g, job *j) {
    const char *advised[MODEL_MAX_STOPS];
    for (int i = 0; i < g->config.n_stops; i++)
        advised[i] = g->config.stops[i];
    if (g->options->stops.n > 0) return take_stops(g, j, g->options->stops.items, g->options->stops.n);
    return take_stops(g, j, advised, g->config.n_stops);
}

static status encode_prompt(generation *g, const char *text, size_t n, prompt_special special, job *j) {
    int32_t last = tokenizer_end_token(g->tok);
    if (last >= 0 && special != SPECIAL_NONE) {
        text_buffer piece = {0};
        tokenizer_append_piece(g->tok, last, &piece);
        notice_add("the tokenizer ends every prompt with %s, behind which a new text begins (leave it out: "
                   "\"add_special_tokens\": false in a line of --input)",
                   piece.data);
        free(piece.data);
    }
    if (special == SPECIAL_MISSING) return tokenizer_encode_prompt(g->tok, text, n, &j->session.tokens);
    return tokenizer_encode(g->tok, text, n, special == SPECIAL_ALL, &j->session.tokens);
}

status generate_check_job(generation *g, job *j) {
    session *s = &j->session;
    if (s->tokens.n == 0) return status_refuse("the prompt is empty");
    for (size_t i = 0; i < s->tokens.n; i++)
        if (s->tokens.ids[i] < 0 || s->tokens.ids[i] >= g->config.vocab_size)
            return status_refuse("token %d of the prompt is %d, but the model has tokens 0 to %d", (int)i,
                                 s->tokens.ids[i], g->config.vocab_size - 1);
    for (size_t i = 0; i < j->stop_tokens.n; i++)
        if (j->stop_tokens.ids[i] >= g->config.vocab_size)
            return status_refuse("stop_token_ids: there is no token %d, but 0 to %d", j->stop_tokens.ids[i],
                                 g->config.vocab_size - 1);
    int64_t n = (int64_t)s->tokens.n, least = s->sampling.max_tokens > 0 ? 1 : 0;
    if (n + least > g->context)
        return status_refuse(
            "the prompt has %lld tokens, but the context holds %lld%s: shorten it or raise --context",
            (long long)n, (long long)g->context, least ? " with at least one to generate" : "");
    s->n_prompt = n;
    s->max_tokens = s->sampling.max_tokens;
    if (n + s->max_tokens > g->context) {
        s->max_tokens = g->context - n;
        g->summary.clipped_context = true;
    }
    s->sequence_id = sequence_id(j->id, 0);
    j->is_kept = j->line < 0 || s->max_tokens == 0;
    text_stream_begin_behind(g->tok, &j->stream, s->tokens.ids, s->tokens.n);
    return STATUS_OK;
}

static status read_single(generation *g) {
    const options *o = g->options;
    text_buffer text = {0};
    status st = run_take_prompt(o, &text);
    if (st == STATUS_OK && text.n == 0) st = status_refuse("the prompt is empty");
    if (st == STATUS_OK) {
        job *j = generate_add_job(g);
        j->id = mem_copy_text("0", 1);
        st = choose_sampling(g, &j->session.sampling);
        if (o->echo) text_append(&j->echo, text.data, text.n);
        if (st == STATUS_OK) st = take_default_stops(g, j);
        if (st == STATUS_OK) st = encode_prompt(g, text.data, text.n, SPECIAL_MISSING, j);
        if (st == STATUS_OK) st = generate_check_job(g, j);
    }
    free(text.data);
    return st;
}

static void take_line(generation *g, const char *file, prompt_line *line) {
    job *j = generate_add_job(g);
    j->id = line->id;
    j->id_is_json = line->id_is_json;
    j->error = line->error;
    line->id = line->error = NULL;
    if (j->error) return;
    j->session.sampling = line->sampling;
    j->tells_prompt = line->tells_prompt;
    status st = line->has_stops ? take_stops(g, j, (const char *const *)line->stops, line->n_stops)
                                : take_default_stops(g, j);
    for (size_t i = 0; i < line->n_stop_tokens; i++)
        token_list_append(&j->stop_tokens, line->stop_tokens[i]);
    if (st == STATUS_OK && line->text) st = encode_prompt(g, line->text, line->n_text, line->special, j);
    for (size_t i = 0; !line->text && i < line->n_tokens; i++)
        token_list_append(&j->session.tokens, line->tokens[i]);
    if (st == STATUS_OK) st = generate_check_job(g, j);
    if (st != STATUS_OK) {
        status_at(st, "%s: line %lld", file, (long long)line->line);
        j->error = mem_copy_text(status_text(), strlen(status_text()));
    } else if (g->options->echo) {
        if (line->text)
            text_append(&j->echo, line->text, line->n_text);
        else
            tokenizer_decode(g->tok, j->session.tokens.ids, j->session.tokens.n, true, &j->echo);
    }
}

static status read_lines(generation *g) {
    prompts *in;
    sampling_options defaults;
    status st = choose_sampling(g, &defaults);
    if (st == STATUS_OK) st = prompts_open(g->options->input, &in);
    if (st != STATUS_OK) return st;
    for (bool more = true; st == STATUS_OK && more;) {
        prompt_line line;
        alive_say();
        st = prompts_next(in, &defaults, &line, &more);
        if (st != STATUS_OK || !more) break;
        take_line(g, prompts_name(in), &line);
        prompt_line_free(&line);
    }
    prompts_close(in);
    if (st == STATUS_OK && g->n_jobs == 0) st = status_refuse("--input %s: no prompts", g->options->input);
    if (st == STATUS_OK) part_doubles(g);
    return st;
}

status generate_read_prompts(generation *g) {
    const options *o = g->options;
    g->context = o->context != OPTION_UNSET ? o->context : g->config.max_positions;
    if (o->input) return read_lines(g);
    return o->prompt || o->prompt_file ? read_single(g) : generate_take_past_prompt(g);
}

void generate_add_up(generation *g) {
    job_size *sizes = mem_new((size_t)g->n_jobs, sizeof *sizes);
    int64_t prompt_tokens = 0;
    for (int64_t i = 0; i < g->n_jobs; i++) {
        const job *j = &g->jobs[i];
        if (j->error || j->is_over) continue;
        const session *s = &j->session;
        prompt_tokens += s->n_prompt;
        g->max_new_tokens += s->max_tokens - session_n_generated(s);
        g->known_tokens += (int64_t)s->tokens.n;
        g->reused_tokens += s->n_cached;
        sizes[g->n_runnable++] =
            (job_size){1, session_most_tokens(s), j->is_kept, s->max_tokens > 0 ? (int64_t)s->tokens.n : 0};
    }
    g->sizing =
        sizing_of(g->options, sizes, g->n_runnable, sizing_head_share(prompt_tokens, g->max_new_tokens));
    free(sizes);
}
