/* The engine over this number of ranks against the plainest way to run the model: one rank, one sequence, one
 * row at a time. Tokens and scores must be the same bit for bit, whatever the chunks, pages, threads,
 * partition and company. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/token_set.h"
#include "mpi/comm.h"
#include "src/engine/engine.h"
#include "src/model/sampler.h"
#include "tests/fixtures/golden.h"
#include "tests/fixtures/harness.h"

static device_kind kind = DEVICE_CPU; /* or the argument of the program */

static precision in = PRECISION_BF16; /* what the plain way and the engine compute in */

enum { N_SEQUENCES = 17, MAX_PROMPT = 150, N_NEW = 12, LONGEST = MAX_PROMPT + N_NEW };

static comm *ranks;
static model_config config;
static char model_dir[4096];

/* One sequence of the test, and what the plain way gives for it. */
typedef struct sequence {
    int32_t prompt[MAX_PROMPT];
    int n_prompt;
    sampling_options sampling;
    sampler_choice want[N_NEW];
    float scores[MAX_PROMPT]; /* -log p of prompt[i], i > 0 */
} sequence;

static sequence sequences[N_SEQUENCES];

static uint64_t n_file_bytes; /* of all tensors of the model */

/* Where all is slow there is time for a tiny model only: one with heads that a GPU's own kernels take, or
 * with a layer for each of four ranks. */
static const char *model_of_test(void) {
#ifdef KVARVE_CUDA_EMULATED
    if (kind == DEVICE_CUDA) return "tests/golden/models/llama3";
#endif
    return harness_is_slow() ? "tests/golden/models/qwen2_window" : "jobs/demo/model";
}

/* How many of n sequences from `first` on run: an emulated GPU has time for the first few. */
static int n_used(int first, int n) {
#ifdef KVARVE_CUDA_EMULATED
    enum { N_EMULATED = 4 };
    if (kind == DEVICE_CUDA && first + n > N_EMULATED) return N_EMULATED - first;
#endif
    (void)first;
    return n;
}

static void make_sequences(void) {
    uint64_t state = 7;
    for (int i = 0; i < N_SEQUENCES; i++) {
        sequence *s = &sequences[i];
        s->n_prompt = i == 0 ? MAX_PROMPT : 1 + (int)(harness_random(&state) % (MAX_PROMPT - 1));
        for (int k = 0; k < s->n_prompt; k++)
            s->prompt[k] = (int32_t)(harness_random(&state) % (uint64_t)config.vocab_size);
        s->sampling = sampling_defaults();
        s->sampling.temperature = i % 3 ? 0.9 : 0;
        s->sampling.top_p = i % 3 ? 0.95 : 1;
        s->sampling.top_k = i % 5 == 4 ? 50 : 0;
        s->sampling.repetition_penalty = i % 4 >= 2 ? 1.3 : 1;
        s->sampling.n_logprobs = i % 4 == 1 ? 3 : 0;
        s->sampling.seed = i;
        s->sampling.ignore_eos = true;
    }
}

/* ---- the plain way ---- */

/* One row of the head at a time. */
static void choose_plainly(model *m, const float *x, const row_sampling *row, sampler_choice *out) {
    const int32_t first = 0;
    const model_answer *a = model_get_answer(m);
    model_head(m, x, &first, 1);
    model_choose(m, 1, row);
    model_find_top(m, 1, SAMPLING_MAX_LOGPROBS);
    CHECK_OK(model_sync(m));
    sampler_finish(row->options, &a->choices[0], a->top_values, a->top_ids, out);
}

static float score_plainly(model *m, const float *x, int32_t target) {
    const int32_t first = 0;
    model_head(m, x, &first, 1);
    model_score(m, 1, &target);
    CHECK_OK(model_sync(m));
    return model_get_answer(m)->scores[0];
}

