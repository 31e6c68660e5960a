#include "src/tokenizer/token_list.h"

#include "src/base/memory.h"

void token_list_append(token_list *list, int32_t id) {
    if (list->n == list->capacity) {
        list->capacity = 2 * list->capacity + 64;
        list->ids = mem_resize(list->ids, list->capacity, sizeof *list->ids);
    }
    list->ids[list->n++] = id;
}
