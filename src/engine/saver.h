/* src/engine/saver.h: writes this rank's part of a save: the K and V of its layers, as a segment.
 *
 * Positions that the model has written are final, so a thread of low priority copies, encodes and writes them
 * while the next steps are computed; a save with nothing beside it is written with all threads. The
 * end of it is told to rank 0 by a note. The pages of the save's sequences must not be released before. */
#pragma once

#include "io/codec/kv_coding.h"
#include "mpi/mailbox.h"
#include "src/engine/stage.h"
#include "src/engine/step.h"
#include "src/model/kv_cache.h"
#include "src/model/model.h"

typedef struct saver saver;

/* Borrows all but dir and the coding; `logits` is the stage that keeps them. Local. */
saver *saver_open(const char *dir, const kv_coding *coding, const kv_tables *tables, slice s,
                  const model_config *config, dtype type, int n_threads, kv_cache *kv, const stage *logits,
                  mailbox *notes);

/* Waits for what it writes. NULL is fine. Local. */
void saver_close(saver *s);

/* Take the order of a STEP_SAVE; the one before must have been told to be over. A failure is the device's;
 * one of writing is told by the note. Local. */
status saver_begin(saver *s, const step *order);

/* What is being written need not spare the run any more. Local. */
void saver_hurry(saver *s);
