/* --resume: what a snapshot knows of the prompts of this run. A prompt that the snapshot holds goes on where
 * it stopped; one that only begins like something in it takes over the common part. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "io/files.h"
#include "io/snapshot/snapshot_tables.h"
#include "kernels/attend_blocks.h"
#include "src/base/alive.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/command/run.h"
#include "src/engine/loader.h"
#include "src/generate/generation.h"
#include "src/snapshot/own_tables.h"

/* Fewer tokens are computed again sooner than their chunk is read. */
enum { LEAST_REUSED_TOKENS = 32 };

/* ---- is it a snapshot of this model? ---- */

static bool same_digest(const uint64_t a[2], const uint64_t b[2]) {
    return a[0] == b[0] && a[1] == b[1];
}

static status check_past(const generation *g) {
    const manifest *m = &g->past;
    const model_config *c = &g->config;
    const char *dir = g->options->resume;
    dtype type = precision_kv(g->options->precision);
    if (m->n_layers != c->n_layers || m->n_kv_heads != c->n_kv_heads || m->head_dim != c->head_dim ||
        m->vocab_size != c->vocab_size)
        return status_refuse("%s: of another model: %d layers, %d kv heads of %d, %d tokens, but %s has %d "
                             "layers, %d kv heads of %d, %d tokens: give the model that it was made with",
                             dir, m->n_layers, m->n_kv_heads, m->head_dim, m->vocab_size,
                             run_model_name(g->options), c->n_layers, c->n_kv_heads, c->head_dim,
                             c->vocab_size);
    if (!same_digest(m->tokenizer_digest, g->tokenizer_digest))
        return status_refuse("%s: made with another tokenizer than that of %s (another digest): "
                             "give the model directory that it was made with",
                             dir, run_model_name(g->options));
    if (m->type != type)
        return status_refuse("%s: holds keys and values in %s: run with --precision %s", dir,
                             dtype_name(m->type), dtype_name(m->type));
    return STATUS_OK;
}

/* Of the same model, but one of both with its weights rounded to int8? */
static bool differs_by_int8(const uint64_t past[2], const uint64_t now[2], bool is_int8) {
    const uint64_t *with = is_int8 ? now : past, *without = is_int8 ? past : now;
    return with[0] - without[0] == model_int8_digest[0] && with[1] - without[1] == model_int8_digest[1];
}

status generate_check_weights(const generation *g, const engine *e) {
    if (!g->past_bytes) return STATUS_OK;
    bool is_int8 = g->options->precision == PRECISION_INT8;
    if (differs_by_int8(g->past.model_digest, engine_model_digest(e), is_int8))
        return status_refuse("%s: made with weights in %s: run with --weights %s", g->options->resume,
                             is_int8 ? "bf16" : "int8", is_int8 ? "bf16" : "int8");
    if (!same_digest(g->past.model_digest, engine_model_digest(e)))
        return status_refuse(
            "%s: of another model: the shape is the same, but weights or rope are not those of "
            "%s (another digest): give the model that it was made with",
            g->options->resume, run_model_name(g->options));
    const char *processor = engine_processor(e);
    if (strcmp(g->past.processor, processor) != 0)
        fprintf(
            stderr,
            "kvarve: NOTE: %s was computed with %s, and this run uses %s: the text goes on, but not bit for "
            "bit as there\n",
            g->options->resume, g->past.processor, processor);
    return STATUS_OK;
}

/* Tables of the snapshot that is read. */
static size_t past_tables(const generation *g) {
    size_t n_bytes = 0;
    for (int64_t i = 0; i < g->past.n_segments; i++) {
        const size_t file_bytes = snapshot_tables_bytes_of(g->options->resume, &g->past, i);
        if (file_bytes > 0) n_bytes += kv_tables_memory(file_bytes);
    }
    return n_bytes;
}

/* Where bases are loaded, whole frames are kept until they are refined: of all sequences at once, for each
 * layer. */
