/* kernels/dtype.h: element types of tensors in files and on devices. */
#pragma once

#include <stddef.h>

typedef enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_U8 } dtype;

static inline size_t dtype_bytes(dtype type) {
    return type == DTYPE_F32 ? 4 : type == DTYPE_U8 ? 1 : 2;
}

static inline const char *dtype_name(dtype type) {
    static const char *const names[] = {"f32", "bf16", "f16", "u8"};
    return names[type];
}
