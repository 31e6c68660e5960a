#include "src/command/sizing.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

/* A decode row reads all weights for itself and few others; on CPUs it takes about as long as this many
 * prefill rows. */
static const double prefill_rows_per_decode_row = 16;

/* Contexts that wait for a save, at most. */
enum { MOST_HELD = 4096 };

double sizing_head_share(int64_t prompt_tokens, int64_t decode_tokens) {
    double decode = prefill_rows_per_decode_row * (double)decode_tokens, all = decode + (double)prompt_tokens;
    return all > 0 ? decode / all : 1;
}

static int by_tokens_down(const void *a, const void *b) {
    int64_t x = ((const job_size *)a)->tokens, y = ((const job_size *)b)->tokens;
    return x > y ? -1 : x < y;
}

/* Of jobs that are only read all contexts are kept; of others some are over while a save reads them. */
static void hold_for_saves(sizing *s, int64_t n_jobs, int64_t n_kept, int64_t n_pages) {
    int64_t n_more = n_jobs - s->n_sequences, most = n_kept > s->n_sequences ? MOST_HELD : s->n_sequences;
    if (!s->saves || n_more <= 0) return;
    s->n_held = (int)(n_more < most ? n_more : most);
    s->held_pages = (double)n_pages / (double)n_jobs;
}

sequence_places sizing_places(const evict_policy *policy, int64_t n_tokens, int64_t evict_at) {
    return (sequence_places){evict_at,
                             evict_at > 0 ? evict_places_behind(policy, evict_at, n_tokens, 0, 2) : n_tokens};
}

/* The largest of the jobs count for what is wanted at once. Where tokens are evicted, one job after the other
 * has all of its prompt. */
static void add_up_jobs(sizing *s, int64_t most_sequences, const job_size *jobs, int64_t n) {
    job_size *sorted = mem_new((size_t)n, sizeof *sorted);
    int64_t n_jobs = 0, n_kept = 0, n_pages = 0, n_more = 0, n_left = most_sequences;
    if (n > 0) memcpy(sorted, jobs, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_tokens_down);
    for (const job_size *j = sorted; j < sorted + n; j++) {
        const sequence_places p = sizing_places(&s->evict, j->tokens, j->evict_at);
        const int64_t most = p.prompt > p.behind ? p.prompt : p.behind;
        int64_t pages = kv_pages_for(p.behind, s->page_tokens), n_at_once = j->n < n_left ? j->n : n_left;
        int64_t more = kv_pages_for(most, s->page_tokens) - pages;
        if (j->tokens > s->longest_tokens) s->longest_tokens = j->tokens;
        if (most > s->longest_places) s->longest_places = most;
        if (more > n_more) n_more = more;
        s->wanted_pages += n_at_once * pages;
        n_left -= n_at_once;
        n_jobs += j->n;
        n_kept += j->is_kept ? j->n : 0;
        n_pages += j->n * pages;
    }
    s->wanted_pages += n_more;
    if (n_left < most_sequences) s->n_sequences = (int)(most_sequences - n_left);
    hold_for_saves(s, n_jobs, n_kept, n_pages);
    free(sorted);
}

sizing sizing_of(const options *o, const job_size *jobs, int64_t n, double head_share) {
    sizing s = {
        .precision = o->precision,
        .kv_codes = o->kv == KV_CACHE_INT8   ? KV_INT8
                    : o->kv == KV_CACHE_INT4 ? KV_INT4
                                             : KV_ROWS,
        .chunk_tokens = (int)o->chunk_tokens,
        .page_tokens = (int)o->page_tokens,
        .n_sequences = 1, /* where there is no job, one of one token: to see whose snapshot it is */
        .longest_tokens = 1,
        .saves = o->save != NULL,
        .loads = o->resume != NULL,
        .kv_bytes_per_rank = (uint64_t)o->kv_memory,
        .kv_disk = o->kv_disk,
        .kv_host_bytes = (uint64_t)o->kv_host,
        .evict = o->evict,
        .bound = plan_bound_asked((uint64_t)o->memory_per_rank),
        .head_share = head_share,
        .layers_per_rank = o->layers_per_rank,
    };
    add_up_jobs(&s, o->sequences, jobs, n);
    return s;
}

sizing sizing_of_bench(const options *o, int64_t longest_tokens, int64_t batch_tokens, double head_share) {
    const job_size one = {.n = 1, .tokens = longest_tokens},
                   batch = {.n = o->sequences, .tokens = batch_tokens};
    sizing alone = sizing_of(o, &one, 1, head_share), s = sizing_of(o, &batch, 1, head_share);
    s.longest_tokens = longest_tokens;
    s.longest_places = alone.longest_places;
    if (alone.wanted_pages > s.wanted_pages) s.wanted_pages = alone.wanted_pages;
    return s;
}
