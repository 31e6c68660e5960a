/* tests/timing/test_simulate.c: simulations whose times can be worked out by hand. Seconds here are whole
 * numbers, so that all sums are exact. */
#include <math.h>
#include <string.h>

#include "src/study/simulate.h"
#include "tests/fixtures/harness.h"

enum { MAX_STAGES = 64 };

static int ones[MAX_STAGES];
static const link_speed no_link = {1e300, 0};

/* Stages of one layer each, which take 1 second a row, and links that take none. */
static simulation begin(int n_stages, int64_t n_prompt, int chunk_tokens) {
    for (int i = 0; i < MAX_STAGES; i++)
        ones[i] = 1;
    return (simulation){
        .n_stages = n_stages,
        .n_layers = ones,
        .stages_per_node = MAX_STAGES,
        .within_node = no_link,
        .between_nodes = no_link,
        .costs = {.prefill = {0, 0, 1, 0}, .decode = {0, 0, 1, 0}},
        .row_bytes = 1,
        .chunk_tokens = chunk_tokens,
        .n_sequences = 1,
        .n_prompt = n_prompt,
    };
}

static double seconds(const simulation *m) {
    return simulate(m).seconds;
}

static void one_stage_adds_up(void) {
    simulation m = begin(1, 30, 8);
    m.costs.prefill = (chunk_model){100, 1, 10, 1};
    /* Chunks of 8, 8, 8 and 6 behind 0, 8, 16, 24. */
    CU_ASSERT_EQUAL(seconds(&m), 4 * 100 + (8 + 16 + 24) + 30 * 10 + 30 * 30);
    m.within_node.seconds = 1000; /* from a reply to the next step */
    CU_ASSERT_EQUAL(seconds(&m), 1648 + 4 * 1000);
}

static void two_stages_three_chunks(void) {
    simulation m = begin(2, 12, 4);
    simulation_result r = simulate(&m);
    CU_ASSERT_EQUAL(r.seconds, 16); /* 3 x 4, and 4 more until the second stage is done with the last */
    CU_ASSERT(r.busy_seconds == 24 && r.n_steps == 3 && r.first_token_seconds == 0);
    CU_ASSERT_EQUAL(simulation_bubble(&m, &r), 0.25);
    m.n_prompt = 9; /* 4, 4, 1: stage 1 is done with the second at 12, and then with the last */
    CU_ASSERT_EQUAL(seconds(&m), 13);
    const int uneven[] = {1, 3}; /* the second works from 4 to 4 + 3 x 12 */
    m.n_prompt = 12;
    m.n_layers = uneven;
    CU_ASSERT_EQUAL(seconds(&m), 40);
}

/* P equal stages: sum(t) + (P - 1) max(t) when chunks are alike. */
static void equal_stages_and_chunks(void) {
    for (int P = 1; P <= MAX_STAGES; P *= 2) {
        simulation m = begin(P, 40, 4);
        m.costs.prefill.c = 3;
        CU_ASSERT_EQUAL(seconds(&m), (10 + P - 1) * 7);
    }
}

static void longer_and_longer_chunks(void) {
    simulation m = begin(3, 12, 4);
    m.costs.prefill = (chunk_model){0, 0, 0, 1}; /* 16, 48, 80 */
    CU_ASSERT_EQUAL(seconds(&m), 16 + 48 + 80 * 3);
    chunk_list list = {0}; /* 7, 3, 2: 49, 51, 44 */
    chunk_list_append(&list, 7);
    chunk_list_append(&list, 3);
    chunk_list_append(&list, 2);
    m.chunks = &list;
    m.chunk_tokens = 7;
    CU_ASSERT_EQUAL(seconds(&m), 49 + 51 * 3 + 44);
    chunk_list_free(&list);
}

static void links(void) {
    simulation m = begin(2, 12, 4);
    m.within_node.seconds = 5; /* beside the work; and 5 for the last reply */
    CU_ASSERT_EQUAL(seconds(&m), 16 + 5 + 5);
    m.within_node = (link_speed){1, 0}; /* 4 seconds a message, as long as the work: all goes on at once */
    CU_ASSERT_EQUAL(seconds(&m), 16 + 4);
    m.within_node = (link_speed){0.25, 0}; /* 16: the link is what all wait for: 4 + 3 x 16, then 4 */
    CU_ASSERT_EQUAL(seconds(&m), 4 + 48 + 4);
    m.within_node = no_link;
    m.between_nodes = (link_speed){0.25, 1};
    CU_ASSERT_EQUAL(seconds(&m), 16);
    m.stages_per_node = 1; /* and one second's way there, and one back */
    CU_ASSERT_EQUAL(seconds(&m), 4 + 48 + 1 + 4 + 1);
}

static void only_some_links_are_slow(void) {
    simulation m = begin(4, 4, 4);
    m.stages_per_node = 2;
    m.between_nodes.seconds = 100;
    CU_ASSERT_EQUAL(seconds(&m), 16 + 100 + 100); /* from 1 to 2, and back from 3 to 0 */
}

/* A message that no slot is free for waits where it is. A large one is on links of 4 seconds a row: from
 * stage 0 to 1 until 150, from 1 to 2 from 180 to 300; stage 2 works on it from 300 to 330. Of the three
 * small ones behind it, the last needs its slots: in stage 1 that is free at 300, in stage 2 at 330, so that
 * it arrives at 334, when stage 2 is done with the two others. */
