/* tests/timing/test_predicted.c: what src/study/simulate.h predicts beside real runs over 1 to 4 ranks: the
 * engine, its messages and its scheduler are real, and a layer takes the time that a chunk model says, most
 * of which the rank sleeps. So the ranks need no processors of their own, and are as fast as each other.
 *
 * Other work on the machine only makes a run longer, and then it is run again, a few times. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/base/clock.h"
#include "src/engine/engine_private.h"
#include "src/model/kv_cache.h"
#include "src/study/simulate.h"
#include "tests/fixtures/harness.h"

enum {
    N_LAYERS = 12,
    PAGE = 32,
    LONGEST = 1024,
    N_PROMPT = 768,
    N_NEW = 24,
    MOST_SEQUENCES = 8,
    MOST_RUNS = 5
};

static const double BOUND = 0.10;

/* Chunks of 5 to 15 ms a layer, and decode of 6 ms and more: beside these the real work is small. */
static const chunk_model chunk_costs = {3e-3, 1e-6, 2e-5, 1e-7}, decode_costs = {6e-3, 1e-7, 2e-4, 0};

static comm *ranks;
static synthetic_model shape;
static model_config config;

/* ---- a device whose layers take the time they should ---- */

static device_ops slow_ops;
static void (*real_begin_step)(device *dev, int n_spans, const span *spans);
static void (*real_attend)(device *dev, const attention_shape *s, const kv_layer *kv, const void *q, void *y);
static double layer_seconds, layer_end; /* of this rank's running step */

static void slow_begin_step(device *dev, int n_spans, const span *spans) {
    real_begin_step(dev, n_spans, spans);
    double history = 0;
    for (int i = 0; i < n_spans; i++)
        history += (double)spans[i].pos0;
    layer_seconds = spans[0].is_generated ? chunk_model_seconds(&decode_costs, history, n_spans)
                                          : chunk_model_seconds(&chunk_costs, history, spans[0].n_rows);
    layer_end = clock_seconds();
}

/* A layer ends with its attention: what comes behind counts for the next one. */
static void slow_attend(device *dev, const attention_shape *s, const kv_layer *kv, const void *q, void *y) {
    real_attend(dev, s, kv, q, y);
    layer_end += layer_seconds;
    double left = layer_end - clock_seconds();
    if (left <= 0) return;
    struct timespec t = {(time_t)left, (long)(1e9 * fmod(left, 1))};
    nanosleep(&t, NULL);
}

static void slow_down(device *dev) {
    slow_ops = *dev->ops;
    real_begin_step = slow_ops.begin_step;
    real_attend = slow_ops.attend;
    slow_ops.begin_step = slow_begin_step;
    slow_ops.attend = slow_attend;
    dev->ops = &slow_ops;
}

/* ---- a run, and its prediction ---- */

typedef struct work {
    const char *name;
    int n_sequences, n_prompt, n_new, chunk_tokens;
    bool equal_time;
} work;

static const int layers_of[4][4] = {{12}, {6, 6}, {4, 4, 4}, {3, 3, 3, 3}};
static const char *const layer_texts[4] = {"12", "6,6", "4,4,4", "3,3,3,3"};

static double predicted_seconds(const work *w, const chunk_list *chunks) {
    const link_speed link = {1e10, 1e-4};
    simulation m = {
        .n_stages = comm_size(ranks),
        .n_layers = layers_of[comm_size(ranks) - 1],
        .stages_per_node = comm_size(ranks),
        .within_node = link,
        .between_nodes = link,
        .costs = {.prefill = chunk_costs, .decode = decode_costs},
        .row_bytes = shape.d_model * 4.0,
        .chunk_tokens = w->chunk_tokens,
        .chunks = chunks,
        .n_sequences = w->n_sequences,
        .n_prompt = w->n_prompt,
        .n_new = w->n_new,
    };
    return simulate(&m).seconds;
}

/* On rank 0. */
static double run_seconds(engine *e, const work *w) {
    int32_t prompt[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = i % 256;
    double begin = clock_seconds();
    session *all = mem_new((size_t)w->n_sequences, sizeof *all);
    for (int i = 0; i < w->n_sequences; i++) {
        all[i] = session_new(prompt, w->n_prompt);
        all[i].id = i;
        all[i].max_tokens = w->n_new;
        engine_submit(e, &all[i]);
    }
    for (event ev; engine_next(e, &ev);)
        CU_ASSERT(ev.kind != EVENT_LOAD_FAILED);
    double seconds = clock_seconds() - begin;
    sessions_free(all, w->n_sequences);
    return seconds;
}

static status open_engine(const work *w, const chunk_list *chunks, engine **out) {
    engine_options o = {
        .made = shape,
        .device = DEVICE_CPU,
        .n_threads = 1,
        .sizing = {.chunk_tokens = w->chunk_tokens,
                   .page_tokens = PAGE,
                   .n_sequences = w->n_sequences,
                   .longest_tokens = LONGEST,
                   .wanted_pages = w->n_sequences * kv_pages_for(LONGEST, PAGE),
                   .layers_per_rank = layer_texts[comm_size(ranks) - 1]},
        .chunks = chunks,
        .quiet = true,
    };
    return engine_open(ranks, &config, &o, out);
}

static void compare(const work *w) {
    chunk_list list = {0};
    if (w->equal_time)
        chunk_list_append_best(&list, &chunk_costs, comm_size(ranks), w->chunk_tokens, w->n_prompt);
    const chunk_list *chunks = w->equal_time ? &list : NULL;
    engine *e = NULL;
    if (CHECK_OK(open_engine(w, chunks, &e))) {
        slow_down(e->worker.dev);
        if (comm_rank(ranks) == 0) {
            double measured = INFINITY, predicted = predicted_seconds(w, chunks);
            for (int i = 0; i < MOST_RUNS && measured > predicted / (1 - BOUND); i++)
                measured = fmin(measured, run_seconds(e, w));
            engine_stop(e);
            printf("%d ranks, %s: predicted %.3f s, measured %.3f s: %+.1f%%\n", comm_size(ranks), w->name,
                   predicted, measured, 100 * (predicted / measured - 1));
            CU_ASSERT(fabs(predicted / measured - 1) < BOUND);
        } else {
            engine_serve(e);
        }
    }
    engine_close(e);
    chunk_list_free(&list);
}

static void prefill(void) {
    compare(&(work){"a prompt", 1, N_PROMPT, 0, 64, false});
}

static void prefill_of_equal_time(void) {
    compare(&(work){"a prompt in chunks of equal time", 1, N_PROMPT, 0, 256, true});
}

static void decode_of_one(void) {
    compare(&(work){"decode of one sequence", 1, 16, N_NEW, 64, false});
}

static void decode_of_many(void) {
    compare(&(work){"decode of 8 sequences", MOST_SEQUENCES, 16, N_NEW, 64, false});
}

static void make_model(void) {
    text_buffer text = {0};
    if (synthetic_find("tiny", &shape) != STATUS_OK) exit(1);
    shape.n_layers = N_LAYERS;
    synthetic_append_config(&shape, &text);
    if (model_config_parse(text.data, text.n, "made", &config) != STATUS_OK) exit(1);
    free(text.data);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"prefill", prefill},
        {"prefill in chunks of equal time", prefill_of_equal_time},
        {"decode of one sequence", decode_of_one},
        {"decode of many", decode_of_many},
        CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    make_model();
    int code = harness_run(&argc, &argv, "predicted", tests);
    comm_close(ranks);
    return code;
}
