/* tests/model/test_partition.c: layers to ranks against all ways to divide them, and the plan of bytes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/model/partition.h"
#include "src/model/plan.h"
#include "tests/fixtures/harness.h"

enum { MAX_LAYERS = 9 };

static const double mib = 1024.0 * 1024;

static int64_t pick(uint64_t *state, int64_t n) {
    return (int64_t)(harness_random(state) % (uint64_t)n);
}

/* ---- all partitions of a small problem ---- */

typedef struct best {
    double slowest, squares; /* of the best that fits; infinite when none does */
    uint64_t least_bytes;    /* of the largest rank, in the partition where that is smallest */
} best;

typedef struct measures {
    double slowest, squares;
    uint64_t bytes;
} measures;

static partition_load stage_of(const partition_problem *p, int first, int last) {
    bool embeds = first == 0, has_head = last == p->n_layers;
    partition_load stage = {
        (embeds ? p->first.cost : 0) + (has_head ? p->last.cost : 0),
        p->every_bytes + (embeds && has_head ? p->both_bytes
                          : embeds           ? p->first.bytes
                          : has_head         ? p->last.bytes
                                             : 0),
    };
    for (int l = first; l < last; l++) {
        stage.cost += p->layers[l].cost;
        stage.bytes += p->layers[l].bytes;
    }
    return stage;
}

static measures measure(const partition_problem *p, const int *bounds) {
    measures m = {0};
    for (int s = 0; s < p->n_ranks; s++) {
        partition_load want = stage_of(p, bounds[s], bounds[s + 1]);
        partition_load stage = partition_stage(p, bounds[s], bounds[s + 1]);
        CU_ASSERT(stage.cost == want.cost && stage.bytes == want.bytes);
        m.slowest = fmax(m.slowest, want.cost);
        m.squares += want.cost * want.cost;
        if (want.bytes > m.bytes) m.bytes = want.bytes;
    }
    return m;
}

static void try_all(const partition_problem *p, int stage, int *bounds, best *out) {
    if (stage < p->n_ranks - 1) {
        for (bounds[stage + 1] = bounds[stage] + 1; bounds[stage + 1] < p->n_layers; bounds[stage + 1]++)
            try_all(p, stage + 1, bounds, out);
        return;
    }
    bounds[p->n_ranks] = p->n_layers;
    measures m = measure(p, bounds);
    if (m.bytes < out->least_bytes) out->least_bytes = m.bytes;
    if (p->rank_bytes && m.bytes > p->rank_bytes) return;
    if (m.slowest > out->slowest || (m.slowest == out->slowest && m.squares >= out->squares)) return;
    out->slowest = m.slowest;
    out->squares = m.squares;
}

static best search(const partition_problem *p) {
    int bounds[MAX_LAYERS + 1] = {0};
    best b = {INFINITY, INFINITY, UINT64_MAX};
    try_all(p, 0, bounds, &b);
    return b;
}

typedef struct problem {
    partition_problem p; /* whose layers are ... */
    partition_load layers[MAX_LAYERS];
} problem;

/* Whole numbers, so that all sums are exact. The layers are alike in every second problem. */
static void make_problem(uint64_t *state, problem *out) {
    int n_layers = 1 + (int)pick(state, MAX_LAYERS);
    bool alike = pick(state, 2);
    *out = (problem){.p = {
                         .n_layers = n_layers,
                         .n_ranks = 1 + (int)pick(state, n_layers),
                         .layers = out->layers,
                         .first = {(double)(pick(state, 2) * pick(state, 20)), (uint64_t)pick(state, 20)},
                         .last = {(double)(pick(state, 2) * pick(state, 40)), (uint64_t)pick(state, 20)},
                         .every_bytes = (uint64_t)pick(state, 5),
                     }};
    for (int l = 0; l < n_layers; l++)
        out->layers[l] = l && alike
                             ? out->layers[0]
                             : (partition_load){(double)(1 + pick(state, 10)), 1 + (uint64_t)pick(state, 10)};
    out->p.both_bytes = out->p.first.bytes + (pick(state, 2) ? 0 : out->p.last.bytes);
    if (pick(state, 3)) out->p.rank_bytes = 1 + (uint64_t)pick(state, 60);
}

