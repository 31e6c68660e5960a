/* src/command/report.h: what the user sees at the end of a run: the table of times, speeds, and advice; and
 * the same as JSON. */
#pragma once

#include "io/json.h"
#include "mpi/comm.h"
#include "src/checkpoint/checkpoint.h"
#include "src/command/options.h"
#include "src/command/yardstick.h"
#include "src/engine/engine.h"

/* What the command knows beside the engine. Rank 0's counts. */
typedef struct run_summary {
    int64_t n_requests;
    double first_token_seconds;             /* mean over requests, from their submission; 0: no token */
    bool clipped_context;                   /* some request could not get all its max_tokens */
    int64_t reused_tokens;                  /* that came from a snapshot */
    checkpoint_stats saves;                 /* zeroed: nothing was to be saved */
    double end_save_seconds;                /* the run stood still when it had nothing more to do */
    char saved_codec[KV_CODING_TEXT_BYTES]; /* of what this run saved, as it is now; "": nothing was to be
                                               saved */
    int64_t recoded_bytes; /* of the snapshot's files, where all was coded anew behind the saves */

    /* Put what the command found into the JSON, as members; NULL: there is nothing. */
    void (*put_found)(json_writer *w, const void *found);
    const void *found;
} run_summary;

/* The table and notes on stderr, the JSON file where --report asks for one. Collective; `summary` counts on
 * rank 0. Fails when the file cannot be written. */
status report_run(comm *c, engine *e, const options *o, const run_summary *summary);
