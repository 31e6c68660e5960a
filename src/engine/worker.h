/* src/engine/worker.h: what every stage does with the steps that come to it: runs them, loads and saves its
 * part of the cache, and passes them on. The engine of stage 0 has a worker too. */
#pragma once

#include "mpi/mailbox.h"
#include "mpi/pipeline.h"
#include "src/engine/loader.h"
#include "src/engine/probe.h"
#include "src/engine/saver.h"
#include "src/engine/stage.h"
#include "src/engine/step.h"
#include "src/engine/step_log.h"
#include "src/model/kv_host.h"

/* Opened and closed by engine_open.c. */
typedef struct worker {
    comm *comm;
    device *dev;
    weights *files;
    model *model;
    kv_cache *kv;
    /* Where the pages lie that memory has no room for; NULL: there is none such. */
    page_file *kv_file;
    kv_host *kv_host;
    kv_records kv_records;
    stage *stage;
    pipeline *pipe;
    mailbox *notes;
    saver *saver;       /* NULL: nothing is saved */
    loader *loader;     /* NULL: nothing is loaded */
    char *load_dir;     /* where from, and */
    file_relay *relay;  /* who reads there for whom; NULL: each rank for itself */
    bool has_sent_stop; /* this rank's signal to rank 0 */
    trace trace;
    probe probe;
    step step; /* in work */
    step_reply reply;
    void *reply_bytes;
    bool times_steps;
    stage_seconds seconds; /* of the last step, where steps are timed */
    step_log log;
} worker;

/* Run w->step, which came in this slot, and pass it on. False when it was the last one. Local; ends all ranks
 * (status_die) when the device fails. */
bool worker_run_step(worker *w, pipeline_slot *slot);

/* All steps, as they come, to the last one. Local, on every rank but the first. */
void worker_serve(worker *w);
