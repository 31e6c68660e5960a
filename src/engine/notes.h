/* src/engine/notes.h: what ranks tell rank 0 outside of the pipeline's order, through mpi/mailbox.h. Flat
 * bytes between ranks of one program. */
#pragma once

#include <stdint.h>

#include "io/snapshot/segment.h"
#include "src/base/status.h"

typedef enum note_kind {
    NOTE_LOADING, /* those of the slot `number` from `edge` on are in this rank's pages */
    NOTE_LOADED,  /* all cached positions of the slot are, but for those that were left out */
    NOTE_DROPPED, /* instead, as the run ends: the load is given up, whatever there was of it */
    NOTE_FETCHED, /* what refines the slot is there, and waits for STEP_REFINE */
    NOTE_SEGMENT, /* this rank's segment of save `number` is on the disk */
    NOTE_LOGITS,  /* of one sequence of save `number`: float32 [vocab_size] follow the note */
    NOTE_LOST,    /* K or V of the slot `number` cannot be had any more: `text` says why */
    NOTE_STOP,    /* a signal asked this rank to end the run */
} note_kind;

typedef struct note {
    note_kind kind;
    status st; /* not STATUS_OK: `text` says why it could not be done */
    char text[STATUS_TEXT_BYTES];
    int64_t number;
    int64_t load, edge; /* of notes of loads: which one, from 1; and NOTE_LOADING */
    int64_t
        n_coarse; /* NOTE_LOADED: chunks of which only the base was loaded, so that NOTE_FETCHED follows, */
    int64_t coarse_end, coarse_tokens; /* the last of their positions, and how many there are */
    int64_t n_records;   /* NOTE_LOADED, NOTE_DROPPED: of load_log.h, which follow the note; 0: nobody asks */
    int64_t sequence_id; /* NOTE_LOST: of the slot's sequence then */
    double idle_share;   /* NOTE_LOADING: of its time in which processors were free */
    int32_t extent;      /* NOTE_LOGITS: of the save's extents */
    segment_info segment; /* NOTE_SEGMENT */
    double seconds;       /* that it took, without rests */
} note;
