/* src/tokenizer/pieces.h: a text cut into pieces, as it goes through the steps of a tokenizer. Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/memory.h"

enum { PIECE_IS_TEXT = -1 };

typedef struct piece {
    size_t start, end; /* bytes of the text */
    int32_t token; /* the added token that was found here, which no later step touches; or PIECE_IS_TEXT */
    bool first;    /* begins where the user's text begins */
} piece;

/* In order; pieces of text are never empty. Zeroed is empty. */
typedef struct piece_list {
    text_buffer text;
    piece *items;
    size_t n, capacity;
} piece_list;

/* Empty it, keeping its memory. */
void piece_list_clear(piece_list *list);
void piece_list_free(piece_list *list);

/* Append a piece; one of text is left out when empty. */
void piece_list_append(piece_list *list, piece added);
