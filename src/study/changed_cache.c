#include "src/study/changed_cache.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/command/chosen_coding.h"
#include "src/command/report.h"
#include "src/command/run.h"
#include "src/command/sizing.h"
#include "src/study/coded_context.h"
#include "src/study/context_score.h"
#include "src/study/pass_keys.h"
#include "src/study/windows.h"

enum { DEFAULT_CONTEXT = 1024 };

/* The caches that an engine has. */
typedef enum caches { EXACT_CACHE = 1, CHANGED_CACHE = 2, BOTH_CACHES = 3 } caches;

typedef struct study {
    const options *options;
    model_config config;
    tokenizer *tok;
    window_list windows;
    chosen_coding chosen; /* on every rank */
    dtype type;
    int64_t context, n_scored, n_windows;
    int32_t begin_token; /* of each context; -1: none */
    pass_key_places keys;
    session *sessions; /* [n_sessions], on rank 0 */
    int64_t n_sessions, longest_tokens;
    coded_sums sums; /* of what this rank has coded */
    context_scores scores;
    double exact_seconds;  /* of an engine that had the exact cache only */
    context_result result; /* on rank 0 */
} study;

/* ---- what is asked for ---- */

static status read_coding(study *s) {
    const options *o = s->options;
    const model_config *m = &s->config;
    kv_coding coding;
    if (!o->context_codec) return STATUS_OK;
    status st =
        status_at(kv_coding_parse(o->context_codec, &coding), "--context-codec %.60s", o->context_codec);
    if (st != STATUS_OK) return st;
    if (!kv_codec_is_exact(coding.codec) && !o->tables)
        return status_refuse("--context-codec %s needs --tables FILE, which kvarve calibrate makes",
                             o->context_codec);
    return chosen_coding_find(o, &coding, m->n_layers, m->n_kv_heads, m->head_dim, NULL, NULL, &s->chosen);
}

/* Two sessions of a window's context and n tokens behind it, scored but for the first n_given: in the exact
 * cache, and in the changed one. Each text that is read so has a number, those of windows before those of
 * keys; the sequence ids that the probe sees are twice that, and one more in the changed cache. */
static void add_sessions(study *s, int64_t window, int64_t text, const int32_t *behind, int64_t n,
                         int64_t n_given) {
    for (int is_changed = 0; is_changed < 2; is_changed++) {
        session *q = &s->sessions[s->n_sessions++];
        *q = session_new(&s->begin_token, s->begin_token >= 0);
        for (int64_t i = 0; q->tokens.n < (size_t)s->context; i++)
            token_list_append(&q->tokens, window_at(&s->windows, window)[i]);
        for (int64_t i = 0; i < n; i++)
            token_list_append(&q->tokens, behind[i]);
        q->n_prompt = (int64_t)q->tokens.n;
        q->sequence_id = 2 * text + is_changed;
        q->score_from = s->context + n_given;
        q->probe_at = s->context;
        if (is_changed) q->evict_at = s->context; /* with --evict */
        if (q->n_prompt > s->longest_tokens) s->longest_tokens = q->n_prompt;
    }
}

/* The tokens behind the window's context, and each of its keys, which is asked for by itself. */
static status add_window(study *s, int64_t window) {
    const int64_t n_text = s->windows.n_tokens - s->n_scored;
    int32_t *tokens = s->windows.tokens.ids + window * s->windows.n_tokens;
    status st = pass_keys_put(&s->config, s->tok, window, &s->keys, tokens, n_text);
    if (st == STATUS_OK) add_sessions(s, window, window, tokens + n_text, s->n_scored, 0);
    for (int64_t key = 0; st == STATUS_OK && key < s->keys.n; key++) {
        token_list question = {0};
        int64_t first_digit = 0;
        st = pass_keys_append_question(&s->config, s->tok, window, key, &question, &first_digit);
        if (st == STATUS_OK)
            add_sessions(s, window, s->n_windows + window * s->keys.n + key, question.ids,
                         (int64_t)question.n, first_digit);
        free(question.ids);
    }
    return st;
}

static status check_positions(const study *s, const char *behind, int64_t n_tokens) {
    if (n_tokens <= s->config.max_positions) return STATUS_OK;
    return status_refuse("--context %lld and %s are %lld tokens: the model was made for %lld positions",
                         (long long)s->context, behind, (long long)n_tokens,
                         (long long)s->config.max_positions);
}

