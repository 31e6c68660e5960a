/* src/tokenizer/token_list.h: token ids that become more. Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A list of token ids that grows: zeroed is empty. Released with free(ids). */
typedef struct token_list {
    int32_t *ids;
    size_t n, capacity;
} token_list;

void token_list_append(token_list *list, int32_t id);
