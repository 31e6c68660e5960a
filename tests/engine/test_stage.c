/* What a stage brings from the device's memory to the host: in a step answers, and of logits nothing, also
 * where they are kept for a save; those come when they are read. On every device; where memory is the host's,
 * a step copies nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/stage.h"
#include "tests/fixtures/device_arrays.h"

enum { N_SLOTS = 5, MAX_ROWS = 100, PAGE_TOKENS = 64 };

/* ---- a device that counts ---- */

static const device_ops *counted;
static device_ops counting;
static int64_t n_copies, n_bytes;

static void count_copy_out(device *dev, void *host_dst, const void *src, size_t bytes) {
    n_copies++;
    n_bytes += (int64_t)bytes;
    counted->copy_out(dev, host_dst, src, bytes);
}

static void count_copies(device *dev) {
    counted = dev->ops;
    counting = *counted;
    counting.copy_out = count_copy_out;
    dev->ops = &counting;
}

/* ---- a stage that is the whole model ---- */

typedef struct fixture {
    device *dev;
    model_config config;
    weights *files;
    trace trace;
    model *model;
    kv_cache *kv;
    stage *stage;
    float *x;
    step step;
    step_reply reply;
} fixture;

static bool open_fixture(fixture *f, device *dev) {
    char dir[4096];
    void *x = NULL;
    snprintf(dir, sizeof dir, "%s/tests/golden/models/llama3", harness_source_dir());
    *f = (fixture){.dev = dev};
    if (!CHECK_OK(model_config_load(dir, &f->config)) || !CHECK_OK(weights_open(dir, &f->files)))
        return false;
    const slice all = {0, f->config.n_layers, f->config.n_layers};
    const kv_shape shape = {
        .format = device_kv_format(dev, f->config.n_kv_heads, f->config.head_dim, PAGE_TOKENS),
        .n_layers = f->config.n_layers,
        .n_pages = 2 * N_SLOTS,
        .n_slots = N_SLOTS,
        .longest_tokens = 2 * PAGE_TOKENS,
        .max_rows = MAX_ROWS,
    };
    if (!CHECK_OK(model_open(&f->config, all, MAX_ROWS, f->files, dev, &f->trace, NULL, &f->model)) ||
        !CHECK_OK(kv_cache_open(dev, &shape, &f->kv)) ||
        !CHECK_OK(dev->ops->alloc(dev, MAX_ROWS * (size_t)f->config.d_model * sizeof(float), &x)))
        return false;
    f->x = x;
    f->stage =
        stage_open(&f->config, all, f->model, f->kv, &(evict_policy){0}, 0, N_SLOTS, MAX_ROWS, &f->trace);
    f->step = step_new(N_SLOTS, MAX_ROWS);
    f->reply = step_reply_new(N_SLOTS, MAX_ROWS);
    return true;
}

static void close_fixture(fixture *f) {
    step_reply_free(&f->reply);
    step_free(&f->step);
    stage_close(f->stage);
    f->dev->ops->release(f->dev, f->x);
    kv_cache_close(f->kv);
    model_close(f->model);
    weights_close(f->files);
}

/* A prompt of n_rows tokens in a fresh slot. */
static void add_prompt(fixture *f, int slot, int n_rows, span_want want, const sampling_options *o) {
    step *s = &f->step;
    s->starts[s->n_starts++] = (step_start){.slot = slot, .sequence_id = slot, .sampling = *o};
    s->spans[s->n_spans++] = (step_span){slot, n_rows, want, 0, false, false};
    for (int i = 0; i < n_rows; i++) {
        s->tokens[s->n_rows] = (s->n_rows * 7 + slot) % f->config.vocab_size;
        s->targets[s->n_rows++] = want == WANT_SCORES && i > 0 ? (3 * i) % f->config.vocab_size : NO_TARGET;
    }
}

/* Run the step; its copies are counted, and its slots free again. */
static void run(fixture *f) {
    n_copies = n_bytes = 0;
    CHECK_OK(stage_run(f->stage, &f->step, f->x, &f->reply));
    for (int i = 0; i < f->step.n_starts; i++)
        f->step.releases[f->step.n_releases++] = f->step.starts[i].slot;
    stage_release(f->stage, &f->step);
    step_clear(&f->step);
}

/* ---- tests ---- */

/* Three ways to choose that need the whole row, and the scores of a text. */
static void add_all(fixture *f, int64_t n_logprobs) {
    sampling_options likely = sampling_defaults(), unlike = likely, plain = likely;
    likely.temperature = unlike.temperature = plain.temperature = 0.8;
    likely.top_p = 0.9;
    likely.n_logprobs = n_logprobs;
    unlike.repetition_penalty = 1.3;
    add_prompt(f, 0, 3, WANT_TOKEN, &likely);
    add_prompt(f, 1, 5, WANT_TOKEN, &unlike);
    add_prompt(f, 2, 10, WANT_SCORES, &likely);
    add_prompt(f, 3, 2, WANT_TOKEN, &plain);
    add_prompt(f, 4, 4, WANT_LOGITS, &plain);
}

