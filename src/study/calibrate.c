/* kvarve calibrate: what the lossy codecs must know of a model's KV cache, from texts that it reads once. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/kv_tables.h"
#include "io/files.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/command/report.h"
#include "src/command/run.h"
#include "src/command/sizing.h"
#include "src/model/rope.h"
#include "src/study/sensitivity.h"
#include "src/study/tables_build.h"
#include "src/study/windows.h"

enum {
    DEFAULT_CONTEXT = 1024,
    DEFAULT_WINDOWS = 8,
    BENT_WINDOWS = 2,
    BENT_CONTEXT = 448,
    BENT_SCORED = 64, /* of the measurement of sensitivities, at most */
};

/* Rank 0's view of the texts, and each rank's of the layers that it owns. */
typedef struct calibration {
    const options *options;
    model_config config;
    tokenizer *tok;
    window_list windows;
    slice slice;
    dtype type;
    size_t row_bytes; /* of K or V of a token in a layer */
    int64_t n_tokens, context, n_all;
    char *samples; /* [layers of the slice, N_KV_PARTS, n_all, row_bytes] */
    sensitivity *sensitivity;
    const linear *linear;
} calibration;

static status prepare(calibration *c) {
    const options *o = c->options;
    status st = run_read_model(o, &c->config, &c->tok);
    int64_t longest = c->config.max_positions < DEFAULT_CONTEXT ? c->config.max_positions : DEFAULT_CONTEXT;
    c->windows.n_tokens = o->context != OPTION_UNSET ? o->context : longest;
    int64_t most = o->windows != OPTION_UNSET ? o->windows : DEFAULT_WINDOWS;
    for (int64_t i = 0; st == STATUS_OK && i < o->samples.n; i++)
        st = windows_append("--sample", o->samples.items[i], &c->config, c->tok, most, &c->windows);
    if (st == STATUS_OK && c->config.window > 0 && c->config.window < c->windows.n_tokens)
        st = status_refuse("--context %lld: layers with a window keep %lld positions, so at most as many",
                           (long long)c->windows.n_tokens, (long long)c->config.window);
    return st;
}

/* ---- the samples of each rank ---- */

static char *samples_of(const calibration *c, int layer, int part) {
    return c->samples + (size_t)(layer * N_KV_PARTS + part) * (size_t)c->n_all * c->row_bytes;
}

static status take_context(void *context, kv_cache *kv, slice s, int slot, int64_t n, int64_t sequence_id) {
    calibration *c = context;
    if (sensitivity_has(c->sensitivity, sequence_id))
        return sensitivity_bend(c->sensitivity, kv, s, slot, n, sequence_id);
    for (int layer = 0; layer < s.last_layer - s.first_layer; layer++)
        for (int part = 0; part < N_KV_PARTS; part++) {
            char *to = samples_of(c, layer, part) + (size_t)c->n_tokens * c->row_bytes;
            status st = kv_cache_read(kv, slot, layer, (kv_part)part, 0, n, to);
            if (st != STATUS_OK) return st;
        }
    c->n_tokens += n;
    return STATUS_OK;
}

static void take_logits(void *context, int64_t sequence_id, int64_t pos, int32_t target,
                        const float *logits) {
    (void)target;
    sensitivity_take(((calibration *)context)->sensitivity, sequence_id, pos, logits);
}

/* Of K or V of a token in a layer. */
static size_t row_elements(const model_config *m) {
    return (size_t)m->n_kv_heads * (size_t)m->head_dim;
}

/* All samples, and what each of so many threads makes of a layer. */
static sizing size_up(const calibration *c, int n_threads) {
    const options *o = c->options;
    const size_t n = c->windows.tokens.n * row_elements(&c->config);
    sizing s = sizing_of(o, &(job_size){.n = c->windows.n, .tokens = c->windows.n_tokens}, 1, 0);
    s.host_layer_bytes = N_KV_PARTS * n * dtype_bytes(precision_kv(o->precision));
    s.host_bytes = (size_t)n_threads * tables_layer_memory(n);
    return s;
}

