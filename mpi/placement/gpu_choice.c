#include "mpi/placement/gpu_choice.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/comm_private.h"
#include "src/base/memory.h"

static const char visible_devices[] = "CUDA_VISIBLE_DEVICES";

/* A number from 0 up to a million, or -1. */
static int read_number(const char *text) {
    size_t n = text ? strlen(text) : 0;
    if (n == 0 || n > 6 || strspn(text, "0123456789") != n) return -1;
    return atoi(text);
}

/* Slurm's is last: within a batch script, a launcher that is not Slurm's own hands the script's on to all. */
int gpu_choice_launched_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                        "MV2_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID", "SLURM_LOCALID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int rank = read_number(getenv(names[i]));
        if (rank >= 0) return rank;
    }
    return -1;
}

/* Are they all there, and none twice? */
static bool are_distinct(const int *values, int n) {
    for (int i = 0; i < n; i++) {
        if (values[i] < 0) return false;
        for (int k = 0; k < i; k++)
            if (values[k] == values[i]) return false;
    }
    return true;
}

int gpu_choice_local_rank(comm *c) {
    int launched = gpu_choice_launched_rank(), rank;
    int *all = mem_new((size_t)c->node_size, sizeof *all);
    MPI_Comm_rank(c->node, &rank);
    comm_gather_on_node(c, &launched, sizeof launched, all);
    if (are_distinct(all, c->node_size)) rank = launched;
    free(all);
    return rank;
}

static bool is_gpu_name(const char *text, size_t n) {
    if (n < 5 || (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0)) return false;
    for (size_t i = 4; i < n; i++)
        if (!strchr("0123456789abcdefABCDEF-/GPU", text[i])) return false;
    return true;
}

static bool is_gpu_number(const char *text, size_t n) {
    return n > 0 && n <= 6 && strspn(text, "0123456789") >= n;
}

/* The same GPU, as far as texts tell: 1 and 01, or two equal names. */
static bool is_same_gpu(const char *a, size_t n_a, const char *b, size_t n_b) {
    if (is_gpu_number(a, n_a) && is_gpu_number(b, n_b)) return atoi(a) == atoi(b);
    return n_a == n_b && strncmp(a, b, n_a) == 0;
}

static bool stands_before(const char *list, const char *item, size_t n) {
    for (const char *at = list; at < item; at += strcspn(at, ",") + 1)
        if (is_same_gpu(at, strcspn(at, ","), item, n)) return true;
    return false;
}

status gpu_choice_read_visible(const char *text, int *n_listed) {
    if (!text) {
        *n_listed = -1;
        return STATUS_OK;
    }
    if (!*text)
        return status_refuse("%s is set to nothing, which hides all GPUs: unset it, or list some",
                             visible_devices);
    int n = 0;
    for (const char *at = text;; at++, n++) {
        size_t length = strcspn(at, ",");
        if (!is_gpu_number(at, length) && !is_gpu_name(at, length))
            return status_refuse(
                "%s=%s: entry %d is \"%.*s\", which is no number and no GPU-... or MIG-... name",
                visible_devices, text, n + 1, (int)length, at);
        if (stands_before(text, at, length))
            return status_refuse("%s=%s: \"%.*s\" is listed twice, which hides all GPUs", visible_devices,
                                 text, (int)length, at);
        at += length;
        if (!*at) break;
    }
    *n_listed = n + 1;
    return STATUS_OK;
}

status gpu_choice_index(int local_rank, int n_visible, int *index) {
    int n_listed;
    const char *list = getenv(visible_devices);
    status st = gpu_choice_read_visible(list, &n_listed);
    if (st != STATUS_OK) return st;
    if (n_visible < 1)
        return n_listed < 0
                   ? status_refuse("no GPU is visible on this host")
                   : status_refuse("none of the GPUs of %s=%s is on this host", visible_devices, list);
    if (n_listed > n_visible)
        return status_refuse("%s=%s: %d GPUs, but only %d of them can be used on this host", visible_devices,
                             list, n_listed, n_visible);
    *index = local_rank % n_visible;
    return STATUS_OK;
}
