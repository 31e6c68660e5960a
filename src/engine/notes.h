/* src/engine/notes.h: what ranks tell rank 0 outside of the pipeline's order, through mpi/mailbox.h. Flat
 * bytes between ranks of one program. */
#pragma once

#include <stdint.h>

#include "io/snapshot/segment.h"
#include "src/base/status.h"

typedef enum note_kind {
    NOTE_LOADED,  /* the cached positions of the slot `number` are in this rank's pages */
    NOTE_SEGMENT, /* this rank's segment of save `number` is on the disk */
    NOTE_LOGITS,  /* of one sequence of save `number`: float32 [vocab_size] follow the note */
    NOTE_STOP,    /* a signal asked this rank to end the run */
} note_kind;

typedef struct note {
    note_kind kind;
    status st; /* not STATUS_OK: `text` says why it could not be done */
    char text[STATUS_TEXT_BYTES];
    int64_t number;
    int32_t extent;       /* NOTE_LOGITS: of the save's extents */
    segment_info segment; /* NOTE_SEGMENT */
    double seconds;       /* that it took, without rests */
} note;
