/* tests/engine/test_load_race.c: computing from the front and loading from the back, on simulated clocks: in
 * every trace of a link's speed hardly later than what would have been best, had one known. */
#include <math.h>

#include "src/engine/load_race.h"
#include "tests/fixtures/harness.h"

enum { BLOCK = 512, CHUNK = 512 };

/* A link, in tokens a second, and the model's steps. */
typedef struct scene {
    double (*speed)(double seconds, double base);
    double base;
    int64_t n_tokens;
    double seconds_per_row, seconds_per_step, growth; /* of a row: x (1 + growth at the last position) */
    double usual;                                     /* of a row, as it was once */
} scene;

static double steady(double t, double base) {
    (void)t;
    return base;
}
static double step_down(double t, double base) {
    return t < 1 ? base : base / 10;
}
static double step_up(double t, double base) {
    return t < 1 ? base / 10 : base;
}
static double saw(double t, double base) {
    return base * (0.2 + 0.8 * fmod(t, 1));
}
static double recovers(double t, double base) {
    return t > 0.5 && t < 2 ? base / 10 : base;
}

static double step_seconds(const scene *s, int64_t pos, int64_t n_rows) {
    const double middle = ((double)pos + (double)n_rows / 2) / (double)s->n_tokens;
    return s->seconds_per_step + (double)n_rows * s->seconds_per_row * (1 + s->growth * middle);
}

/* When a load of so many tokens ends that begins then. */
static double load_end(const scene *s, double begin, double n_tokens) {
    static const double tick = 1e-4;
    while (n_tokens > 0) {
        n_tokens -= tick * s->speed(begin, s->base);
        begin += tick;
    }
    return begin;
}

static double compute_all(const scene *s) {
    double seconds = 0;
    for (int64_t pos = 0; pos < s->n_tokens; pos += CHUNK)
        seconds += step_seconds(s, pos, s->n_tokens - pos < CHUNK ? s->n_tokens - pos : CHUNK);
    return seconds;
}

/* The best of all numbers of blocks to load, the rest computed, both from the begin. */
static double best_split(const scene *s) {
    double best = compute_all(s);
    for (int64_t edge = s->n_tokens; edge > 0;) {
        edge = edge > BLOCK ? edge - BLOCK : 0;
        double computed = 0;
        for (int64_t pos = 0; pos < edge; pos += CHUNK)
            computed += step_seconds(s, pos, edge - pos < CHUNK ? edge - pos : CHUNK);
        best = fmin(best, fmax(computed, load_end(s, 0, (double)(s->n_tokens - edge))));
    }
    return best;
}

/* What load_race decides, as the engine asks it: again and again, one step at a time. */
static double run(const scene *s, load_race *r) {
    double now = 0, step_end = -1, per_row = 0;
    int rows = 0;
    int64_t block = s->n_tokens < BLOCK ? s->n_tokens : BLOCK;
    double block_end = load_end(s, 0, (double)block);
    *r = load_race_begin(s->n_tokens, s->usual, 0);
    for (;; now += 1e-3) {
        while (block > 0 && block_end <= now) {
            load_race_move(r, r->edge - block, block_end);
            block = r->edge < BLOCK ? r->edge : BLOCK;
            if (block > 0) block_end = load_end(s, block_end, (double)block);
        }
        if (rows > 0 && step_end <= now) {
            if (rows >= 16) per_row = step_seconds(s, r->n_computed - rows, rows) / rows;
            rows = 0;
        }
        if (r->n_computed >= r->edge && rows == 0) return now;
        if (rows > 0) continue;
        rows = load_race_rows(r, now, per_row, 0, CHUNK);
        CU_ASSERT(rows >= 0 && rows <= CHUNK && r->n_computed + rows <= r->edge);
        if (rows > 0) step_end = now + step_seconds(s, r->n_computed, rows);
        r->n_computed += rows;
    }
}

/* A step that was begun before the link became faster is waited for. */
static const double step_in_vain = 0.1;

