#include "src/base/fault.h"
#include "src/base/alive.h"
#include "src/base/clock.h"

#include <assert.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const sites[] = {
    "segment-create",
    "segment-write",
    "segment-flush",
    "segment-rename",
    "segment-read",
    "tables-write",
    "manifest-create",
    "manifest-write",
    "manifest-flush",
    "manifest-rename",
    "manifest-directory-flush",
    "lock",
    "save-begin",
    "save-note",
    "save-commit",
    "save-clean",
    "load-see",
    "load",
    "decoder-room",
    "begin",
    "weights",
    "page-file-write",
    "page-file-read",
    "page-file-flip",
    "kv-host-pin",
    "end",
};
enum { N_SITES = sizeof sites / sizeof *sites };

typedef enum fault_kind {
    FAULT_FAIL,
    FAULT_ALWAYS,
    FAULT_KILL,
    FAULT_SLOW,
    FAULT_HANG,
    N_FAULT_KINDS
} fault_kind;

static const char *const kinds[N_FAULT_KINDS] = {
    [FAULT_FAIL] = "fail", [FAULT_ALWAYS] = "always", [FAULT_KILL] = "kill",
    [FAULT_SLOW] = "slow", [FAULT_HANG] = "hang",
};

/* Of the process, as the command line is. */
static const char *armed_site; /* NULL: none */
static fault_kind armed_kind;
static long armed_visit;
static atomic_long n_visits; /* of armed_site */

static int find(const char *name, size_t n, const char *const *names, int n_names) {
    for (int i = 0; i < n_names; i++)
        if (strlen(names[i]) == n && !memcmp(names[i], name, n)) return i;
    return -1;
}

static status unknown_site(const char *text) {
    char list[STATUS_TEXT_BYTES] = "";
    for (int i = 0; i < N_SITES; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", sites[i]);
    }
    return status_refuse("--fail-at %s: no such site; there are %s", text, list);
}

/* A number at *text up to a billion, `fallback` where there is no digit; moves behind it. -1: too large. */
static long read_number(const char **text, long fallback) {
    size_t n = strspn(*text, "0123456789");
    long value = n == 0 ? fallback : n <= 9 ? strtol(*text, NULL, 10) : -1;
    *text += n;
    return value;
}

status fault_arm(const char *text, int rank) {
    armed_site = NULL;
    if (!text) return STATUS_OK;
    size_t n_site = strcspn(text, ":");
    int site = find(text, n_site, sites, N_SITES);
    if (site < 0) return unknown_site(text);
    const char *rest = text + n_site;
    long on_rank = rank, visit = 1;
    int kind = FAULT_FAIL;
    if (*rest == ':') {
        rest++;
        on_rank = read_number(&rest, rank);
    }
    if (*rest == ':') {
        rest++;
        visit = read_number(&rest, 1);
        kind = find(rest, strlen(rest), kinds, N_FAULT_KINDS);
        rest += strlen(rest);
    }
    if (*rest || on_rank < 0 || visit < 1 || kind < 0)
        return status_refuse("--fail-at %s: expected SITE[:RANK[:WHAT]], where WHAT is fail, always, "
                             "kill, slow or hang, with or without a count before it",
                             text);
    if (on_rank != rank) return STATUS_OK;
    armed_kind = (fault_kind)kind;
    armed_visit = visit;
    atomic_store(&n_visits, 0);
    armed_site = sites[site];
    return STATUS_OK;
}

status fault_at(const char *site) {
    assert(find(site, strlen(site), sites, N_SITES) >= 0);
    if (!armed_site || strcmp(site, armed_site)) return STATUS_OK;
    long visit = 1 + atomic_fetch_add(&n_visits, 1);
    if (visit < armed_visit || (visit > armed_visit && armed_kind != FAULT_ALWAYS)) return STATUS_OK;
    if (armed_kind == FAULT_KILL) kill(getpid(), SIGKILL);
    while (armed_kind == FAULT_HANG)
        pause();
    if (armed_kind == FAULT_SLOW) {
        for (double begin = clock_seconds(); clock_seconds() - begin < FAULT_SLOW_SECONDS; alive_say())
            nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
        return STATUS_OK;
    }
    return status_fail("failed on demand at %s, visit %ld (--fail-at)", site, visit);
}