static uint64_t kept_frames(const generation *g, const sizing *s) {
    int64_t bytes = 0, longest = 0;
    for (int64_t i = 0; i < g->past.n_segments; i++)
        if (g->past.segments[i].has_base) bytes += g->past.segments[i].file_bytes;
    for (int64_t i = 0; i < g->n_jobs; i++)
        if (g->jobs[i].session.n_cached > longest) longest = g->jobs[i].session.n_cached;
    const int64_t at_once = s->n_sequences * longest,
                  n = at_once < g->reused_tokens ? at_once : g->reused_tokens;
    return (uint64_t)((double)bytes / (double)g->past.n_rows * (double)n / g->config.n_layers);
}

void generate_count_coded(const generation *g, engine_options *wanted) {
    const model_config *m = &g->config;
    const dtype type = precision_kv(g->options->precision);
    const segment_info *coded = manifest_find_coded(&g->past);
    sizing *s = &wanted->sizing;
    if (g->chosen.tables) /* they, and their file, which a snapshot gets too */
        s->host_bytes +=
            kv_tables_memory(g->chosen.n_bytes) + g->chosen.n_bytes +
            segment_write_memory(&g->chosen.coding, type, m->n_kv_heads, m->head_dim, wanted->n_threads);
    if (generate_recodes(g))
        s->host_bytes +=
            own_tables_memory(type, m->n_layers, m->n_kv_heads, m->head_dim, s->longest_tokens,
                              wanted->n_threads) +
            segment_write_memory(&g->options->codec, type, m->n_kv_heads, m->head_dim, wanted->n_threads);
    if (!coded) return;
    const kv_coding how = segment_coding(coded);
    s->host_bytes +=
        past_tables(g) + segment_read_memory(&how, type, m->n_kv_heads, m->head_dim, wanted->n_threads);
    if (wanted->loads_base != LOADS_NO_BASE) s->host_layer_bytes += kept_frames(g, s);
}

/* --load base is for snapshots that have one, which may be only parts of it. */
static status check_bases(const generation *g) {
    const manifest *m = &g->past;
    const options *o = g->options;
    int64_t n = 0;
    if (o->load == LOAD_BASE && o->save && !g->save_goes_on)
        return status_refuse(
            "--load base goes with --save of the same snapshot only: another would get the base in "
            "place of what was saved");
    for (int64_t i = 0; i < m->n_segments; i++)
        n += m->segments[i].has_base;
    if (o->load != LOAD_BASE || n == m->n_segments) return STATUS_OK;
    if (n == 0)
        return status_refuse(
            "--load base: %s has none: it is saved with --codec kvarve:fast:3+base or the like, "
            "or coded so by kvarve snapshot recode",
            o->resume);
    notice_add("--load base: of %s only %lld of %lld segments have one; of the others all is loaded",
               o->resume, (long long)n, (long long)m->n_segments);
    return STATUS_OK;
}

status generate_read_past(generation *g) {
    const char *dir = g->options->resume;
    struct stat info;
    if (!dir) return STATUS_OK;
    if (stat(dir, &info) != 0 || (S_ISDIR(info.st_mode) && !manifest_exists(dir))) {
        fprintf(stderr, "kvarve: --resume %s: there is no snapshot yet: starting afresh\n", dir);
        return STATUS_OK;
    }
    if (!S_ISDIR(info.st_mode))
        return status_refuse("--resume %s: a file, but a snapshot is a directory: name that", dir);
    status st = manifest_read_bytes(dir, &g->past_bytes, &g->n_past_bytes);
    if (st == STATUS_OK) st = manifest_parse(g->past_bytes, g->n_past_bytes, dir, &g->past);
    if (st != STATUS_OK) return loader_advise(st);
    st = check_bases(g);
    return st == STATUS_OK ? check_past(g) : st;
}

/* ---- without a prompt ---- */

static void take_stops(job *j, const manifest_sequence *q) {
    for (j->n_stops = 0; j->n_stops < q->n_stops; j->n_stops++)
        j->stops[j->n_stops] = mem_copy_text(q->stops[j->n_stops], strlen(q->stops[j->n_stops]));
    for (int64_t i = 0; i < q->n_stop_tokens; i++)
        token_list_append(&j->stop_tokens, q->stop_tokens[i]);
}

