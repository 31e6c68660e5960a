/* io/weights/weights_index.h: model.safetensors.index.json: which file holds which tensor. Private to the
 * files of this folder. Local. */
#pragma once

#include <stddef.h>

#include "src/base/status.h"

typedef struct index_entry {
    const char *tensor, *file; /* owned by the index */
} index_entry;

typedef struct weights_index {
    index_entry *entries; /* in order of the tensors' names */
    size_t n_entries;
    const char **files; /* each once, in order; names without a directory, all ending with .safetensors */
    int n_files;
    void *document; /* the parsed JSON, which owns the texts */
} weights_index;

/* Refuses, naming the tensor, what is not such a map or leads out of the directory. */
status weights_index_read(const char *path, weights_index *out);

void weights_index_free(weights_index *index); /* zeroed is fine */