static void run_plainly(model *m, kv_cache *kv, float *x, sequence *s, int64_t id) {
    uint32_t *seen = calloc(token_set_words(config.vocab_size), sizeof *seen);
    int32_t token = s->prompt[0];
    for (int pos = 0; pos < s->n_prompt + N_NEW - 1; pos++) {
        token_set_add(seen, token);
        kv_cache_extend(kv, 0, pos, pos + 1);
        span row = {0, 1, pos, 0, pos >= s->n_prompt};
        model_embed(m, &token, 1, x);
        model_forward(m, kv, NULL, NULL, 1, &row, 1, x);
        if (pos + 1 < s->n_prompt) {
            token = s->prompt[pos + 1];
            s->scores[pos + 1] = score_plainly(m, x, token);
        } else {
            sampler_choice *want = &s->want[pos + 1 - s->n_prompt];
            row_sampling asked = sampler_row(&s->sampling, id, pos + 1, seen);
            choose_plainly(m, x, &asked, want);
            token = want->token;
        }
    }
    kv_cache_release(kv, 0);
    free(seen);
}

static void make_reference(void) {
    weights *files = NULL;
    device *dev = NULL;
    model *m = NULL;
    kv_cache *kv = NULL;
    void *x = NULL;
    trace t = {0};
    kv_shape shape = {
        .n_layers = config.n_layers,
        .n_pages = kv_pages_for(LONGEST, 64),
        .n_slots = 1,
        .longest_tokens = LONGEST,
        .max_rows = 1,
    };
    slice all = {0, config.n_layers, config.n_layers};
    if (!CHECK_OK(weights_open(model_dir, &files))) return;
    n_file_bytes = 0;
    for (size_t i = 0; i < weights_count(files); i++)
        n_file_bytes += weights_at(files, i)->n_bytes;
    if (CHECK_OK(device_open(kind, 0, in, 1, &dev)))
        shape.format = model_kv_format(&config, dev->kv, dev->kv_layout, 64);
    if (dev && CHECK_OK(dev->ops->alloc(dev, (size_t)config.d_model * sizeof(float), &x)) &&
        CHECK_OK(model_open(&config, all, 1, files, dev, &t, NULL, &m)) &&
        CHECK_OK(kv_cache_open(dev, &shape, &kv))) {
        for (int i = 0; i < n_used(0, N_SEQUENCES); i++)
            run_plainly(m, kv, x, &sequences[i], 1000 + i);
    }
    kv_cache_close(kv);
    model_close(m);
    if (dev) dev->ops->release(dev, x);
    if (dev) dev->ops->close(dev);
    weights_close(files);
}

/* ---- the engine ---- */

typedef struct variant {
    const char *name;
    int chunk_tokens, page_tokens, n_sequences, n_threads;
    const char *layers; /* by number of ranks below; NULL: the best */
    int first, n;       /* which sequences run */
    bool equal_time;    /* chunks of a list that shrinks, and steps are timed */
} variant;

static status open_variant(const variant *v, engine **out) {
    static const char *const uneven[] = {"8", "1,7", "5,1,2", "1,4,1,2"};
    const chunk_model steep = {1e-3, 1e-5, 1e-3, 1e-4};
    chunk_list chunks = {0};
    if (v->equal_time) chunk_list_append_equal_time(&chunks, &steep, 0.08, v->chunk_tokens, LONGEST);
    engine_options o = {
        .model_dir = model_dir,
        .device = kind,
        .n_threads = v->n_threads,
        .sizing = {.precision = in,
                   .chunk_tokens = v->chunk_tokens,
                   .page_tokens = v->page_tokens,
                   .n_sequences = v->n_sequences,
                   .longest_tokens = LONGEST,
                   .wanted_pages = v->n_sequences * kv_pages_for(LONGEST, v->page_tokens),
                   .head_share = 0.5,
                   .layers_per_rank = v->layers ? uneven[comm_size(ranks) - 1] : NULL},
        .chunks = v->equal_time ? &chunks : NULL,
        .times_steps = v->equal_time,
    };
    status st = engine_open(ranks, &config, &o, out);
    chunk_list_free(&chunks);
    return st;
}

