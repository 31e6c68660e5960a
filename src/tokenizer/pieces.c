#include "src/tokenizer/pieces.h"

#include <stdlib.h>

void piece_list_clear(piece_list *list) {
    list->n = 0;
    list->text.n = 0;
    text_append(&list->text, "", 0);
}

void piece_list_free(piece_list *list) {
    free(list->text.data);
    free(list->items);
    *list = (piece_list){0};
}

void piece_list_append(piece_list *list, piece added) {
    if (added.token == PIECE_IS_TEXT && added.start >= added.end) return;
    if (list->n == list->capacity) {
        list->capacity = 2 * list->capacity + 64;
        list->items = mem_resize(list->items, list->capacity, sizeof *list->items);
    }
    list->items[list->n++] = added;
}