static void begin_samples(calibration *c, engine *e) {
    c->type = engine_device(e)->kv;
    c->row_bytes = row_elements(engine_config(e)) * dtype_bytes(c->type);
    c->samples = mem_new((size_t)(c->slice.last_layer - c->slice.first_layer) * N_KV_PARTS * (size_t)c->n_all,
                         c->row_bytes);
    const int64_t n_windows = c->n_all / c->context,
                  n_bent = n_windows < BENT_WINDOWS ? n_windows : BENT_WINDOWS;
    const int64_t n_scored = c->context / 8 < BENT_SCORED ? c->context / 8 : BENT_SCORED;
    const int64_t n_context = c->context - n_scored < BENT_CONTEXT ? c->context - n_scored : BENT_CONTEXT;
    c->sensitivity = sensitivity_open(engine_config(e), c->type, n_bent, n_context, n_scored, n_windows);
    engine_use_probe(e, &(probe){c, take_context, take_logits});
}

/* The last layer of the rank before, [N_KV_PARTS, n_all, row_bytes]; NULL on the first one. Collective. */
static char *fetch_layer_before(const calibration *c, comm *ranks) {
    char *before = NULL;
    for (int rank = 0; rank + 1 < comm_size(ranks); rank++) {
        const int n_layers = c->slice.last_layer - c->slice.first_layer;
        size_t n = N_KV_PARTS * (size_t)c->n_all * c->row_bytes;
        char *bytes =
            comm_share(ranks, comm_rank(ranks) == rank ? samples_of(c, n_layers - 1, 0) : NULL, &n, rank);
        if (comm_rank(ranks) == rank + 1)
            before = bytes;
        else
            free(bytes);
    }
    return before;
}

/* The layers of the slice as they stand in the file. before: the last layer of the rank before. */
static status append_layers(const calibration *c, const model_config *m, const char *before,
                            const double *importance, int n_threads, progress *bar, varve_counts *counts,
                            text_buffer *out) {
    float *frequencies = mem_new((size_t)m->head_dim / 2, sizeof *frequencies), factor;
    rope_inverse_frequencies(m, frequencies, &factor);
    const table_model shape = {m->n_layers, m->n_kv_heads, m->head_dim, importance, frequencies};
    const table_samples samples = {
        c->type, c->slice.first_layer, c->slice.last_layer, c->n_tokens, c->context, c->samples, before};
    assert(c->n_tokens == c->n_all);
    status st = tables_append_layers(c->linear, &shape, &samples, n_threads, NULL, bar, counts, out);
    free(frequencies);
    return status_at(st, "--sample");
}

/* ---- the file ---- */

/* The sums of all ranks, on rank 0. Collective. */
static void add_counts(comm *c, varve_counts *counts) {
    varve_counts *all = mem_new((size_t)comm_size(c), sizeof *all);
    comm_gather(c, counts, sizeof *counts, all);
    for (int rank = 1; comm_rank(c) == 0 && rank < comm_size(c); rank++)
        varve_counts_add(&all[rank], counts);
    free(all);
}

/* Every rank's bytes, in the order of the ranks. Collective. */
static void join(comm *c, const text_buffer *mine, text_buffer *all) {
    for (int rank = 0; rank < comm_size(c); rank++) {
        size_t n = mine->n;
        char *bytes = comm_share(c, mine->data, &n, rank);
        if (comm_rank(c) == 0) text_append(all, bytes, n);
        free(bytes);
    }
}

static status write_tables(const calibration *c, engine *e, const text_buffer *layers) {
    const model_config *m = engine_config(e);
    kv_tables_shape shape = {.n_layers = m->n_layers, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim};
    memcpy(shape.model_digest, engine_model_digest(e), sizeof shape.model_digest);
    text_buffer file = {0};
    kv_tables_append(&shape, layers->data, layers->n, &file);
    status st = file_write_all(c->options->output, file.data, file.n);
    if (st == STATUS_OK)
        printf("%s: tables of %d layers from %lld tokens, %.1f MiB\n", c->options->output, m->n_layers,
               (long long)c->n_tokens, mem_mib(file.n));
    free(file.data);
    return st;
}