static void slots_run_out(void) {
    simulation m = begin(3, 33, 30);
    chunk_list list = {0};
    chunk_list_append(&list, 30);
    chunk_list_append(&list, 1);
    m.chunks = &list;
    m.within_node = (link_speed){0.25, 0};
    CU_ASSERT_EQUAL(seconds(&m), 335);
    chunk_list_free(&list);
}

/* Stage 0 has three slots too: with only the link behind it slow, its first message leaves from 30 to 150,
 * and then it begins with the fourth, which is done at 190, leaves until 350, and takes two stages more. */
static void slots_of_stage_0_run_out(void) {
    simulation m = begin(3, 72, 40);
    chunk_list list = {0};
    chunk_list_append(&list, 30);
    chunk_list_append(&list, 1);
    chunk_list_append(&list, 1);
    chunk_list_append(&list, 40);
    m.chunks = &list;
    m.stages_per_node = 2;
    m.within_node = (link_speed){0.25, 0};
    CU_ASSERT_EQUAL(seconds(&m), 350 + 2 * 40);
    chunk_list_free(&list);
}

static void a_slow_last_stage(void) {
    simulation m = begin(3, 20, 1);
    const int slow[] = {1, 1, 10};
    m.n_layers = slow;
    CU_ASSERT_EQUAL(seconds(&m), 2 + 20 * 10);
    m.within_node = (link_speed){1, 0}; /* and a second's way to it, twice */
    CU_ASSERT_EQUAL(seconds(&m), 4 + 20 * 10);
}

static void tokens_of_one_sequence(void) {
    simulation m = begin(3, 4, 4);
    m.n_new = 5;
    m.costs.head_c = 7;
    m.within_node.seconds = 2;
    simulation_result r = simulate(&m);
    double first = 3 * 4 + 7 + 3 * 2, token = 3 * 1 + 7 + 3 * 2;
    CU_ASSERT_EQUAL(r.first_token_seconds, first);
    CU_ASSERT_EQUAL(r.seconds, first + 4 * token);
    CU_ASSERT(r.decode_tokens == 4 && r.decode_seconds == 4 * token);
    m.n_prompt = 100; /* of which all but one are there */
    m.n_cached = 99;
    CU_ASSERT_EQUAL(simulate(&m).first_token_seconds, token);
}

/* As many sequences as stages: each stage always has one; the scheduler spreads them. */
static void stages_are_full_in_decode(void) {
    for (int P = 1; P <= 16; P *= 2) {
        simulation m = begin(P, 2, 64);
        m.n_cached = 1;
        m.n_sequences = 4 * P;
        m.n_new = 200;
        simulation_result r = simulate(&m);
        double per_second = (double)r.decode_tokens / r.decode_seconds;
        CU_ASSERT(per_second > 0.97 && per_second <= 1.0001); /* a row a second leaves the last stage */
        m.n_sequences = 1;
        r = simulate(&m);
        CU_ASSERT_EQUAL((double)r.decode_tokens / r.decode_seconds, 1.0 / P);
        CU_ASSERT(r.decode_tokens == 199 && r.decode_seconds == 199 * P);
    }
}

/* Decode costs what the decode model says: histories add up, c once. */
static void decode_costs(void) {
    simulation m = begin(1, 10, 64);
    m.n_cached = 9;
    m.n_sequences = 3;
    m.n_new = 3;
    m.costs.prefill = (chunk_model){0, 0, 0, 0};
    m.costs.decode = (chunk_model){100, 1, 10, 0};
    m.costs.head_c = 1000;
    m.costs.head_row = 10000;
    simulation_result r = simulate(&m); /* the last rows of the prompts; then histories of 10, and of 11 */
    CU_ASSERT_EQUAL(r.first_token_seconds, 31000);
    CU_ASSERT_EQUAL(r.seconds, 3 * 31000 + 2 * 100 + 3 * (10 + 11) + 6 * 10);
}

static void links_as_text(void) {
    link_speed l;
    CHECK_OK(link_speed_parse("link", "25GB/s,2us", &l));
    CU_ASSERT(l.bytes_per_second == 25e9 && fabs(l.seconds - 2e-6) < 1e-20);
    CHECK_OK(link_speed_parse("link", "1.5MB/s,0s", &l));
    CU_ASSERT(l.bytes_per_second == 1.5e6 && l.seconds == 0);
    CHECK_OK(link_speed_parse("link", "2TB/s,100ns", &l));
    CHECK_OK(link_speed_parse("link", "7KB/s,3ms", &l));
    static const char *const bad[] = {
        "",           "25",         "25GB/s",      "25GB/s,",     "25GB/s,2",   "2us,25GB/s",  "25Gb/s,2us",
        "0GB/s,2us",  "-1GB/s,2us", "25GB/s,-2us", "nanGB/s,2us", "25GB/s 2us", "25GB/s,2us,", "infGB/s,2us",
        "25GB/s,2usx"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_REFUSED(link_speed_parse("link", bad[i], &l),
                      "expected a bandwidth and a latency such as 25GB/s,2us");
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"one stage adds up", one_stage_adds_up},
        {"two stages, three chunks", two_stages_three_chunks},
        {"equal stages and chunks", equal_stages_and_chunks},
        {"longer and longer chunks", longer_and_longer_chunks},
        {"links", links},
        {"only some links are slow", only_some_links_are_slow},
        {"slots run out", slots_run_out},
        {"slots of stage 0 run out", slots_of_stage_0_run_out},
        {"a slow last stage", a_slow_last_stage},
        {"tokens of one sequence", tokens_of_one_sequence},
        {"stages are full in decode", stages_are_full_in_decode},
        {"decode costs", decode_costs},
        {"links as text", links_as_text},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "simulate", tests);
}