static status prepare(study *s) {
    const options *o = s->options;
    status st = run_read_model(o, &s->config, &s->tok);
    if (st != STATUS_OK) return st;
    s->context = o->context != OPTION_UNSET ? o->context : DEFAULT_CONTEXT;
    s->n_scored = o->scored;
    st = check_positions(s, "--scored", s->context + s->n_scored);
    if (st == STATUS_OK) st = pass_keys_place(o, &s->keys);
    if (st == STATUS_OK) st = windows_begin_token(o, &s->config, s->tok, &s->begin_token);
    s->windows.n_tokens = s->context - (s->begin_token >= 0) + s->n_scored;
    int64_t most = o->windows != OPTION_UNSET ? o->windows : INT64_MAX;
    if (st == STATUS_OK) st = windows_append("--file", o->file, &s->config, s->tok, most, &s->windows);
    if (st != STATUS_OK) return st;
    s->n_windows = s->windows.n;
    s->sessions = mem_new((size_t)(2 * s->n_windows * (1 + s->keys.n)), sizeof *s->sessions);
    for (int64_t i = 0; st == STATUS_OK && i < s->n_windows; i++)
        st = add_window(s, i);
    if (st == STATUS_OK) st = check_positions(s, "a question of --keys", s->longest_tokens);
    return st == STATUS_OK ? read_coding(s) : st;
}

/* ---- every rank: contexts through the codec ---- */

/* Sessions of odd numbers are those of the changed cache. */
static bool is_changed(int64_t sequence_id) {
    return sequence_id % 2 == 1;
}

static status code_context(void *context, kv_cache *kv, slice own, int slot, int64_t n, int64_t sequence_id) {
    study *s = context;
    const coded_context how = {s->chosen.coding, s->chosen.tables, &s->config, s->type};
    return is_changed(sequence_id) ? coded_context_pass(&how, kv, own, slot, n, &s->sums) : STATUS_OK;
}

/* ---- the result ---- */

static void print_result(const study *s) {
    printf("text            %s\n", s->options->file);
    printf("windows         %lld of %lld tokens, and %lld scored behind each\n", (long long)s->n_windows,
           (long long)s->context, (long long)s->n_scored);
    if (s->begin_token >= 0)
        printf("begin token     %d before each context, one of its tokens\n", s->begin_token);
    printf("exact cache     %s\n", dtype_name(s->type));
    if (options_change_pages(s->options)) printf("changed cache   %s\n", options_kv_name(s->options->kv));
    if (s->options->evict.kind != EVICT_NOTHING) {
        char policy[EVICT_TEXT_BYTES];
        evict_text(&s->options->evict, policy);
        printf("evicted         all but %s", policy);
        if (s->options->evict.every > 0)
            printf(", again behind every %lld tokens", (long long)s->options->evict.every);
        printf("\n");
    }
    if (s->options->context_codec) printf("codec           %s\n", s->options->context_codec);
    if (s->chosen.tables)
        printf("tables          %s, %016" PRIx64 "\n", s->options->tables, s->chosen.tables->digest);
    if (s->chosen.coding.codec >= KV_CODEC_FAST)
        printf("step            %.4f of a unit\n", kv_coding_step(&s->chosen.coding));
    context_result_print(&s->result);
}

static void put_result(json_writer *w, const void *of) {
    const study *s = of;
    char digest[17];
    json_open(w, "changed_cache", '{');
    json_put_text(w, "exact_kv", dtype_name(s->type));
    if (options_change_pages(s->options)) {
        json_put_text(w, "kv", options_kv_name(s->options->kv));
        json_put_number(w, "exact_seconds", s->exact_seconds);
    }
    if (s->options->context_codec) json_put_text(w, "codec", s->options->context_codec);
    if (s->chosen.tables) {
        snprintf(digest, sizeof digest, "%016" PRIx64, s->chosen.tables->digest);
        json_put_text(w, "tables_digest", digest);
    }
    if (s->chosen.coding.codec >= KV_CODEC_FAST)
        json_put_number(w, "step", kv_coding_step(&s->chosen.coding));
    json_put_integer(w, "windows", s->n_windows);
    json_put_integer(w, "context_tokens", s->context);
    json_put_integer(w, "scored_tokens", s->n_scored);
    if (s->begin_token >= 0) json_put_integer(w, "begin_token", s->begin_token);
    context_result_put(w, &s->result);
    if (s->keys.n > 0) json_open(w, "keys", '[');
    for (int64_t key = 0; key < s->keys.n; key++) {
        json_open_line(w, NULL, '{');
        json_put_number(w, "percent", s->keys.percent[key]);
        json_put_integer(w, "asked", s->n_windows);
        json_put_integer(w, "answered", s->result.n_answered_at[key][0]);
        json_put_integer(w, "changed_answered", s->result.n_answered_at[key][1]);
        json_close(w);
    }
    if (s->keys.n > 0) json_close(w);
    json_close(w);
}

