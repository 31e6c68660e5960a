/* src/model/kv_tier.h: which pages of a rank's cache lie in memory, and which in records apart
 * (src/model/kv_records.h).
 *
 * A page is a number; where it lies in memory it has a frame of the pool. A step's attention reads the pages
 * of its sequences layer after layer, and the next step does the same again: what was read last is wanted
 * last, so it is the first to leave memory (the best choice where all is read in turns: Belady, IBM Systems
 * Journal 5, 1966), but for pages of sequences that pause, which go before. What leaves is written once,
 * behind the computation, and again only if it has changed.
 *
 * A page is *held* by whoever reads or writes it, which keeps it where it is; a GPU's operations hold it
 * until they are over. One whose bytes cannot be had (what was read is not what was written, or memory and
 * records are full) is lost: whoever holds it sees a frame of NaNs, so that all that follows from it is NaN
 * and nothing else is touched. A disk that does not answer ends the program (status_die). All functions are
 * Local, and for any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"
#include "src/base/status.h"
#include "src/model/kv_records.h"

/* Room for KV pages that memory has no room for, on the disk of a rank's node. */
typedef struct kv_disk {
    char dir[1024];
    uint64_t bytes; /* of each rank; 0: none */
} kv_disk;

typedef struct kv_tier kv_tier;

/* Records that hold no page of their own: a page can leave memory only where there is one. */
enum { KV_TIER_SPARE_RECORDS = 64 };

typedef struct kv_tier_shape {
    int32_t n_pages;   /* in memory and in records together, but for spare ones: with one it works, */
    int32_t n_frames;  /* of them in memory: less, where there are records */
    size_t page_bytes; /* those of a record */
    int n_turn;        /* a page that nobody held in so many steps is one of a sequence that pauses */
    device *dev;       /* whose memory the frames are; NULL: the host's */
    char *frames;      /* [n_frames + 1] pages, aligned for the records; the last one is for what is lost */
    kv_records records;
} kv_tier_shape;

/* Borrows all. */
status kv_tier_open(const kv_tier_shape *shape, kv_tier **out);
void kv_tier_close(kv_tier *t); /* waits for what is on its way; NULL is fine */

/* A step begins. */
void kv_tier_begin_step(kv_tier *t);

/* The page is in use now, and nobody has written to it; or no more, by nobody who holds it but operations,
 * which are waited for. */
void kv_tier_add(kv_tier *t, int32_t page);
void kv_tier_remove(kv_tier *t, int32_t page);

/* Hold the page, and bring it into memory if it is not there: without waiting, false where there is no frame
 * for it now; */
bool kv_tier_try_hold(kv_tier *t, int32_t page);

/* waiting for a frame, but not for its bytes. */
void kv_tier_hold(kv_tier *t, int32_t page);

/* Is the page, which is held, neither read nor written by its record? Does not wait. */
bool kv_tier_is_still(kv_tier *t, int32_t page);

/* The frame of a page that is held, once its bytes are there, and, to write to it, once its record does not
 * read them any more. */
int32_t kv_tier_wait(kv_tier *t, int32_t page, bool to_write);

typedef enum kv_tier_change {
    KV_TIER_READ,   /* it was only read */
    KV_TIER_OPEN,   /* it was written to, and will be again: it leaves memory only if nothing else can */
    KV_TIER_CLOSED, /* it was written to, and is full */
} kv_tier_change;

/* End one hold. */
void kv_tier_leave(kv_tier *t, int32_t page, kv_tier_change change);

/* The same by the thread that queues a device's operations: once those are over that are queued before the
 * next kv_tier_fence, which is to follow. */
void kv_tier_leave_later(kv_tier *t, int32_t page, kv_tier_change change);
void kv_tier_fence(kv_tier *t);

/* What is on its way goes on, also where nobody waits for it. */
void kv_tier_advance(kv_tier *t);

/* It is lost, as nobody needs it any more: what it takes is free, where it is held once it is left. */
void kv_tier_give_up(kv_tier *t, int32_t page);

/* Is it lost? Why the last one was, into text[STATUS_TEXT_BYTES], unless NULL. */
bool kv_tier_is_lost(kv_tier *t, int32_t page, char *text);

/* How many were, so far. */
int64_t kv_tier_n_lost(kv_tier *t);

/* What was moved so far. */
kv_figures kv_tier_measure(kv_tier *t);
