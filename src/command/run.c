#include "src/command/run.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/files.h"
#include "io/weights/model_dir.h"
#include "src/base/alive.h"
#include "src/base/host.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/base/utf8.h"
#include "src/timing/step_costs.h"
#include "src/tokenizer/config.h"
#include "src/tokenizer/synth_tokenizer.h"

stop_limits run_stop_limits(const options *o) {
    return (stop_limits){isnan(o->max_time_seconds) ? INFINITY : o->max_time_seconds, o->stop_file};
}

int run_say_failure(const comm *c, status st) {
    if (comm_rank(c) == 0) {
        notice_print_new(stderr);
        fprintf(stderr, "kvarve: error: %s\n", status_text());
    }
    return status_exit_code(st);
}

status run_find_shape(const options *o, synthetic_model *out) {
    status st = synthetic_find(o->shape, out);
    if (st == STATUS_OK && o->vocab != OPTION_UNSET) out->vocab_size = (int)o->vocab;
    return st;
}

const char *run_model_name(const options *o) {
    return o->shape ? o->shape : o->model;
}

status run_read_tokenizer(const options *o, text_buffer *out) {
    synthetic_model m;
    status st;
    if (o->shape) {
        st = run_find_shape(o, &m);
        if (st == STATUS_OK) synth_tokenizer_append(m.vocab_size, out);
        return st;
    }
    char *path = file_path(o->model, "tokenizer.json");
    st = run_read_text("--model", path, out);
    free(path);
    return st;
}

static status make_config(const options *o, model_config *config) {
    synthetic_model m;
    text_buffer text = {0};
    status st = run_find_shape(o, &m);
    if (st == STATUS_OK) {
        synthetic_append_config(&m, &text);
        st = model_config_parse(text.data, text.n, m.name, config);
    }
    free(text.data);
    return st;
}

static status make_tokenizer(const options *o, tokenizer **out) {
    text_buffer text = {0};
    status st = run_read_tokenizer(o, &text);
    if (st == STATUS_OK) st = tokenizer_parse(text.data, text.n, o->shape, out);
    free(text.data);
    return st;
}

status run_open_tokenizer(const options *o, tokenizer **out) {
    if (o->shape) return make_tokenizer(o, out);
    char *path = file_path(o->model, "tokenizer.json");
    struct stat info;
    bool is_missing = stat(path, &info) != 0 && (errno == ENOENT || errno == ENOTDIR);
    status st = is_missing ? model_dir_refuse(o->model, "tokenizer.json") : tokenizer_open(path, out);
    free(path);
    if (st == STATUS_OK) tokenizer_config_apply(o->model, *out);
    return st;
}

status run_read_model(const options *o, model_config *config, tokenizer **out_tokenizer) {
    status st = o->shape ? make_config(o, config) : model_config_load(o->model, config);
    return st == STATUS_OK && out_tokenizer ? run_open_tokenizer(o, out_tokenizer) : st;
}

status run_read_text(const char *option, const char *path, text_buffer *out) {
    enum { MAX_BYTES = 1 << 30 };
    bool is_stdin = !strcmp(path, "-");
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    if (!f) return status_refuse("%s %s: %s", option, path, strerror(errno));
    char chunk[1 << 16];
    for (size_t n; out->n <= MAX_BYTES && (n = fread(chunk, 1, sizeof chunk, f)) > 0; alive_say())
        text_append(out, chunk, n);
    int error = ferror(f) ? errno : 0;
    if (!is_stdin) fclose(f);
    if (error) return status_refuse("%s %s: %s", option, path, strerror(error));
    if (out->n > MAX_BYTES) return status_refuse("%s %s: more than 1 GiB", option, path);
    const char *other = utf8_other_encoding(out->data, out->n, false);
    if (other)
        return status_refuse(
            "%s %s: is in %s, but texts are read as UTF-8: convert it first, with iconv -f %s -t UTF-8",
            option, path, other, other);
    return STATUS_OK;
}

