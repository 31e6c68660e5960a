/* src/engine/load_log.h: what became of each chunk of each load, on every rank, for people who ask where the
 * time went (--load-log). Local. */
#pragma once

#include <stdint.h>

#include "src/base/status.h"

typedef enum load_way {
    LOAD_COMPUTED, /* its positions were, before it was read */
    LOAD_WHOLE,
    LOAD_ITS_BASE, /* and then, perhaps, the rest of it */
    LOAD_FAILED,   /* damaged, or beyond --max-distortion */
    LOAD_DROPPED,  /* not read, as the run ended first, or as layers' windows are behind it */
} load_way;

/* Plain data: ranks send its bytes to rank 0. */
typedef struct load_record {
    int32_t rank, first_layer, last_layer, first_part, last_part; /* last: the last one of them */
    load_way way;
    int64_t prompt, first_pos, last_pos;
    int64_t bytes;                                      /* that were read of the file */
    double begin_seconds, read_seconds, decode_seconds; /* begin: since that of the load */
} load_record;

/* Zeroed is empty; release with free(records). */
typedef struct load_log {
    load_record *records;
    int64_t n;
} load_log;

/* Append what a rank tells of one load. */
void load_log_add(load_log *log, const load_record *records, int64_t n, int rank, int64_t prompt);

/* CSV, with a line of names first, in the order in which loads ended and chunks were begun. */
status load_log_write(const load_log *log, const char *path);
