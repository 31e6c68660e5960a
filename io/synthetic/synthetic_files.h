/* io/synthetic/synthetic_files.h: a synthetic model as safetensors: which tensors go into which file, and
 * writing them.
 *
 * One file, model.safetensors, or as many shards as their size asks for, with model.safetensors.index.json:
 * the names and the index are those of Hugging Face. Files are independent, so ranks may share them out. All
 * functions are Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "io/synthetic/synthetic.h"

typedef struct synthetic_file {
    char name[48];
    size_t first, n; /* of the tensors */
    char *header;    /* n_header bytes: all that stands before the data */
    size_t n_header;
    uint64_t n_bytes; /* of the whole file */
} synthetic_file;

typedef struct synthetic_files {
    const char *dir; /* borrowed */
    synthetic_tensor *tensors;
    size_t n_tensors;
    synthetic_file *files;
    int n_files;
    uint64_t n_data_bytes; /* of all tensors */
    text_buffer made;      /* names of what was made here, each with a zero byte behind it */
} synthetic_files;

/* Files in dir for these tensors, which it takes, with at most max_bytes of data each, but for tensors that
 * are larger alone. Nothing is written. Release with synthetic_files_free. */
synthetic_files synthetic_files_plan(const char *dir, synthetic_tensor *tensors, size_t n_tensors,
                                     uint64_t max_bytes);
void synthetic_files_free(synthetic_files *f);

/* Make the i-th file, which must not exist, with its header, and have the space for its data ready. Refuses a
 * directory that cannot be written to; fails without space. */
status synthetic_files_create(synthetic_files *f, int i);

/* Called, by one thread at a time, with the bytes of data that it has written just now. */
typedef void synthetic_tell(void *context, uint64_t n_bytes);

/* Write its data by n_threads, until they are on the disk. */
status synthetic_files_fill(const synthetic_files *f, int i, const synthetic_values *v, int n_threads,
                            synthetic_tell *tell, void *context);

/* Write the index, where there are shards. */
status synthetic_files_write_index(synthetic_files *f);

/* Write another file of the model, which must not exist, until it is on the disk. */
status synthetic_files_write_text(synthetic_files *f, const char *name, const text_buffer *text);

/* Remove what was made through f, and nothing that was made by others meanwhile. */
void synthetic_files_remove(synthetic_files *f);
