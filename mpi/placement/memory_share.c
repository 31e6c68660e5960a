#include "mpi/placement/memory_share.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/comm_private.h"
#include "src/base/host_memory.h"
#include "src/base/memory.h"

/* The limits of a rank, as its neighbours on the host get them. */
typedef struct rank_limits {
    host_memory_limit limits[HOST_MEMORY_LIMITS];
    int n;
} rank_limits;

static bool binds(const rank_limits *r, const host_memory_limit *l) {
    for (int i = 0; i < r->n; i++)
        if (!r->limits[i].is_own && !memcmp(r->limits[i].key, l->key, sizeof l->key)) return true;
    return false;
}

/* The least that one of `mine` leaves; all: those of the n ranks of the host, or NULL, where n are alike. */
static memory_share least_share(const rank_limits *mine, const rank_limits *all, int n, const char *host) {
    memory_share least = {.bytes = UINT64_MAX};
    for (int i = 0; i < mine->n; i++) {
        const host_memory_limit *l = &mine->limits[i];
        int n_sharers = all ? 0 : n;
        for (int k = 0; all && k < n; k++)
            n_sharers += binds(&all[k], l);
        if (l->is_own) n_sharers = 1;
        uint64_t share = l->room / (uint64_t)n_sharers;
        if (share >= least.bytes) continue;
        least.bytes = share;
        int used = snprintf(least.text, sizeof least.text, "%s on %s leaves ", l->text, host);
        snprintf(least.text + used, sizeof least.text - (size_t)used,
                 n_sharers > 1 ? "each of %d ranks there" : "a rank", n_sharers);
    }
    return least;
}

memory_share memory_share_find(comm *c) {
    rank_limits mine = {0}, *all;
    mine.n = host_memory_limits("", mine.limits);
    all = mem_new((size_t)c->node_size, sizeof *all);
    comm_gather_on_node(c, &mine, sizeof mine, all);
    memory_share share = least_share(&mine, all, c->node_size, c->host);
    free(all);
    int64_t known = share.bytes < INT64_MAX ? (int64_t)share.bytes : INT64_MAX, least = comm_min(c, known);
    int64_t first = comm_min(c, known == least ? c->rank : c->size);
    comm_broadcast(c, &share, sizeof share, (int)first);
    return share;
}

memory_share memory_share_of_host(int n_ranks) {
    rank_limits mine;
    char host[256] = "";
    mine.n = host_memory_limits("", mine.limits);
    gethostname(host, sizeof host - 1);
    return least_share(&mine, NULL, n_ranks, host);
}