/* Every rank timed the same steps, some of them chunks, some of decode; the last one the head too. */
static void check_step_times(engine *e) {
    step_log log = engine_gather_steps(e);
    int counts[8][2] = {{0}}, n_head_rows = 0, last = comm_size(ranks) - 1;
    for (int i = 0; i < log.n; i++) {
        const step_time *s = &log.steps[i];
        counts[s->rank][s->n_rows > 1]++;
        CU_ASSERT(s->layer_seconds > 0 && s->n_sequences > 0 && s->history >= 0 && s->history < LONGEST);
        CU_ASSERT((s->head_seconds > 0) == (s->n_head_rows > 0) && (s->rank == last || s->n_head_rows == 0));
        n_head_rows += s->n_head_rows;
    }
    if (comm_rank(ranks) == 0) CU_ASSERT(counts[0][0] > 0 && counts[0][1] > 0 && n_head_rows > 0);
    for (int r = 1; comm_rank(ranks) == 0 && r < comm_size(ranks); r++)
        CU_ASSERT(counts[r][0] == counts[0][0] && counts[r][1] == counts[0][1]);
    int before = log.n;
    step_log_take_medians(&log);
    CU_ASSERT(log.n <= before);
    free(log.steps);
}

static void check_tokens(engine *e, const variant *v) {
    int n_got[N_SEQUENCES] = {0}, wrong = 0;
    session sessions[N_SEQUENCES];
    for (int i = v->first; i < v->first + n_used(v->first, v->n); i++) {
        session *s = &sessions[i];
        *s = session_new(sequences[i].prompt, sequences[i].n_prompt);
        s->id = i;
        s->sequence_id = 1000 + i;
        s->max_tokens = N_NEW;
        s->sampling = sequences[i].sampling;
        engine_submit(e, s);
    }
    for (event ev; engine_next(e, &ev);) {
        if (ev.kind == EVENT_STEP) continue;
        session *s = ev.session;
        int at = n_got[s->id]++;
        wrong += ev.kind != EVENT_TOKEN || at >= N_NEW ||
                 memcmp(&ev.choice, &sequences[s->id].want[at], sizeof ev.choice) != 0;
        wrong += s->tokens.ids[s->n_prompt + at] != ev.choice.token;
        /* Every fifth ends early: its slot and pages go to others. */
        if (s->id % 5 == 2 && at == 3 && !ev.is_last) engine_finish(e, s);
    }
    for (int i = v->first; i < v->first + n_used(v->first, v->n); i++) {
        wrong += n_got[i] != (i % 5 == 2 ? 4 : N_NEW);
        session_free(&sessions[i]);
    }
    CU_ASSERT(wrong == 0);
}

static void check_scores(engine *e, const variant *v) {
    int next[N_SEQUENCES], wrong = 0;
    session sessions[N_SEQUENCES];
    for (int i = v->first; i < v->first + n_used(v->first, v->n); i++) {
        next[i] = 1 + i % 4; /* the first ones are not asked for */
        sessions[i] = session_new(sequences[i].prompt, sequences[i].n_prompt);
        sessions[i].id = i;
        sessions[i].score_from = next[i];
        engine_submit(e, &sessions[i]);
    }
    for (event ev; engine_next(e, &ev);)
        for (int64_t k = 0; k < ev.n_scores; k++)
            wrong += memcmp(&ev.scores[k], &sequences[ev.session->id].scores[next[ev.session->id]++],
                            sizeof(float)) != 0;
    for (int i = v->first; i < v->first + n_used(v->first, v->n); i++)
        if (sequences[i].n_prompt > 1 + i % 4) wrong += next[i] != sequences[i].n_prompt;
    for (int i = v->first; i < v->first + n_used(v->first, v->n); i++)
        session_free(&sessions[i]);
    CU_ASSERT(wrong == 0);
}

static void run_variant(const variant *v) {
    engine *e;
    if (!CHECK_OK(open_variant(v, &e))) return;
    if (comm_rank(ranks) == 0) {
        check_tokens(e, v);
        check_scores(e, v);
        engine_stop(e);
    } else {
        engine_serve(e);
    }
    rank_report *reports = calloc((size_t)comm_size(ranks), sizeof *reports);
    engine_gather_reports(e, reports);
    uint64_t bytes = 0;
    for (int i = 0; comm_rank(ranks) == 0 && i < comm_size(ranks); i++)
        bytes += reports[i].file_bytes;
    /* Each rank read its slice and nothing else; with several ranks the tied embedding is read by the first
     * and the last. */
    if (comm_rank(ranks) == 0) {
        uint64_t table = (uint64_t)config.vocab_size * (uint64_t)config.d_model * 2;
        CU_ASSERT(bytes == n_file_bytes + (comm_size(ranks) > 1 && config.tied_head ? table : 0));
    }
    free(reports);
    if (v->equal_time) check_step_times(e);
    engine_close(e);
}