static bool layers_differ(const partition_problem *p) {
    for (int l = 1; l < p->n_layers; l++)
        if (p->layers[l].cost != p->layers[0].cost) return true;
    return false;
}

static void best_of_all_partitions(void) {
    uint64_t state = 1;
    int n_refused = 0, n_bound = 0, n_uneven = 0;
    for (int round = 0; round < 3000; round++) {
        problem made;
        make_problem(&state, &made);
        partition_problem p = made.p, free_of_bounds = p;
        free_of_bounds.rank_bytes = 0;
        best b = search(&p);
        int bounds[MAX_LAYERS + 1];
        if (isinf(b.slowest)) {
            CHECK_REFUSED(partition_layers(&p, bounds), "does not fit");
            n_refused++;
            continue;
        }
        CHECK_OK(partition_layers(&p, bounds));
        CU_ASSERT(bounds[0] == 0 && bounds[p.n_ranks] == p.n_layers);
        for (int s = 0; s < p.n_ranks; s++)
            CU_ASSERT(bounds[s] < bounds[s + 1]);
        measures m = measure(&p, bounds);
        CU_ASSERT(m.slowest == b.slowest && m.squares == b.squares);
        CU_ASSERT(p.rank_bytes == 0 || m.bytes <= p.rank_bytes);
        n_bound += search(&free_of_bounds).slowest < b.slowest;
        n_uneven += p.n_ranks > 1 && layers_differ(&p);
    }
    CU_ASSERT(n_refused > 100 && n_bound > 20 && n_uneven > 500); /* bounds and layers mattered */
}

/* The refusal's number is what makes it fit, and one byte less does not. */
static void refusal_names_what_would_fit(void) {
    uint64_t state = 2;
    for (int round = 0; round < 500; round++) {
        problem made;
        make_problem(&state, &made);
        partition_problem p = made.p;
        int bounds[MAX_LAYERS + 1];
        p.rank_bytes = search(&p).least_bytes;
        CHECK_OK(partition_layers(&p, bounds));
        p.rank_bytes--;
        p.bound_by = "as told";
        if (p.rank_bytes) CHECK_REFUSED(partition_layers(&p, bounds), "start more ranks");
    }
    partition_load layers[4];
    for (int l = 0; l < 4; l++)
        layers[l] = (partition_load){1, 5ull << 30};
    partition_problem p = {
        .n_layers = 4, .n_ranks = 2, .layers = layers, .rank_bytes = 1, .bound_by = "as told"};
    int bounds[MAX_LAYERS + 1];
    CHECK_REFUSED(partition_layers(&p, bounds), "10240.0 MiB");
    CU_ASSERT_PTR_NOT_NULL(strstr(status_text(), "a rank may take 0.1 MiB, as told, but"));
    p.first.bytes = p.both_bytes = 1ull << 30;
    CHECK_REFUSED(partition_layers(&p, bounds), "11264.0 MiB");
    p.n_ranks = 1;
    p.last.bytes = 1ull << 30; /* tied: once */
    CHECK_REFUSED(partition_layers(&p, bounds), "21504.0 MiB");
}

static void more_ranks_than_layers(void) {
    const partition_load layers[4] = {{1, 0}, {1, 0}, {1, 0}, {1, 0}};
    partition_problem p = {.n_layers = 4, .n_ranks = 5, .layers = layers};
    int bounds[6];
    CHECK_REFUSED(partition_layers(&p, bounds), "5 ranks are more than the model's 4 layers");
    p.n_ranks = 4;
    CHECK_OK(partition_layers(&p, bounds));
    CU_ASSERT(bounds[0] == 0 && bounds[1] == 1 && bounds[2] == 2 && bounds[3] == 3 && bounds[4] == 4);
}

