/* src/model/kv_host.h: KV pages that a GPU's memory has no room for, in pinned memory of its host, and behind
 * that in a file of the node.
 *
 * Host memory and file are a kv_tier of their own, whose pages are the records here. A record moves between
 * host memory and a frame of the GPU by a copy beside the operations: those of each direction in the order in
 * which they were begun, many at a time, so that the link is busy while nobody looks. All functions are
 * Local, and called by one thread at a time. */
#pragma once

#include "kernels/device.h"
#include "src/model/kv_records.h"

typedef struct kv_host kv_host;

/* In host memory at least where most are in a file: they come and go through it. */
enum { KV_HOST_LEAST_PAGES = 128 };

typedef struct kv_host_shape {
    device *dev;
    size_t page_bytes; /* those of a record of the file */
    int32_t n_records; /* in host memory and in the file together, but for KV_TIER_SPARE_RECORDS of it */
    int32_t n_pages;   /* in host memory: all of them, where there is no file; */
    int32_t n_least;   /* so many will do, where no more host memory can be pinned */
    int n_turn;        /* as of a kv_tier */
    page_file *file;   /* NULL: there is none */
} kv_host_shape;

/* Borrows device and file. Refuses where too little host memory can be pinned. */
status kv_host_open(const kv_host_shape *shape, kv_host **out);
void kv_host_close(kv_host *h); /* nothing is under way; NULL is fine */

/* How many are in host memory: n_least to n_pages. */
int32_t kv_host_n_pages(const kv_host *h);

kv_records kv_host_records(kv_host *h);