status generate_take_past_prompt(generation *g) {
    const manifest_sequence *q = NULL;
    if (!g->past_bytes)
        return status_refuse(
            "kvarve generate needs one of --prompt, --prompt-file and --input, as --resume %s holds "
            "nothing yet",
            g->options->resume);
    for (int64_t i = 0; i < g->past.n_sequences; i++)
        if (g->past.sequences[i].line < 0) q = &g->past.sequences[i];
    if (!q)
        return status_refuse("--resume %s: it was made with --input: give that file again",
                             g->options->resume);
    job *j = generate_add_job(g);
    j->id = mem_copy_text(q->id, strlen(q->id));
    j->id_is_json = q->id_is_json;
    j->session.sampling = generate_override_sampling(g->options, q->sampling);
    take_stops(j, q);
    if (g->options->echo) text_append(&j->echo, q->prompt_text, (size_t)q->n_prompt_text);
    for (int64_t i = 0; i < q->n_prompt; i++)
        token_list_append(&j->session.tokens, q->tokens[i]);
    return generate_check_job(g, j);
}

/* ---- which sequence is whose ---- */

static void digest_sampling(XXH3_state_t *hash, const session *q) {
    sampling_options s = q->sampling;
    s.max_tokens = q->max_tokens;
    for (const sampling_field *f = sampling_fields; f < sampling_fields + N_SAMPLING_FIELDS; f++) {
        const void *value = sampling_value(&s, f);
        const int64_t flag = f->kind == SAMPLING_FLAG && *(const bool *)value;
        XXH3_128bits_update(hash, f->kind == SAMPLING_FLAG ? &flag : value, sizeof flag);
    }
}

static void digest_batch(generation *g) {
    XXH3_state_t *hash = XXH3_createState();
    XXH3_128bits_reset(hash);
    for (int64_t i = 0; i < g->n_jobs; i++) {
        const job *j = &g->jobs[i];
        const session *q = &j->session;
        const int64_t integers[] = {j->n_stops, (int64_t)q->tokens.n, j->error != NULL};
        XXH3_128bits_update(hash, j->id, strlen(j->id) + 1);
        digest_sampling(hash, q);
        XXH3_128bits_update(hash, integers, sizeof integers);
        for (int k = 0; k < j->n_stops; k++)
            XXH3_128bits_update(hash, j->stops[k], strlen(j->stops[k]) + 1);
        XXH3_128bits_update(hash, j->stop_tokens.ids, j->stop_tokens.n * sizeof *j->stop_tokens.ids);
        if (q->tokens.n) XXH3_128bits_update(hash, q->tokens.ids, q->tokens.n * sizeof(int32_t));
    }
    XXH128_hash_t digest = XXH3_128bits_digest(hash);
    g->batch_digest[0] = digest.high64;
    g->batch_digest[1] = digest.low64;
    XXH3_freeState(hash);
}

/* All but how many tokens there may be. */
static bool same_draws(sampling_options a, sampling_options b) {
    bool same = true;
    a.max_tokens = b.max_tokens;
    for (const sampling_field *f = sampling_fields; f < sampling_fields + N_SAMPLING_FIELDS; f++) {
        const void *x = sampling_value(&a, f), *y = sampling_value(&b, f);
        if (f->kind == SAMPLING_REAL) same &= *(const double *)x == *(const double *)y;
        if (f->kind == SAMPLING_INTEGER) same &= *(const int64_t *)x == *(const int64_t *)y;
        if (f->kind == SAMPLING_FLAG) same &= *(const bool *)x == *(const bool *)y;
    }
    return same;
}

static bool same_tokens(const int32_t *tokens, int64_t n, const token_list *list) {
    return (size_t)n == list->n && (n == 0 || memcmp(tokens, list->ids, list->n * sizeof *tokens) == 0);
}

/* Is q what this very prompt, drawn the same way, had become? */
static bool is_continuation(const generation *g, const job *j, const manifest_sequence *q) {
    bool same_place = j->line < 0 ? q->line < 0 : g->continues_batch && q->line == j->line;
    bool without_prompt = !g->options->prompt && !g->options->prompt_file && !g->options->input;
    if (!same_place || q->n_stops != j->n_stops) return false;
    if (!without_prompt && !same_draws(j->session.sampling, q->sampling)) return false;
    if (j->session.sampling.n_logprobs != q->sampling.n_logprobs) return false;
    for (int i = 0; i < q->n_stops; i++)
        if (strcmp(q->stops[i], j->stops[i]) != 0) return false;
    if (!same_tokens(q->stop_tokens, q->n_stop_tokens, &j->stop_tokens)) return false;
    return same_tokens(q->tokens, q->n_prompt, &j->session.tokens);
}