/* By row: a choice, and a score; k logits and ids where one row wants them. */
static void check_answers(fixture *f, bool on_device) {
    enum { ROWS = 9 + 3 + 1, CHOICE = sizeof(row_choice), SCORE = sizeof(float) };
    add_all(f, 0);
    run(f);
    CU_ASSERT(f->reply.n_choices == 3 && f->reply.n_scores == 9);
    CU_ASSERT(n_copies == (on_device ? 2 : 0) && n_bytes == (on_device ? ROWS * (CHOICE + SCORE) : 0));
    int32_t tokens[3];
    for (int i = 0; i < 3; i++) {
        tokens[i] = f->reply.choices[i].token;
        CU_ASSERT(tokens[i] >= 0 && tokens[i] < f->config.vocab_size && f->reply.choices[i].n_top == 0);
    }
    add_all(f, 2);
    run(f);
    CU_ASSERT(n_copies == (on_device ? 4 : 0) &&
              n_bytes == (on_device ? ROWS * (CHOICE + SCORE + 2 * 8) : 0));
    for (int i = 0; i < 3; i++)
        CU_ASSERT(f->reply.choices[i].token == tokens[i] && f->reply.choices[i].n_top == (i == 0 ? 2 : 0));
    CU_ASSERT(f->reply.choices[0].logprob < 0 && f->reply.choices[0].top_logprobs[0] < 0);
}

/* More rows than the head takes at once. */
static void check_many_scores(fixture *f, bool on_device) {
    sampling_options o = sampling_defaults();
    add_prompt(f, 0, MAX_ROWS, WANT_SCORES, &o);
    run(f);
    CU_ASSERT(f->reply.n_scores == MAX_ROWS - 1 && f->reply.n_choices == 0);
    CU_ASSERT(n_copies == (on_device ? 2 : 0) && n_bytes == (on_device ? (MAX_ROWS - 1) * 4 : 0));
}

/* The logits of a slot are those of a row of the last step, and reading them is one copy. */
static void check_kept_row(fixture *f, int slot, int32_t row) {
    const int32_t V = f->config.vocab_size;
    float *kept = mem_new((size_t)V, sizeof *kept), *direct = mem_new((size_t)V, sizeof *direct);
    const int64_t copies_before = n_copies, bytes_before = n_bytes;
    CU_ASSERT(stage_read_logits(f->stage, slot, kept) == STATUS_OK);
    CU_ASSERT(n_copies == copies_before + 1 && n_bytes == bytes_before + V * (int64_t)sizeof(float));
    CU_ASSERT(model_logits(f->model, f->x, &row, 1, direct) == STATUS_OK);
    CU_ASSERT(memcmp(kept, direct, (size_t)V * sizeof *kept) == 0);
    free(kept);
    free(direct);
}

/* The same tokens; the logits of the four sequences that are not scored are kept, and no others. None leaves
 * the device before it is read. */
static void check_kept(fixture *f, bool on_device) {
    add_all(f, 0);
    run(f);
    CU_ASSERT(!stage_has_logits(f->stage, 0, 2));
    const int32_t token = f->reply.choices[1].token;
    CU_ASSERT(stage_keep_logits(f->stage) == STATUS_OK);
    add_all(f, 0);
    const int64_t bytes_before = n_bytes;
    run(f);
    CU_ASSERT(f->reply.choices[1].token == token);
    CU_ASSERT(n_copies == (on_device ? 2 : 0) && n_bytes == bytes_before);
    const int last[] = {2, 4, 9, 1, 3}, row[] = {2, 7, 17, 19, 23};
    for (int slot = 0; slot < N_SLOTS; slot++) {
        CU_ASSERT(stage_has_logits(f->stage, slot, last[slot]) == (slot != 2));
        if (slot != 2) check_kept_row(f, slot, row[slot]);
    }
    CU_ASSERT(!stage_has_logits(f->stage, 0, 1));
}

static void check_stage(const tested *t) {
    fixture f;
    const bool on_device = !t->dev->host_memory;
    count_copies(t->dev);
    if (open_fixture(&f, t->dev)) {
        check_answers(&f, on_device);
        check_many_scores(&f, on_device);
        check_kept(&f, on_device);
    }
    close_fixture(&f);
    t->dev->ops = counted;
}

static void what_is_copied(void) {
    for_each_kind(check_stage);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"what is copied", what_is_copied}, CU_TEST_INFO_NULL};
    return harness_run(&argc, &argv, "stage", tests);
}