static void large_models(void) {
    static partition_load layers[1024];
    int bounds[1025];
    for (int l = 0; l < 1024; l++)
        layers[l].cost = 1;
    partition_problem p = {.n_layers = 126, .n_ranks = 16, .layers = layers, .last = {.cost = 2.5}};
    CHECK_OK(partition_layers(&p, bounds));
    for (int s = 0; s < 15; s++)
        CU_ASSERT(bounds[s + 1] - bounds[s] == 8);
    CU_ASSERT(bounds[16] - bounds[15] == 6);
    for (int l = 0; l < 1024; l++)
        layers[l].cost = 0.1;
    p = (partition_problem){.n_layers = 1024, .n_ranks = 64, .layers = layers};
    CHECK_OK(partition_layers(&p, bounds));
    for (int s = 0; s < 64; s++)
        CU_ASSERT(bounds[s + 1] - bounds[s] == 16);
}

static void lists(void) {
    int bounds[5] = {0, 0, 0, 0, 77}; /* the last is not theirs */
    CHECK_OK(partition_from_list("10,12,10", 32, 3, bounds));
    CU_ASSERT(bounds[0] == 0 && bounds[1] == 10 && bounds[2] == 22 && bounds[3] == 32);
    CHECK_OK(partition_from_list("32", 32, 1, bounds));
    CU_ASSERT(bounds[1] == 32);
    static const char *const malformed[] = {
        "",           ",",         "10,",    ",10",     "10,,12,10",
        "10;12;10",   "ten",       "10 12",  "0,22,10", "-1,23,10",
        "33",         "10,12,10x", "1e1,22", "0x0A,22", "99999999999999999999",
        "10,12,10,0", "10.5,21.5"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        CHECK_REFUSED(partition_from_list(malformed[i], 32, 3, bounds), "--layers-per-rank");
        CU_ASSERT(malformed[i][0] == '\0' || strstr(status_text(), malformed[i]) != NULL);
    }
    static const char *const unfit[] = {"10,12",     "10,12,9", "10,12,11", "8,8,8,8",
                                        "1,1,1,1,1", "16,16",   "32",       "32,32,32"};
    for (size_t i = 0; i < sizeof unfit / sizeof *unfit; i++)
        CHECK_REFUSED(partition_from_list(unfit[i], 32, 3, bounds), "each of the 3 ranks, 32 layers in all");
    CU_ASSERT(bounds[4] == 77);
}

/* ---- plans ---- */

/* Like Llama-3.2-1B. */
static model_config make_config(bool tied) {
    return (model_config){
        .n_layers = 16,
        .d_model = 2048,
        .n_heads = 32,
        .n_kv_heads = 8,
        .head_dim = 64,
        .d_mlp = 8192,
        .vocab_size = 128256,
        .tied_head = tied,
        .max_positions = 8192,
    };
}

static sizing make_sizing(void) {
    return (sizing){
        .chunk_tokens = 512,
        .page_tokens = 64,
        .n_sequences = 4,
        .longest_tokens = 4096,
        .wanted_pages = 4 * 64,
        .bound = plan_bound_asked(0),
        .head_share = 0.5,
    };
}

static uint64_t sum_weights(const plan *p) {
    uint64_t sum = 0;
    for (int i = 0; i < p->n_ranks; i++)
        sum += p->ranks[i].weight_bytes;
    return sum;
}