/* Let the job live again through what was generated for it. */
static void replay(generation *g, job *j, const manifest_sequence *q) {
    session *s = &j->session;
    for (int64_t i = q->n_prompt; i < q->n_tokens && !j->is_over; i++) {
        sampler_choice choice = {.token = q->tokens[i]};
        const manifest_logprob *l = q->n_logprobs ? &q->logprobs[(i - q->n_prompt) * q->n_logprobs] : NULL;
        if (l) choice.logprob = l[0].logprob;
        for (int64_t k = 1; k < q->n_logprobs && l[k].token >= 0; k++) {
            choice.top_tokens[choice.n_top] = l[k].token;
            choice.top_logprobs[choice.n_top++] = l[k].logprob;
        }
        if (session_n_generated(s) == s->max_tokens) break;
        token_list_append(&s->tokens, choice.token);
        job_take_token(j, g->tok, &g->config, &choice, session_n_generated(s) == s->max_tokens);
    }
}

/* Of `saved` positions, how many of the first n can be gone on from with the same numbers. Where pages hold
 * codes, rows behind them see the others of their block as they were put, which a snapshot has of the last
 * block that was saved. */
static int64_t reusable(const generation *g, int64_t n, int64_t saved) {
    return options_change_pages(g->options) && attend_block_of(n) < attend_block_of(saved)
               ? n - n % ATTEND_BLOCK
               : n;
}

static int64_t common_tokens(const generation *g, const job *j, const manifest_sequence *q) {
    const session *s = &j->session;
    int64_t n = q->n_tokens < s->n_prompt ? q->n_tokens : s->n_prompt, i = 0;
    while (i < n && s->tokens.ids[i] == q->tokens[i])
        i++;
    int64_t saved = manifest_kv_tokens(q);
    return i < saved ? reusable(g, i, saved) : saved;
}

/* The saved sequence that this prompt has most in common with. */
static int64_t find_beginning(const generation *g, const job *j, int64_t *n_tokens) {
    int64_t best = -1;
    *n_tokens = 0;
    for (int64_t i = 0; i < g->past.n_sequences; i++) {
        int64_t n = common_tokens(g, j, &g->past.sequences[i]);
        if (n <= *n_tokens) continue;
        *n_tokens = n;
        best = i;
    }
    return best;
}

/* The last row is always computed: its logits choose the next token. So are those whose queries --evict asks
 * for, where anything goes. */
static void reuse(generation *g, int64_t index, past_match match) {
    session *s = &g->jobs[index].session;
    int64_t n_known = (int64_t)s->tokens.n;
    const evict_policy *evict = &g->options->evict;
    const int64_t last = evict->every > 0 ? n_known + s->max_tokens / evict->every * evict->every : n_known;
    const bool evicts = evict_removes(evict, n_known, n_known) || evict_removes(evict, n_known, last);
    const int64_t n_asked = s->max_tokens > 0 && evicts ? evict_least_rows(evict) : 0,
                  there = match.n_tokens < n_known ? match.n_tokens : n_known - 1,
                  most = n_known > n_asked ? n_known - n_asked : 0, n = there < most ? there : most;
    s->n_cached = n < match.n_tokens ? reusable(g, n, match.n_tokens) : n;
    if (g->options->load != LOAD_RECOMPUTE) g->asked_tokens += there - n;
    if (s->n_cached < LEAST_REUSED_TOKENS || g->options->load == LOAD_RECOMPUTE) s->n_cached = 0;
    s->source = s->n_cached > 0 ? match.source : -1;
    /* Where the snapshot goes on, it keeps what it has, be it loaded or computed again. */
    job *j = &g->jobs[index];
    const int64_t n_kept = g->save_goes_on ? match.n_tokens : s->n_cached;
    if (n_kept > 0)
        j->inexact = manifest_inexact_of(&g->past, &g->past.sequences[match.source], n_kept, &j->n_exact);
    if (n_kept > 0 && g->past.sequences[match.source].pages)
        j->pages = mem_copy_text(g->past.sequences[match.source].pages,
                                 strlen(g->past.sequences[match.source].pages));
    g->matches[index] = match;
}

