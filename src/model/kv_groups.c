#include "src/model/kv_groups.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "src/base/memory.h"

typedef struct group {
    struct group *next;
    int64_t number;
    uint64_t there; /* a bit for each row */
    char *rows;
} group;

struct kv_groups {
    kv_format format;
    int n_slots, heads_of_slot; /* of all layers, K and V */
    group **lists;              /* [n_slots, heads_of_slot] */
    pthread_mutex_t lock;
};

static_assert(KV_INT4_PLACES == 64, "a bit of group.there for each");

kv_groups *kv_groups_open(const kv_format *format, int n_slots, int n_layers) {
    kv_groups *g = mem_new(1, sizeof *g);
    *g = (kv_groups){
        .format = *format, .n_slots = n_slots, .heads_of_slot = n_layers * N_KV_PARTS * format->n_heads};
    g->lists = mem_new((size_t)(g->n_slots * g->heads_of_slot), sizeof *g->lists);
    pthread_mutex_init(&g->lock, NULL);
    return g;
}

void kv_groups_close(kv_groups *g) {
    if (!g) return;
    for (int slot = 0; slot < g->n_slots; slot++)
        kv_groups_drop(g, slot);
    pthread_mutex_destroy(&g->lock);
    free(g->lists);
    free(g);
}

/* Where the group is, or will be, linked. */
static group **find(group **list, int64_t number) {
    while (*list && (*list)->number != number)
        list = &(*list)->next;
    return list;
}

char *kv_groups_add(kv_groups *g, int slot, int layer, kv_part part, int head, int64_t place, int n,
                    const void *rows) {
    const size_t row_bytes = (size_t)kv_part_width(&g->format, part) * sizeof(uint16_t);
    const int first = (int)(place % KV_INT4_PLACES);
    group **list =
        g->lists + slot * g->heads_of_slot + (layer * N_KV_PARTS + (int)part) * g->format.n_heads + head;
    char *whole = NULL;
    assert(n > 0 && first + n <= KV_INT4_PLACES);
    pthread_mutex_lock(&g->lock);
    group **at = find(list, place / KV_INT4_PLACES);
    if (!*at) {
        *at = mem_new(1, sizeof **at);
        **at = (group){.number = place / KV_INT4_PLACES, .rows = mem_new(KV_INT4_PLACES, row_bytes)};
    }
    memcpy((*at)->rows + (size_t)first * row_bytes, rows, (size_t)n * row_bytes);
    (*at)->there |= UINT64_MAX >> (KV_INT4_PLACES - n) << first;
    if ((*at)->there == UINT64_MAX) {
        group *over = *at;
        whole = over->rows;
        *at = over->next;
        free(over);
    }
    pthread_mutex_unlock(&g->lock);
    return whole;
}

void kv_groups_drop(kv_groups *g, int slot) {
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < g->heads_of_slot; i++)
        for (group **list = g->lists + slot * g->heads_of_slot + i; *list;) {
            group *over = *list;
            *list = over->next;
            free(over->rows);
            free(over);
        }
    pthread_mutex_unlock(&g->lock);
}
