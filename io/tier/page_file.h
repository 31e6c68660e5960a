/* io/tier/page_file.h: KV pages of one rank in a file of a node-local directory, written behind and read
 * ahead while the model computes.
 *
 * It knows only records: numbered pieces of the file, all of one size, that are taken, written, read and
 * given back. The file has no name, so that nothing is left of it however the process ends (where a file
 * system can make none without, it has one for a moment, and is empty); it never takes more of the disk than
 * its cap, of which it reserves up to 64 MiB ahead of what is written; and it goes past the page cache
 * (direct IO) where the file system can do that, as a tier is there to save memory.
 *
 * Requests are queued at once and served by threads of the file, many at a time but for one record one after
 * the other: a read sees what was written by the last write of that record begun before it. What has been
 * begun while a system call was under way goes to the system in the next one, all of it. A request that fails
 * costs nothing but itself. The XXH3 of every record is kept in memory (with the rest 20 bytes for each
 * record that was ever taken): a read that brings anything else than what was written is a failure.
 *
 * All functions are Local, and called by one thread at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* Of buffers and of what lies in the file: what direct IO asks of the disks and file systems there are. */
enum { PAGE_FILE_ALIGNMENT = 4096, PAGE_FILE_MAX_DEPTH = 4096 };

typedef enum page_file_engine {
    PAGE_FILE_IO_URING, /* one thread, and up to `depth` requests in the system's hands */
    PAGE_FILE_THREADS,  /* a thread for each of them, but no more than 16 */
    N_PAGE_FILE_ENGINES
} page_file_engine;

typedef struct page_file page_file;

/* A file of at most cap_bytes in `dir`, for records of record_bytes, which take a multiple of
 * PAGE_FILE_ALIGNMENT, of which `depth` are under way at most. The engine is the first from `engine` on that
 * works here. Refuses a directory that is not there or cannot be written to, and a cap that holds no record
 * or more than a file may have. */
status page_file_open(const char *dir, int64_t cap_bytes, size_t record_bytes, int depth,
                      page_file_engine engine, page_file **out);

/* Requests that have not begun to be served are dropped, the others waited for, as their buffers must not go
 * before. A disk that does not answer for so many seconds ends the program (status_die). NULL is fine. */
void page_file_close(page_file *f, double seconds);

/* For people: the engine in use, and why not one before it: "threads (io_uring: Operation not permitted)". */
const char *page_file_engine_text(const page_file *f);

/* Does it go past the page cache? Where not, the system keeps in memory what it likes of the file. */
bool page_file_is_direct(const page_file *f);

/* ---- records ---- */

/* The free record of the lowest number, or -1: the cap is reached. What it holds is not to be read before
 * something was written. */
int page_file_take(page_file *f);

/* Requests of it may still be under way: those of who takes it next come behind them. */
void page_file_give_back(page_file *f, int record);

/* How many there can be. */
int page_file_count_records(const page_file *f);

/* ---- requests ---- */

/* What a buffer holds: record_bytes rounded up. What is behind record_bytes is written, and is not checked
 * when it is read. */
size_t page_file_buffer_bytes(const page_file *f);

/* A buffer, zeroed; released with free(). Others will do that are aligned to PAGE_FILE_ALIGNMENT. */
void *page_file_new_buffer(const page_file *f);

/* One request; zeroed it is none. */
typedef struct page_file_ticket {
    int32_t slot;
    uint64_t number;
} page_file_ticket;

/* Returns at once, however many are begun. Until it is over, the buffer must not be touched; while it is
 * written, it may be read. */
page_file_ticket page_file_begin_write(page_file *f, int record, const void *buffer);
page_file_ticket page_file_begin_read(page_file *f, int record, void *buffer);

/* Is it over, so that the buffer is the caller's again? Also of a ticket that is void. Does not wait. */
bool page_file_test(page_file *f, page_file_ticket ticket);

/* How it ended; then the ticket is void. Failures name the directory, the record and what was wrong; what a
 * record holds after a failed write is not to be read, and what a buffer holds after a failed read is
 * nothing. It is also a failure when it is not over after `seconds`: then page_file_test is false, the ticket
 * and the buffer are still in use, and it may be waited for again. */
status page_file_wait(page_file *f, page_file_ticket ticket, double seconds);

/* ---- figures ---- */

/* Of writes or of reads that are over. */
typedef struct page_file_flow {
    int64_t n_moved, n_failed;
    int64_t bytes;  /* of those moved, as they lie in the file */
    double seconds; /* in which at least one was under way */
} page_file_flow;

typedef struct page_file_figures {
    page_file_flow written, read;
    double waited_seconds; /* in page_file_wait */
} page_file_figures;

page_file_figures page_file_measure(page_file *f);
