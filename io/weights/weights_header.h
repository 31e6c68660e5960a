/* io/weights/weights_header.h: what one safetensors file says that it holds, checked against the file.
 * Private to the files of this folder.
 *
 * The rules are those of the format: every byte behind the header belongs to exactly one tensor, and its
 * bytes are what dtype and shape need. Local. */
#pragma once

#include <stdbool.h>

#include "io/weights/tensor.h"
#include "src/base/status.h"

typedef struct header_tensor {
    tensor t;                 /* name is owned by the list */
    const char *unread_dtype; /* NULL, or the name of a dtype that kvarve does not read (t.type is not set) */
    bool is_missing;          /* an index names it, in t.file, but no file has it: only the name is set */
} header_tensor;

/* Zeroed is empty. */
typedef struct header_list {
    header_tensor *items;
    size_t n, capacity;
} header_list;

/* Read and check the header of the open file; its tensors are appended in order of offset, with t.file =
 * file. On refusal the list may hold some of them. */
status weights_header_read(int fd, const char *path, int file, header_list *list);

void header_list_free(header_list *list);