static void check_sums(const model_config *c, const sizing *s, const plan *p) {
    uint64_t page = 2ull * (unsigned)c->n_kv_heads * (unsigned)c->head_dim * (unsigned)s->page_tokens *
                    (s->precision == PRECISION_F32 ? 4 : 2);
    double cost = 0;
    CU_ASSERT(p->ranks[0].slice.first_layer == 0);
    for (int i = 0; i < p->n_ranks; i++) {
        const plan_rank *k = &p->ranks[i];
        int n_layers = k->slice.last_layer - k->slice.first_layer;
        CU_ASSERT(k->slice.last_layer ==
                  (i + 1 < p->n_ranks ? p->ranks[i + 1].slice.first_layer : c->n_layers));
        CU_ASSERT(k->slice.n_layers == c->n_layers && n_layers > 0);
        CU_ASSERT(k->weight_bytes == model_weight_bytes(c, k->slice, s->precision));
        CU_ASSERT(k->kv_bytes == (uint64_t)n_layers * (uint64_t)p->n_pages * page);
        CU_ASSERT(k->workspace_bytes ==
                  model_workspace_bytes(c, k->slice, s->precision, s->chunk_tokens) +
                      (s->saves && i == p->n_ranks - 1 ? (4ull + (unsigned)p->n_held) * (4ull * 128256) : 0));
        /* Three slots, and as much that MPI may hold. */
        CU_ASSERT(k->transfer_bytes == (p->n_ranks > 1 ? 6ull : 3ull) * (unsigned)s->chunk_tokens *
                                           (unsigned)c->d_model * sizeof(float));
        CU_ASSERT(k->host_bytes == s->host_bytes + (uint64_t)n_layers * s->host_layer_bytes);
        CU_ASSERT(k->total_bytes == k->weight_bytes + k->kv_bytes + k->workspace_bytes + k->transfer_bytes +
                                        k->host_bytes + ((uint64_t)PLAN_PROCESS_MIB << 20));
        CU_ASSERT(s->bound.bytes == 0 || k->total_bytes <= s->bound.bytes);
        cost += k->cost;
    }
    CU_ASSERT(fabs(cost - p->n_ranks) < 1e-9);
}

static void sums_of_a_plan(void) {
    model_config config = make_config(false);
    for (int n_ranks = 1; n_ranks <= 16; n_ranks++) {
        sizing s = make_sizing();
        s.precision = n_ranks % 2 ? PRECISION_BF16 : PRECISION_F32;
        s.saves = n_ranks % 3 == 0; /* the logits of 4 sequences stay on the last rank */
        s.host_layer_bytes = n_ranks % 4 == 0 ? 3000001 : 0;
        s.host_bytes = n_ranks % 5 == 0 ? 7000001 : 0;
        plan p;
        CHECK_OK(plan_make(&config, &s, n_ranks, &p));
        CU_ASSERT(p.n_ranks == n_ranks && p.n_pages == s.wanted_pages);
        check_sums(&config, &s, &p);
        plan_free(&p);
    }
    /* 1.24e9 parameters and the head's 0.26e9, 2 bytes each: the published size of the model. */
    sizing s = make_sizing();
    plan p;
    CHECK_OK(plan_make(&config, &s, 1, &p));
    CU_ASSERT(fabs((double)p.ranks[0].weight_bytes / (2 * (1235814400.0 + 2048.0 * 128256)) - 1) < 0.01);
    plan_free(&p);
}

/* The table is there once on one rank, and on the first and the last of several. */
static void tied_heads(void) {
    model_config tied = make_config(true), untied = make_config(false);
    uint64_t table = device_matrix_bytes(PRECISION_BF16, tied.vocab_size, tied.d_model), one[2];
    for (int n_ranks = 1; n_ranks <= 4; n_ranks++) {
        const sizing s = make_sizing();
        plan p, q;
        CHECK_OK(plan_make(&tied, &s, n_ranks, &p));
        CHECK_OK(plan_make(&untied, &s, n_ranks, &q));
        if (n_ranks == 1) one[0] = sum_weights(&p), one[1] = sum_weights(&q);
        CU_ASSERT(sum_weights(&p) == one[0] + (n_ranks > 1 ? table : 0));
        CU_ASSERT(sum_weights(&q) == one[1]);
        CU_ASSERT(one[1] - one[0] == table);
        plan_free(&p);
        plan_free(&q);
    }
}