static void check_trace(const scene *s, const char *what, double *beside_split) {
    load_race r;
    const double load = load_end(s, 0, (double)s->n_tokens), compute = compute_all(s), split = best_split(s);
    const double seconds = run(s, &r), best = fmin(load, compute);
    *beside_split = seconds / split - 1;
    CU_ASSERT(seconds <= 1.1 * best + step_in_vain);
    if (seconds > 1.1 * best + step_in_vain)
        printf(
            "%s, %.0f tokens/s: load %.3f s, compute %.3f s, split %.3f s, was %.3f s with %lld computed\n",
            what, s->base, load, compute, split, seconds, (long long)r.n_computed);
}

/* At most 10% over the better of loading all and computing all; and mostly better than both, as the two go on
 * at once. */
static void test_traces(void) {
    static const struct {
        const char *name;
        double (*speed)(double, double);
    } traces[] = {{"steady", steady},
                  {"step down", step_down},
                  {"step up", step_up},
                  {"saw", saw},
                  {"recovers", recovers}};
    static const double speeds[] = {100, 300, 1000, 3000, 10000, 100000};
    double sum = 0;
    int n = 0;
    for (size_t i = 0; i < sizeof traces / sizeof *traces; i++)
        for (size_t k = 0; k < sizeof speeds / sizeof *speeds; k++)
            for (int growth = 0; growth < 3; growth++) {
                const scene s = {traces[i].speed, speeds[k], 8192, 1e-3, 5e-3, growth, 0};
                double beside_split;
                check_trace(&s, traces[i].name, &beside_split);
                sum += beside_split;
                n++;
            }
    printf("over the best split that one could have known: %.1f%% on average\n", 100 * sum / n);
    CU_ASSERT(sum / n < 0.1);
}

/* Where loading is quick, nothing is computed, not even for a trial. */
static void test_quick(void) {
    load_race r;
    const scene s = {steady, 100000, 8192, 1e-3, 5e-3, 1, 0};
    run(&s, &r);
    CU_ASSERT_EQUAL(r.n_computed, 0);
}

/* Where computing was slow, it is tried only where loading takes much longer than a trial. */
static void test_slow_computing(void) {
    load_race r;
    scene s = {steady, 4000, 8192, 10e-3, 5e-3, 0, 10e-3};
    const double load = load_end(&s, 0, (double)s.n_tokens);
    CU_ASSERT(run(&s, &r) < 1.01 * load);
    CU_ASSERT_EQUAL(r.n_computed, 0);
    s.base = 200;
    CU_ASSERT(run(&s, &r) < 0.75 * load_end(&s, 0, (double)s.n_tokens));
    s.seconds_per_row = 1e-3; /* but it is fast now */
    CU_ASSERT(run(&s, &r) < 1.15 * best_split(&s));
}

/* Where computing was fast, a slow link is soon left alone. */
static void test_short(void) {
    load_race r;
    const scene s = {steady, 300, 400, 0.3e-3, 2e-3, 0, 0.3e-3};
    CU_ASSERT(run(&s, &r) < compute_all(&s) + 0.1);
}

/* Where no more comes, all that is left is computed. */
static void test_stuck(void) {
    load_race r = load_race_begin(3000, 0, 0);
    load_race_move(&r, 2000, 1);
    CU_ASSERT_EQUAL(load_race_rows(&r, 1.001, 1, 0, CHUNK), 0);
    r.is_stuck = true;
    CU_ASSERT_EQUAL(load_race_rows(&r, 1.001, 1, 0, CHUNK), CHUNK);
    r.n_computed = 1990;
    CU_ASSERT_EQUAL(load_race_rows(&r, 1.001, 0, 0, CHUNK), 10);
    r.n_computed = 2000;
    CU_ASSERT_EQUAL(load_race_rows(&r, 1.001, 0, 0, CHUNK), 0);
}

static void test_meeting(void) {
    CU_ASSERT_DOUBLE_EQUAL(load_race_seconds_to_meet(10, 1000, 0), 10, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(load_race_seconds_to_meet(10, 1000, 100), 5, 1e-9); /* as fast as loading */
    CU_ASSERT_DOUBLE_EQUAL(load_race_seconds_to_meet(10, 1000, 300), 2.5, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(load_race_seconds_to_meet(0, 1000, 300), 0, 1e-9);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"traces of a link", test_traces},
        {"a quick link", test_quick},
        {"slow computing", test_slow_computing},
        {"a short load", test_short},
        {"a load that fails", test_stuck},
        {"where they meet", test_meeting},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "load_race", tests);
}
