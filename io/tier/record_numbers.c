#include "io/tier/record_numbers.h"

#include <assert.h>
#include <stdlib.h>

#include "src/base/memory.h"

int record_numbers_take(record_numbers *numbers) {
    if (numbers->n_free == 0) return numbers->n_ever < numbers->n_all ? numbers->n_ever++ : -1;
    int *heap = numbers->free, lowest = heap[0], last = heap[--numbers->n_free], at = 0;
    for (int child; (child = 2 * at + 1) < numbers->n_free; at = child) {
        if (child + 1 < numbers->n_free && heap[child + 1] < heap[child]) child++;
        if (last <= heap[child]) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return lowest;
}

void record_numbers_give_back(record_numbers *numbers, int number) {
    assert(number >= 0 && number < numbers->n_ever);
    int *heap = mem_grow(numbers->free, (size_t)numbers->n_free, sizeof *heap), at = numbers->n_free++;
    for (; at > 0 && number < heap[(at - 1) / 2]; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = number;
    numbers->free = heap;
}

void record_numbers_release(record_numbers *numbers) {
    free(numbers->free);
    numbers->free = NULL;
}