/* Exactly what the largest rank takes with one sequence is enough, and one byte less is not. */
static void a_bound_is_exact(void) {
    static const char *const lists[] = {NULL, "16", "4,12", "12,4", "10,3,3", "3,3,10"};
    for (int tied = 0; tied < 2; tied++) {
        for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
            model_config config = make_config(tied);
            const int n_ranks = i < 2 ? 1 : i < 4 ? 2 : 3;
            sizing s = make_sizing();
            plan p;
            s.layers_per_rank = lists[i];
            s.saves = tied;
            s.wanted_pages = 0; /* at least the longest sequence */
            s.host_layer_bytes = tied ? 50000001 : 0;
            s.host_bytes = tied ? 20000001 : 0;
            CHECK_OK(plan_make(&config, &s, n_ranks, &p));
            CU_ASSERT(p.n_pages == 64);
            for (int k = 0; k < n_ranks; k++)
                if (p.ranks[k].total_bytes > s.bound.bytes) s.bound.bytes = p.ranks[k].total_bytes;
            plan_free(&p);
            CHECK_OK(plan_make(&config, &s, n_ranks, &p));
            CU_ASSERT(p.n_pages == 64);
            plan_free(&p);
            s.bound.bytes--;
            CHECK_REFUSED(plan_make(&config, &s, n_ranks, &p), "--memory-per-rank");
        }
    }
}

/* Layers move for what the command keeps of them. */
static void host_bytes_move_layers(void) {
    model_config config = make_config(false);
    sizing s = make_sizing();
    plan p, bounded;
    s.head_share = 1;
    s.wanted_pages = 0;
    s.host_layer_bytes = 1 << 30; /* more than all else */
    s.host_bytes = 1 << 20;
    CHECK_OK(plan_make(&config, &s, 2, &p));
    s.bound.bytes = p.ranks[0].total_bytes - 1;
    CHECK_OK(plan_make(&config, &s, 2, &bounded));
    CU_ASSERT(p.ranks[0].slice.last_layer > 9);
    CU_ASSERT(bounded.ranks[0].slice.last_layer == p.ranks[0].slice.last_layer - 1);
    plan_free(&p);
    plan_free(&bounded);
}

/* Beside a GPU, what the command keeps takes nothing of its memory, but must fit the host's: with 5 and 11
 * layers exactly what the second rank takes is enough, and one byte less is not. */
static void host_memory(void) {
    model_config config = make_config(false);
    sizing s = make_sizing();
    plan without, p;
    s.layers_per_rank = "5,11";
    CHECK_OK(plan_make(&config, &s, 2, &without));
    s.host_layer_bytes = 50000001;
    s.host_bytes = 20000001;
    s.bound.bytes = without.ranks[0].total_bytes > without.ranks[1].total_bytes
                        ? without.ranks[0].total_bytes
                        : without.ranks[1].total_bytes;
    plan_bound host = {((uint64_t)PLAN_PROCESS_MIB << 20) + 20000001 + 11 * 50000001ull, "as the host says"};
    CHECK_OK(plan_make_beside(&config, &s, 2, &host, &p));
    for (int i = 0; i < 2; i++) {
        CU_ASSERT(p.ranks[i].total_bytes == without.ranks[i].total_bytes);
        CU_ASSERT(p.ranks[i].host_bytes == 20000001 + (i ? 11 : 5) * 50000001ull);
    }
    plan_free(&p);
    plan_free(&without);
    host.bytes--;
    CHECK_REFUSED(plan_make_beside(&config, &s, 2, &host, &p),
                  "of host memory, as the host says, but needs ");
    CU_ASSERT(strstr(status_text(), "rank 1 may take") && strstr(status_text(), "for layers 5 to 15"));
    host.bytes = 0; /* none is known */
    CHECK_OK(plan_make_beside(&config, &s, 2, &host, &p));
    plan_free(&p);
}

/* A head that most rows pass takes layers from the last rank. */
static void head_share_moves_layers(void) {
    model_config config = make_config(false);
    int last[2];
    for (int k = 0; k < 2; k++) {
        sizing s = make_sizing();
        s.head_share = k;
        plan p;
        CHECK_OK(plan_make(&config, &s, 4, &p));
        last[k] = p.ranks[3].slice.last_layer - p.ranks[3].slice.first_layer;
        plan_free(&p);
    }
    CU_ASSERT(last[0] == 4 && last[1] == 1);
}

