/* src/model/kv_records.h: where KV pages lie that memory has no room for (src/model/kv_tier.h): a file of the
 * node (io/tier/page_file.h), or, of a GPU, memory of its host (src/model/kv_host.h).
 *
 * All are used as a page_file is, by one thread at a time: records that hold a page are taken, written, read
 * and given back. Local. */
#pragma once

#include "io/tier/page_file.h"

/* What was moved so far. */
typedef struct kv_figures {
    page_file_figures disk;
    page_file_flow to_host, from_host; /* of a GPU */
} kv_figures;

typedef struct kv_records {
    void *self;
    int (*take)(void *self);
    void (*give_back)(void *self, int record); /* no request of it is under way */
    page_file_ticket (*begin_write)(void *self, int record, const void *frame);
    page_file_ticket (*begin_read)(void *self, int record, void *frame);
    bool (*test)(void *self, page_file_ticket ticket);
    status (*wait)(void *self, page_file_ticket ticket, double seconds);
    void (*advance)(void *self);    /* what has begun goes on, also while nobody waits for it */
    void (*begin_step)(void *self); /* see kv_tier_begin_step */
    void (*measure)(void *self, kv_figures *out);
} kv_records;

/* Those of a file, which is borrowed; NULL: there are none. */
kv_records kv_records_of_file(page_file *f);
