/* src/base/trace.h: where a rank's time goes. Every moment belongs to exactly one region. Local. */
#pragma once

#include <stdint.h>

typedef enum region {
    REGION_REST, /* what no other region claims */
    REGION_EMBED,
    REGION_NORM,
    REGION_QKV,
    REGION_ROPE_APPEND,
    REGION_PAGE_WAIT,
    REGION_ATTEND,
    REGION_EVICT,
    REGION_OUTPUT,
    REGION_MLP,
    REGION_HEAD,
    REGION_SAMPLE,
    REGION_TEXT,
    REGION_LOAD,
    REGION_SAVE,
    REGION_SEND_WAIT,
    REGION_RECEIVE_WAIT,
    REGION_REPLY_WAIT,
    N_REGIONS
} region;

/* Zeroed but for `since`: trace_begin. */
typedef struct trace {
    double seconds[N_REGIONS];
    int64_t calls[N_REGIONS];
    region current;
    double since;
    void (*mark)(const char *region_name); /* told of every region that is entered; NULL: nobody is */
} trace;

/* Start all clocks from zero, in REGION_REST; `mark` stays. */
void trace_begin(trace *t);

/* From now on time belongs to this region; returns the one before, to be entered again when this one is over.
 */
region trace_enter(trace *t, region next);

/* What the table calls it. */
const char *region_name(region r);
