/* tests/engine/test_engine_loads.c: notes of loads that nobody waits for any more: they are told all the
 * same. */
#include <stdlib.h>
#include <string.h>

#include "src/base/notice.h"
#include "src/engine/engine_private.h"
#include "tests/fixtures/harness.h"

static comm *ranks;

/* A note of one chunk of a load, as a rank sends it. */
typedef struct load_note {
    note head;
    load_record record;
} load_note;

static load_note note_of(note_kind kind, int64_t load, const char *failure) {
    load_note n = {
        .head = {.kind = kind, .st = failure ? STATUS_REFUSED : STATUS_OK, .load = load, .n_records = 1},
        .record = {.last_layer = 3, .last_pos = 63, .way = LOAD_FAILED}};
    snprintf(n.head.text, sizeof n.head.text, "%s", failure ? failure : "");
    return n;
}

static bool is_noticed(const char *text) {
    for (int i = 0; i < notice_count(); i++)
        if (strcmp(notice_text(i), text) == 0) return true;
    return false;
}

/* The slot has another sequence when the note comes. */
static void late_notes(void) {
    slot_load loads[1] = {0};
    engine e = {.worker.comm = ranks, .loads = loads, .options.races_loads = true};
    session first = {.id = 7}, second = {.id = 8};
    engine_begin_load(&e, 0, &first, 100);
    engine_begin_load(&e, 0, &second, 50);
    load_note n = note_of(NOTE_LOADED, 1, "a.h5: /layers/3/k is damaged");
    engine_take_load(&e, &n.head, 0);
    CU_ASSERT(is_noticed("a.h5: /layers/3/k is damaged: what is cached behind it was no longer needed"));
    CU_ASSERT(loads[0].session == &second && !loads[0].race.is_stuck && loads[0].n_loaded == 0);
    n = note_of(NOTE_DROPPED, 2, NULL); /* and of that the run is over */
    engine_take_load(&e, &n.head, 0);
    CU_ASSERT(loads[0].session == &second && loads[0].race.edge == 50 && e.loaded.n_loads == 0);
    CU_ASSERT_EQUAL(e.n_loads_told, 2);
    CU_ASSERT_FATAL(e.log_of_loads.n == 2);
    CU_ASSERT(e.log_of_loads.records[0].prompt == 7 && e.log_of_loads.records[1].prompt == 8);
    free(e.log_of_loads.records);
    free(e.load_prompts);
    free(loads[0].edges);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"late notes", late_notes}, CU_TEST_INFO_NULL};
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "engine_loads", tests);
    comm_close(ranks);
    return code;
}
