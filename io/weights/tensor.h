/* io/weights/tensor.h: where a tensor lies in the files of a model. */
#pragma once

#include <stdint.h>

#include "kernels/dtype.h"

enum { TENSOR_MAX_DIMS = 4 };

typedef struct tensor {
    const char *name; /* owned by the handle */
    int file;         /* which file of the directory, in the order of their names */
    dtype type;
    int n_dims;
    int64_t shape[TENSOR_MAX_DIMS];
    uint64_t offset; /* of the first byte in the file */
    uint64_t n_bytes;
} tensor;