/* The number before " MiB" behind this part of the last refusal. */
static double told_mib(const char *part) {
    const char *at = strstr(status_text(), part);
    double value = -1;
    CU_ASSERT(at && sscanf(at + strlen(part), "%lf MiB", &value) == 1);
    return value;
}

/* It is refused; *field becomes what would do, as told behind this part of the text. */
static void take_least(const model_config *c, const sizing *s, int n_ranks, uint64_t *field,
                       const char *part) {
    plan p;
    CHECK_REFUSED(plan_make(c, s, n_ranks, &p), part);
    *field = (uint64_t)(told_mib(part) * mib);
}

static void kv_memory(void) {
    model_config config = make_config(false);
    sizing s = make_sizing(), small = s;
    plan p;
    s.kv_bytes_per_rank = 200ull << 20;
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.n_pages >= 64 && p.n_pages < s.wanted_pages);
    for (int i = 0; i < 2; i++)
        CU_ASSERT(p.ranks[i].kv_bytes <= s.kv_bytes_per_rank);
    check_sums(&config, &s, &p);
    plan_free(&p);

    small.kv_bytes_per_rank = 1 << 20;
    CHECK_REFUSED(plan_make(&config, &small, 2, &p), "--kv-memory 1.0 MiB");
    CU_ASSERT(strstr(status_text(), "raise --kv-memory") && strstr(status_text(), "start more ranks"));
    take_least(&config, &small, 2, &small.kv_bytes_per_rank, "needs ");
    CHECK_OK(plan_make(&config, &small, 2, &p));
    CU_ASSERT(p.n_pages == 64);
    plan_free(&p);
    small.kv_bytes_per_rank -= (uint64_t)(0.2 * mib);
    CHECK_REFUSED(plan_make(&config, &small, 2, &p), "--kv-memory");

    small.longest_tokens = 64; /* one page of 128 KiB on each layer */
    small.wanted_pages = 5;
    small.layers_per_rank = "2,14";
    for (int64_t n = 1; n <= 6; n++) {
        small.kv_bytes_per_rank = (uint64_t)n * 14 * (128 << 10);
        CHECK_OK(plan_make(&config, &small, 2, &p));
        CU_ASSERT(p.n_pages == (n < 5 ? n : 5) && p.n_room_pages == n);
        plan_free(&p);
        small.kv_bytes_per_rank--;
        if (n == 1) CHECK_REFUSED(plan_make(&config, &small, 2, &p), "holds 0 tokens");
        if (n == 1) continue;
        CHECK_OK(plan_make(&config, &small, 2, &p));
        CU_ASSERT(p.n_room_pages == n - 1);
        plan_free(&p);
    }

    s.layers_per_rank = "2,14"; /* the rank with the most layers has the fewest pages */
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.ranks[1].kv_bytes <= s.kv_bytes_per_rank);
    plan_free(&p);
}

static void memory_bound(void) {
    model_config config = make_config(false);
    sizing s = make_sizing(), small = s;
    plan free_plan, p;
    CHECK_OK(plan_make(&config, &s, 3, &free_plan));
    uint64_t most = 0;
    for (int i = 0; i < 3; i++)
        if (free_plan.ranks[i].total_bytes > most) most = free_plan.ranks[i].total_bytes;
    plan_free(&free_plan);
    s.bound.bytes = most - (32u << 20); /* fewer pages, or other layers */
    CHECK_OK(plan_make(&config, &s, 3, &p));
    CU_ASSERT(p.n_pages >= 64);
    check_sums(&config, &s, &p);
    plan_free(&p);

    small.bound.bytes = 100 << 20;
    take_least(&config, &small, 3, &small.bound.bytes, "at least ");
    CHECK_OK(plan_make(&config, &small, 3, &p));
    check_sums(&config, &small, &p);
    plan_free(&p);
    small.bound.bytes -= (uint64_t)(0.2 * mib);
    CHECK_REFUSED(plan_make(&config, &small, 3, &p), "does not fit");
    CU_ASSERT(strstr(status_text(), "start more ranks") && strstr(status_text(), "--memory-per-rank"));
}