static void match_job(generation *g, int64_t index) {
    job *j = &g->jobs[index];
    for (int64_t i = g->past.n_sequences - 1; i >= 0; i--) {
        const manifest_sequence *q = &g->past.sequences[i];
        if (!is_continuation(g, j, q)) continue;
        j->session.sequence_id = q->sequence_id;
        replay(g, j, q);
        reuse(g, index, (past_match){i, manifest_kv_tokens(q), true});
        return;
    }
    int64_t n_tokens, source = find_beginning(g, j, &n_tokens);
    if (source < 0 || n_tokens < LEAST_REUSED_TOKENS) return;
    bool is_all = n_tokens == g->past.sequences[source].n_tokens;
    reuse(g, index, (past_match){source, n_tokens, j->is_kept && is_all});
}

/* The same prompts as the snapshot's, and its results are where this run would write. With no results there,
 * all lines are done again. */
static bool continues_batch(const generation *g) {
    const manifest_batch *b = &g->past.batch;
    const options *o = g->options;
    if (!o->input || b->n_lines != g->n_jobs || !same_digest(b->digest, g->batch_digest)) return false;
    if (b->output_bytes <= 0 || !o->output || !results_are_missing(o->output)) return true;
    fprintf(stderr, "kvarve: --output %s: holds no results: all lines are done again\n", o->output);
    return false;
}

/* What comes back from a codec that is not exact is not what was saved, nor is what was computed over it. */
static void note_inexact(const generation *g) {
    const char *first = NULL;
    bool has_others = false;
    int64_t n = 0;
    for (int64_t i = 0; i < g->n_jobs; i++) {
        if (!g->jobs[i].inexact) continue;
        if (n++ == 0) first = g->jobs[i].inexact;
        has_others |= strcmp(first, g->jobs[i].inexact) != 0 && !strstr(first, MANIFEST_AND_OTHERS);
    }
    if (n > 0)
        notice_add("--resume %s: what %lld prompt%s take%s from it came through %s%s, or was computed over "
                   "that: what follows may differ from what the exact cache would have given",
                   g->options->resume, (long long)n, n == 1 ? "" : "s", n == 1 ? "s" : "", first,
                   has_others ? MANIFEST_AND_OTHERS : "");
}

/* Of pages that are rounded as in this run its own note tells. */
static void note_pages(const generation *g) {
    const char *own = generate_pages(g->options), *first = NULL;
    int64_t n = 0;
    for (int64_t i = 0; i < g->n_jobs; i++) {
        const job *j = &g->jobs[i];
        const char *past = j->pages ? j->pages : "exact";
        if (j->session.n_cached <= ATTEND_BLOCK || strcmp(past, own) == 0) continue;
        if (n++ == 0) first = past;
    }
    if (n > 0)
        notice_add("--resume %s: what %lld prompt%s take%s from it was computed over KV pages that were %s, "
                   "and those of "
                   "this run are %s: what follows may differ from what one run would have given",
                   g->options->resume, (long long)n, n == 1 ? "" : "s", n == 1 ? "s" : "", first, own);
}

void generate_match_past(generation *g) {
    g->matches = mem_new((size_t)g->n_jobs, sizeof *g->matches);
    for (int64_t i = 0; i < g->n_jobs; i++)
        g->matches[i].source = -1;
    if (g->options->input) digest_batch(g);
    if (!g->past_bytes) return;
    const manifest_batch *b = &g->past.batch;
    g->continues_batch = continues_batch(g);
    for (int64_t i = 0; i < g->n_jobs; i++) {
        job *j = &g->jobs[i];
        alive_say();
        if (g->continues_batch && b->is_done[i]) {
            j->is_over = j->was_written = true;
            generate_count_failure(g, j);
        } else if (!j->error) {
            match_job(g, i);
        }
    }
    note_inexact(g);
    note_pages(g);
}