static const variant variants[] = {
    {"all at once", 64, 64, N_SEQUENCES, 1, NULL, 0, N_SEQUENCES, false},
    {"one slot", 512, 64, 1, 1, NULL, 0, N_SEQUENCES, false},
    {"alone", 64, 64, 4, 1, NULL, 3, 1, false},
    {"chunks of 1", 1, 64, 2, 1, NULL, 3, 2, false},
    {"chunks of 7", 7, 32, 5, 1, NULL, 0, 9, false},
    {"pages of 32", 32, 32, 6, 1, NULL, 0, 9, false},
    {"pages of 96", 33, 96, 6, 1, NULL, 0, 9, false},
    {"2 threads", 64, 64, N_SEQUENCES, 2, NULL, 0, N_SEQUENCES, false},
    {"uneven layers", 48, 32, 3, 1, "", 0, 9, false},
    {"equal time", 64, 64, 4, 1, NULL, 0, N_SEQUENCES, true},
};

/* Every `stride`-th variant. */
static void run_variants(size_t stride) {
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i += stride) {
        if (variants[i].layers && config.n_layers != 8) continue;
        unsigned before = CU_get_number_of_failures();
        run_variant(&variants[i]);
        if (CU_get_number_of_failures() != before) printf("  variant: %s\n", variants[i].name);
    }
}

static void same_tokens_whatever_the_shape(void) {
    run_variants(1);
}

/* f32 end to end: the golden tokens' mean score, and the greedy continuation where the reference is not in
 * doubt. */
static void demo_model_matches_reference(void) {
    golden g;
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/golden/models/demo.golden", harness_source_dir());
    if (config.n_layers != 8 || !golden_read(path, &g)) return;
    engine_options o = {
        .model_dir = model_dir,
        .device = kind,
        .n_threads = 1,
        .sizing = {.precision = PRECISION_F32,
                   .chunk_tokens = 100,
                   .page_tokens = 64,
                   .n_sequences = 2,
                   .longest_tokens = g.n_tokens + g.n_continued,
                   .wanted_pages = 2 * kv_pages_for(g.n_tokens + g.n_continued, 64),
                   .head_share = 1},
    };
    engine *e;
    if (CHECK_OK(engine_open(ranks, &config, &o, &e))) {
        if (comm_rank(ranks) == 0) {
            session scored = session_new(g.tokens, g.n_tokens), continued = session_new(g.tokens, g.n_tokens);
            scored.score_from = 1;
            continued.id = 1;
            continued.max_tokens = g.n_continued;
            engine_submit(e, &scored);
            engine_submit(e, &continued);
            double sum = 0;
            int at = 0, wrong = 0;
            bool in_step = true;
            for (event ev; engine_next(e, &ev);) {
                if (ev.kind == EVENT_STEP) continue;
                for (int64_t k = 0; ev.session->id == 0 && k < ev.n_scores; k++)
                    sum += (double)ev.scores[k];
                if (ev.session->id == 0) continue;
                in_step = in_step && (at == 0 || (double)g.margins[at - 1] > 1e-3);
                wrong += in_step && ev.choice.token != g.continued[at] && (double)g.margins[at] > 1e-3;
                at++;
            }
            session_free(&scored);
            session_free(&continued);
            CU_ASSERT(fabs(sum / (g.n_tokens - 1) - g.mean_nll) < 1e-5);
            CU_ASSERT(wrong == 0 && at == g.n_continued);
            engine_stop(e);
        } else {
            engine_serve(e);
        }
        engine_close(e);
    }
    free(g.bytes);
}