/* ---- the run ---- */

static void run_stage_0(study *s, engine *e, caches which) {
    int64_t n_tokens = 0;
    for (session *q = s->sessions; q < s->sessions + s->n_sessions; q++) {
        if (!(which & (is_changed(q->sequence_id) ? CHANGED_CACHE : EXACT_CACHE))) continue;
        n_tokens += q->n_prompt;
        engine_submit(e, q);
    }
    windows_read(e, n_tokens);
    engine_stop(e);
}

static void take_logits(void *context, int64_t sequence_id, int64_t pos, int32_t target,
                        const float *logits) {
    study *s = context;
    const int64_t text = sequence_id / 2;
    if (text < s->n_windows)
        context_scores_take(&s->scores, text, pos + 1 - s->context, is_changed(sequence_id), target, logits);
    else
        context_scores_take_key(&s->scores, text - s->n_windows, is_changed(sequence_id), target, logits);
}

/* What all ranks must know of rank 0's windows. Collective. */
static void share(study *s, comm *c, const engine *e) {
    int64_t sizes[] = {s->context, s->n_scored, s->n_windows, s->keys.n};
    comm_broadcast(c, sizes, sizeof sizes, 0);
    s->context = sizes[0];
    s->n_scored = sizes[1];
    s->n_windows = sizes[2];
    s->keys.n = sizes[3];
    s->config = *engine_config(e);
    s->type = engine_device(e)->kv;
    s->scores = context_scores_new(s->n_windows, s->n_scored, s->keys.n, s->config.vocab_size);
}

/* Everybody's sums, on rank 0. Collective. */
static coded_sums add_up(comm *c, const coded_sums *mine) {
    coded_sums all = {0}, *each = mem_new((size_t)comm_size(c), sizeof *each);
    comm_gather(c, mine, sizeof *mine, each);
    for (int rank = 0; comm_rank(c) == 0 && rank < comm_size(c); rank++) {
        all.kept.n_tokens += each[rank].kept.n_tokens;
        all.kept.n_exact += each[rank].kept.n_exact;
        all.kept.n_8bit += each[rank].kept.n_8bit;
        for (int part = 0; part < N_KV_PARTS; part++) {
            all.n_elements[part] += each[rank].n_elements[part];
            all.n_bytes[part] += each[rank].n_bytes[part];
            all.squares[part] += each[rank].squares[part];
            all.errors[part] += each[rank].errors[part];
        }
    }
    free(each);
    return all;
}

/* What a reader of the result should know of it. Rank 0. */
static void note_limits(const study *s, const engine *e) {
    chosen_coding_note(&s->chosen, s->options, run_model_name(s->options), engine_model_digest(e));
    if (s->chosen.coding.has_base)
        notice_add(
            "--context-codec %s: what the base does by itself, and its bits; with what refines it, all is as "
            "without a base",
            s->options->context_codec);
    if (s->chosen.coding.codec == KV_CODEC_CACHEGEN && s->type == DTYPE_F32)
        notice_add(
            "--precision f32: the elements that %s escapes are rounded to bf16, while of a bf16 cache they "
            "are exact",
            s->options->context_codec);
}

/* Of a context's places in all layers, those that are left of the changed cache. */
static double kept_share(const study *s) {
    const int n_layers = s->config.n_layers;
    int64_t n_kept = 0;
    for (int l = 0; l < n_layers; l++)
        n_kept += evictor_kept(&s->options->evict, &s->config, l, s->context);
    return (double)n_kept / (double)(n_layers * s->context);
}