static void note_invalid(const char *option, const char *path, const text_buffer *text) {
    size_t n_valid = text->n ? utf8_count_valid(text->data, text->n) : 0;
    if (n_valid == text->n) return;
    notice_add(
        "%s%s%s: bytes that are not UTF-8 are read as U+FFFD, the first of them behind %zu others; iconv "
        "converts other encodings",
        option, *path ? " " : "", path, n_valid);
}

status run_read_prompt(const char *option, const char *path, text_buffer *out) {
    text_buffer text = {0};
    status st = run_read_text(option, path, &text);
    const char *data = text.n ? text.data : "";
    bool has_mark = text.n >= 3 && !memcmp(data, "\xEF\xBB\xBF", 3);
    if (st == STATUS_OK) text_append(out, data + (has_mark ? 3 : 0), text.n - (has_mark ? 3 : 0));
    free(text.data);
    if (st == STATUS_OK) note_invalid(option, path, out);
    return st;
}

status run_take_prompt(const options *o, text_buffer *out) {
    if (o->prompt_file) return run_read_prompt("--prompt-file", o->prompt_file, out);
    text_append(out, o->prompt, strlen(o->prompt));
    note_invalid("--prompt", "", out);
    return STATUS_OK;
}

int run_threads(const comm *c, const options *o) {
    const char *text = getenv("OMP_NUM_THREADS");
    int n = text ? atoi(text) : 0;
    if (o->threads > 0) return (int)o->threads;
    return n > 0 && n <= 1024 ? n : comm_processors(c);
}

engine_options run_engine_options(const comm *c, const options *o, const sizing *s) {
    synthetic_model made = {0};
    if (o->shape) (void)run_find_shape(o, &made); /* options_parse has found it */
    return (engine_options){
        .model_dir = o->model,
        .made = made,
        .device = o->device,
        .n_threads = run_threads(c, o),
        .sizing = *s,
        .transport = o->transport,
    };
}

status run_make_chunks(const options *o, const model_config *config, int n_ranks, int64_t n_tokens,
                       chunk_list *out) {
    step_costs costs;
    if (!o->measured && !o->chunk_model) return STATUS_OK;
    status st = step_costs_choose(o->measured, o->chunk_model, config, &costs);
    if (st == STATUS_OK) chunk_list_append_best(out, &costs.prefill, n_ranks, o->chunk_tokens, n_tokens);
    return st;
}

/* A launcher that binds each rank to one core, or a site's OMP_NUM_THREADS=1, makes a large machine slow. Not
 * worth a word: what was asked for by --threads, and a machine or an allocation that has no more. */
static void note_idle_processors(const comm *c, const options *o, const engine *e) {
    uint64_t mask[HOST_MASK_WORDS];
    const char *allocated = getenv("SLURM_CPUS_ON_NODE"), *variable = getenv("OMP_NUM_THREADS");
    int bound = host_processor_mask(mask), all = host_unbound_processors(), n = engine_threads(e);
    if (allocated && atoi(allocated) > 0 && atoi(allocated) < all) all = atoi(allocated);
    int share = all / comm_node_size(c), wanted = o->threads > 0 && n < share ? n : share;
    if (2 * bound <= wanted)
        notice_add(
            "a rank is bound to %d processor%s, and its share of its host is %d: mpirun --bind-to none, or "
            "srun -c %d",
            bound, bound == 1 ? "" : "s", share, share);
    else if (o->threads == 0 && variable && n == 1 && share > 1)
        notice_add(
            "OMP_NUM_THREADS=%.16s leaves a rank 1 thread, and its share of its host is %d processors: "
            "unset it, or say --threads %d",
            variable, share, share);
}

/* Rank 0 gets what the others have to say, the first two of each. Collective. */
static void collect_notices(comm *c) {
    enum { MOST = 2 };
    typedef char lines[MOST][NOTICE_BYTES];
    int n = comm_rank(c) > 0 ? notice_count() : 0;
    if (comm_min(c, -n) == 0) return;
    lines mine = {{0}}, *all = mem_new((size_t)comm_size(c), sizeof *all);
    for (int i = 0; i < n && i < MOST; i++)
        snprintf(mine[i], sizeof mine[i], "%s", notice_text(i));
    comm_gather(c, mine, sizeof mine, all);
    for (int rank = 0; comm_rank(c) == 0 && rank < comm_size(c); rank++)
        for (int i = 0; i < MOST; i++)
            if (all[rank][i][0]) notice_add("%s", all[rank][i]);
    free(all);
}