/* With layers as the user said, the rank that does not fit is named. */
static void memory_bound_with_a_list(void) {
    model_config config = make_config(false);
    sizing s = make_sizing();
    plan p;
    s.layers_per_rank = "2,14";
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.ranks[0].slice.last_layer == 2);
    s.bound.bytes = p.ranks[1].weight_bytes;
    plan_free(&p);
    CHECK_REFUSED(plan_make(&config, &s, 2, &p), "rank 1 may take");
    CU_ASSERT(strstr(status_text(), "layers 2 to 15") != NULL);
    take_least(&config, &s, 2, &s.bound.bytes, "needs ");
    CHECK_OK(plan_make(&config, &s, 2, &p));
    check_sums(&config, &s, &p);
    plan_free(&p);
    s.layers_per_rank = "2,15";
    CHECK_REFUSED(plan_make(&config, &s, 2, &p), "--layers-per-rank 2,15");
    s.layers_per_rank = NULL;
    CHECK_REFUSED(plan_make(&config, &s, 17, &p), "17 ranks are more than the model's 16 layers");
}

/* Contexts that wait for a save have pages and logits beside the others', as far as there is room for them
 * and they are worth it. */
static void held_contexts(void) {
    model_config config = make_config(false);
    sizing s = make_sizing();
    plan p;
    s.saves = true;
    s.n_held = 100;
    s.held_pages = 2.5;
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.n_held == 100 && p.n_pages == s.wanted_pages + 250);
    check_sums(&config, &s, &p);
    for (int i = 0; i < 2; i++)
        if (p.ranks[i].total_bytes > s.bound.bytes) s.bound.bytes = p.ranks[i].total_bytes;
    plan_free(&p);
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.n_held == 100);
    plan_free(&p);
    s.bound.bytes--;
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.n_held == 50 && p.n_pages == s.wanted_pages + 125);
    check_sums(&config, &s, &p);
    plan_free(&p);

    s.bound.bytes = 0;
    s.n_held = 4096; /* more logits than 256 MB */
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.n_held == 256000000 / (4 * 128256));
    plan_free(&p);
    s.held_pages = 100; /* of 2 MiB each: more pages than 4 GB */
    CHECK_OK(plan_make(&config, &s, 2, &p));
    CU_ASSERT(p.n_held == 19);
    plan_free(&p);
}

/* No sum overflows, and page numbers stay within their type. */
static void longest_contexts(void) {
    model_config config = make_config(false);
    sizing s = make_sizing();
    plan p;
    s.page_tokens = 1024;
    s.longest_tokens = (int64_t)1 << 30;
    s.wanted_pages = 65536 * ((int64_t)1 << 30);
    s.bound.bytes = 1ull << 40;
    CHECK_REFUSED(plan_make(&config, &s, 1, &p), "at least ");
    CU_ASSERT(told_mib("at least ") > (double)s.longest_tokens * 32768 / mib);
    s.bound.bytes = 0;
    CHECK_OK(plan_make(&config, &s, 1, &p));
    CU_ASSERT(p.n_pages == PLAN_MOST_PAGES &&
              p.ranks[0].kv_bytes == (uint64_t)PLAN_MOST_PAGES * 1024 * 32768);
    plan_free(&p);
    s.page_tokens = 256;
    CHECK_REFUSED(plan_make(&config, &s, 1, &p), "--page-tokens");
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"best of all partitions", best_of_all_partitions},
        {"refusal names what would fit", refusal_names_what_would_fit},
        {"more ranks than layers", more_ranks_than_layers},
        {"large models", large_models},
        {"lists", lists},
        {"sums of a plan", sums_of_a_plan},
        {"tied heads", tied_heads},
        {"a bound is exact", a_bound_is_exact},
        {"host bytes move layers", host_bytes_move_layers},
        {"host memory", host_memory},
        {"head share moves layers", head_share_moves_layers},
        {"kv memory", kv_memory},
        {"memory bound", memory_bound},
        {"memory bound with a list", memory_bound_with_a_list},
        {"held contexts", held_contexts},
        {"longest contexts", longest_contexts},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "partition", tests);
}