/* When both caches have been read. */
static status conclude(study *s, comm *c, engine *e, int64_t n_sessions) {
    const coded_sums sums = add_up(c, &s->sums);
    context_scores_share(&s->scores, c);
    if (comm_rank(c) == 0) {
        const bool is_coded = s->options->context_codec; /* whose bits an element count, then */
        const kv_layout changed =
            options_change_pages(s->options) && !is_coded ? engine_device(e)->kv_layout : KV_ROWS;
        const double token_bytes[] = {model_kv_token_bytes(&s->config, s->type, KV_ROWS),
                                      model_kv_token_bytes(&s->config, s->type, changed) * kept_share(s)};
        s->result = context_result_of(&s->scores, token_bytes, is_coded ? &sums : NULL, s->type);
        print_result(s);
        if (s->exact_seconds > 0)
            notice_add("these are times of the changed cache: the exact one had an engine of its own, which "
                       "ran for %.1f s before",
                       s->exact_seconds);
    }
    return report_run(c, e, s->options,
                      &(run_summary){.n_requests = n_sessions, .put_found = put_result, .found = s});
}

/* What an engine with the exact cache keeps for the one behind it. */
static uint64_t kept_bytes(const study *s) {
    return context_scores_exact_bytes(s->n_windows, s->n_scored, s->config.vocab_size);
}

static void note_kept(const study *s) {
    notice_add(
        "--kv %s: the exact cache's distributions of %lld tokens are kept on the last rank until they are "
        "compared, %.1f MiB in each rank's plan: fewer --windows or --scored take less",
        options_kv_name(s->options->kv), (long long)(s->n_windows * s->n_scored), mem_mib(kept_bytes(s)));
}

/* What is kept is no longer free on a host when the second engine asks, but it is part of what
 * --memory-per-rank allows. Counts on rank 0. */
static sizing size_up(const study *s, const options *o, caches which, int64_t n_sessions) {
    const job_size jobs = {.n = n_sessions, .tokens = s->longest_tokens};
    sizing size = sizing_of(o, &jobs, 1, 1);
    if (which == EXACT_CACHE || (which == CHANGED_CACHE && o->memory_per_rank))
        size.host_bytes = kept_bytes(s);
    return size;
}

/* Read what is for these caches in an engine with the pages of these options. Collective. */
static status read_caches(study *s, comm *c, const options *o, caches which) {
    const bool is_first = comm_rank(c) == 0;
    const int64_t n_sessions = which == BOTH_CACHES ? s->n_sessions : s->n_sessions / 2;
    const sizing size = size_up(s, o, which, n_sessions);
    engine_options wanted = run_engine_options(c, o, &size);
    engine *e = NULL;
    wanted.wants_digest = s->chosen.tables != NULL;
    if (is_first && which == EXACT_CACHE) note_kept(s);
    status st = run_open_engine(c, o, &s->config, &wanted, &e);
    if (st != STATUS_OK) return st;
    if (which & EXACT_CACHE) share(s, c, e);
    engine_use_probe(e, &(probe){s, o->context_codec ? code_context : NULL, take_logits});
    if (is_first && which & CHANGED_CACHE) note_limits(s, e);
    if (is_first) run_print_begin(c, e, o);
    if (is_first)
        run_stage_0(s, e, which);
    else
        engine_serve(e);
    if (which & CHANGED_CACHE)
        st = conclude(s, c, e, n_sessions);
    else
        s->exact_seconds = engine_get_times(e).seconds;
    engine_close(e);
    return st;
}

static status run(study *s, comm *c) {
    const options *o = s->options, exact = options_of_exact_cache(o);
    status st = comm_rank(c) == 0 ? prepare(s) : STATUS_OK;
    if (comm_any_failed(c, &st)) return st;
    st = chosen_coding_share(c, &s->chosen);
    if (comm_any_failed(c, &st)) return st;
    if (options_change_pages(o)) {
        st = read_caches(s, c, &exact, EXACT_CACHE);
        if (st == STATUS_OK) st = read_caches(s, c, o, CHANGED_CACHE);
    } else {
        st = read_caches(s, c, o, BOTH_CACHES);
    }
    comm_any_failed(c, &st);
    return st;
}

/* Where pages hold codes, both engines compute where that can be: on the CPU. */
int changed_cache_run(comm *c, const options *o) {
    options here = *o;
    if (options_change_pages(o) && o->device == DEVICE_AUTO) here.device = DEVICE_CPU;
    study s = {.options = &here};
    const status st = run(&s, c);
    const int code = st == STATUS_OK ? EXIT_CODE_OK : run_say_failure(c, st);
    tokenizer_close(s.tok);
    chosen_coding_free(&s.chosen);
    context_scores_free(&s.scores);
    sessions_free(s.sessions, s.n_sessions);
    free(s.windows.tokens.ids);
    return code;
}