/* What cannot fit is refused by all ranks alike, and the next engine opens. */
static void refusals(void) {
    variant v = variants[0];
    engine *e = NULL;
    engine_options o = {
        .model_dir = model_dir,
        .device = kind,
        .n_threads = 1,
        .sizing = {.chunk_tokens = 64,
                   .page_tokens = 64,
                   .n_sequences = 1,
                   .longest_tokens = LONGEST,
                   .wanted_pages = 3,
                   .bound = plan_bound_asked(1 << 20)},
    };
    CHECK_REFUSED(engine_open(ranks, &config, &o, &e), "does not fit");
    o.sizing.bound = plan_bound_asked(0);
    o.sizing.layers_per_rank = "1,1,1,1,1";
    CHECK_REFUSED(engine_open(ranks, &config, &o, &e), "--layers-per-rank");
    o.sizing.layers_per_rank = NULL;
    o.model_dir = "/nowhere";
    CHECK_REFUSED(engine_open(ranks, &config, &o, &e), "/nowhere");
    run_variant(&v);
}

/* A model of heads of this width, on all ranks. */
static status open_wide(int head_dim) {
    synthetic_model made;
    model_config wide;
    text_buffer json = {0};
    engine *e = NULL;
    CHECK_OK(synthetic_find("tiny", &made));
    made.head_dim = head_dim;
    synthetic_append_config(&made, &json);
    CHECK_OK(model_config_parse(json.data, json.n, "config.json", &wide));
    free(json.data);
    const engine_options o = {
        .made = made,
        .device = kind,
        .n_threads = 1,
        .sizing = {.precision = in,
                   .chunk_tokens = 8,
                   .page_tokens = 32,
                   .n_sequences = 1,
                   .longest_tokens = 16,
                   .wanted_pages = 1,
                   .head_share = 1},
    };
    const status st = engine_open(ranks, &wide, &o, &e);
    if (st != STATUS_OK) return st;
    if (comm_rank(ranks) == 0)
        engine_stop(e);
    else
        engine_serve(e);
    engine_close(e);
    return STATUS_OK;
}

static void heads_too_wide(void) {
    CHECK_OK(open_wide(256));
    if (kind == DEVICE_CPU)
        CHECK_OK(open_wide(258));
    else
        CHECK_REFUSED(open_wide(258), "256 numbers at most, and this model's have 258");
}

static void open_ranks(int *argc, char ***argv) {
    snprintf(model_dir, sizeof model_dir, "%s/%s", harness_source_dir(), model_of_test());
    if (comm_open(argc, argv, &ranks) != STATUS_OK || model_config_load(model_dir, &config) != STATUS_OK)
        exit(1);
}

/* First, as it makes what the others compare with. */
static void plain_reference(void) {
    make_sequences();
    make_reference();
}

static void same_tokens_with_int8_weights(void) {
    if (kind != DEVICE_CPU) return;
    int32_t before[N_SEQUENCES];
    for (int i = 0; i < N_SEQUENCES; i++)
        before[i] = sequences[i].want[N_NEW - 1].token;
    in = PRECISION_INT8;
    make_reference();
    int n_other = 0;
    for (int i = 0; i < N_SEQUENCES; i++)
        n_other += sequences[i].want[N_NEW - 1].token != before[i];
    CU_ASSERT(n_other > 0); /* it is another model */
    run_variants(4);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"plain reference", plain_reference},
        {"same tokens whatever the shape", same_tokens_whatever_the_shape},
        {"demo model matches the reference", demo_model_matches_reference},
        {"refusals", refusals},
        {"heads too wide", heads_too_wide},
        {"same tokens with int8 weights", same_tokens_with_int8_weights},
        CU_TEST_INFO_NULL,
    };
    if (argc > 1) kind = strcmp(argv[1], "cuda") ? DEVICE_CPU : DEVICE_CUDA;
    if (device_count(kind, NULL) == 0) {
        printf("skipped  engine: no GPU here\n");
        return 77;
    }
    open_ranks(&argc, &argv);
    int code = harness_run(&argc, &argv, "engine", tests);
    comm_close(ranks);
    return code;
}