/* ---- the run ---- */

/* As many samples as numbers fit any bases, and say nothing of other texts. */
static void note_few(const calibration *c, const model_config *m) {
    enum { ENOUGH = 8 };
    int first, n;
    varve_locate_basis(&(varve_shape){m->n_kv_heads, m->head_dim}, VARVE_JOINT, 0, &first, &n);
    if (c->n_all < (int64_t)ENOUGH * n)
        notice_add(
            "--sample: %lld tokens are few for bases of %d numbers: contexts take fewer bits with tables of "
            "%d tokens or more (--windows, or more texts)",
            (long long)c->n_all, n, ENOUGH * n);
}

static void run_stage_0(calibration *c, engine *e) {
    session *sessions = mem_new((size_t)c->windows.n, sizeof *sessions);
    for (int64_t i = 0; i < c->windows.n; i++) {
        sessions[i] = session_new(window_at(&c->windows, i), c->windows.n_tokens);
        sessions[i].sequence_id = i;
        sessions[i].probe_at = c->windows.n_tokens;
        engine_submit(e, &sessions[i]);
    }
    windows_read(e, (int64_t)c->windows.tokens.n);
    sessions_free(sessions, c->windows.n);
    sensitivity_run(c->sensitivity, e, &c->windows);
    engine_stop(e);
}

int command_calibrate(comm *c, const options *o) {
    calibration k = {.options = o};
    text_buffer mine = {0}, all = {0};
    const bool is_first = comm_rank(c) == 0;
    engine *e = NULL;
    status st = is_first ? prepare(&k) : STATUS_OK;
    if (st == STATUS_OK) st = linear_load(&k.linear);
    if (!comm_any_failed(c, &st)) {
        sizing s = size_up(&k, run_threads(c, o));
        engine_options wanted = run_engine_options(c, o, &s);
        wanted.wants_digest = true;
        st = run_open_engine(c, o, &k.config, &wanted, &e);
    }
    if (st == STATUS_OK) {
        int64_t sizes[] = {(int64_t)k.windows.tokens.n, k.windows.n_tokens};
        comm_broadcast(c, sizes, sizeof sizes, 0);
        k.n_all = sizes[0];
        k.context = sizes[1];
        k.slice = engine_plan(e)->ranks[comm_rank(c)].slice;
        begin_samples(&k, e);
        if (is_first) note_few(&k, engine_config(e));
        if (is_first) run_print_begin(c, e, o);
        if (is_first)
            run_stage_0(&k, e);
        else
            engine_serve(e);
        varve_counts *counts = mem_new(1, sizeof *counts);
        char *before = fetch_layer_before(&k, c);
        double *importance = mem_new((size_t)engine_config(e)->n_layers * N_KV_PARTS, sizeof *importance);
        sensitivity_importance(k.sensitivity, c, importance);
        progress bar = progress_begin("layers"); /* rank 0 has as many as others, about */
        st = append_layers(&k, engine_config(e), before, importance, run_threads(c, o),
                           is_first ? &bar : NULL, counts, &mine);
        progress_end(&bar);
        free(importance);
        free(before);
        if (!comm_any_failed(c, &st)) {
            join(c, &mine, &all);
            add_counts(c, counts);
            if (is_first) varve_append_classes(counts, &all);
            if (is_first) st = write_tables(&k, e, &all);
            if (!comm_any_failed(c, &st)) st = report_run(c, e, o, &(run_summary){.n_requests = k.windows.n});
        }
        free(counts);
    }
    int code = st == STATUS_OK ? EXIT_CODE_OK : run_say_failure(c, st);
    engine_close(e);
    tokenizer_close(k.tok);
    free(k.windows.tokens.ids);
    free(k.samples);
    sensitivity_close(k.sensitivity);
    free(mine.data);
    free(all.data);
    return code;
}