status run_open_engine(comm *c, const options *o, const model_config *config, engine_options *wanted,
                       engine **out) {
    chunk_list chunks = {0};
    status st = STATUS_OK;
    if (comm_rank(c) == 0)
        st = run_make_chunks(o, config, comm_size(c), wanted->sizing.longest_tokens, &chunks);
    if (comm_any_failed(c, &st)) return st;
    if (chunks.n > 0) wanted->chunks = &chunks;
    if (comm_rank(c) == 0 && config->dual_chunk_positions > 0 &&
        wanted->sizing.longest_tokens > config->dual_chunk_positions)
        notice_add(
            "config.json: dual_chunk_attention_config is not used, as by transformers: beyond %lld tokens "
            "answers are worse than with it",
            (long long)config->dual_chunk_positions);
    st = engine_open(c, config, wanted, out);
    if (st == STATUS_OK) {
        if (!strcmp(engine_device(*out)->ops->name, device_kind_name(DEVICE_CPU)))
            note_idle_processors(c, o, *out);
        collect_notices(c);
    }
    wanted->chunks = NULL;
    chunk_list_free(&chunks);
    return st;
}

static void print_places(const engine *e, int n_ranks) {
    enum { MOST = 16 };
    for (int i = 0; i < n_ranks && i < MOST && engine_rank_place(e, i); i++)
        fprintf(stderr, "kvarve: rank %d on %s\n", i, engine_rank_place(e, i));
    if (n_ranks > MOST && engine_rank_place(e, 0))
        fprintf(stderr, "kvarve: and %d more ranks\n", n_ranks - MOST);
}

void run_print_begin(const comm *c, const engine *e, const options *o) {
    char shape[256], *effective = options_effective(o);
    const plan *p = engine_plan(e);
    model_config_describe(engine_config(e), shape, sizeof shape);
    fprintf(stderr, "kvarve %s: %s\n", KVARVE_VERSION, shape);
    fprintf(stderr, "kvarve: %d rank%s x %d thread%s, %s %s, layers", comm_size(c),
            comm_size(c) == 1 ? "" : "s", engine_threads(e), engine_threads(e) == 1 ? "" : "s",
            engine_device(e)->ops->name, engine_processor(e));
    for (int i = 0; i < p->n_ranks && i < 8; i++)
        fprintf(stderr, " %d", p->ranks[i].slice.last_layer - p->ranks[i].slice.first_layer);
    fprintf(stderr, "%s, KV cache for %lld tokens", p->n_ranks > 8 ? " ..." : "",
            (long long)p->n_pages * o->page_tokens);
    if (plan_memory_pages(p) > 0)
        fprintf(stderr, ", %lld of them in memory", (long long)plan_memory_pages(p) * o->page_tokens);
    if (engine_transport(e)) fprintf(stderr, ", activations by %s", engine_transport(e));
    fputc('\n', stderr);
    const plan_bound *bound = engine_bound(e);
    if (bound->bytes)
        fprintf(stderr, "kvarve: each rank may take %.1f MiB, %s\n", mem_mib(bound->bytes), bound->by);
    print_places(e, comm_size(c));
    fprintf(stderr, "kvarve: %s %s\n", options_command_name(o->command), effective);
    notice_print_new(stderr);
    free(effective);
}

int32_t *run_walk_tokens(const model_config *config, size_t n) {
    int32_t *tokens = mem_new(n, sizeof *tokens);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(i * 7919 % (size_t)config->vocab_size);
    return tokens;
}

session *run_submit_decodes(engine *e, const int32_t *tokens, int64_t depth, int64_t n, int64_t max_tokens) {
    session *all = mem_new((size_t)n, sizeof *all);
    for (int64_t i = 0; i < n; i++) {
        all[i] = session_new(tokens + i, depth > 0 ? depth : 1);
        all[i].id = i;
        all[i].max_tokens = max_tokens;
        engine_submit(e, &all[i]);
    }
    return all;
}
