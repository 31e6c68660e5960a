/* kernels/cuda/device/cuda_staging.h: host bytes on their way to the GPU: a pinned buffer and its counterpart
 * in device memory. A piece is written to the one, and copied to the other on the device's stream; the host
 * waits only when a buffer is used again before its last copy is over. Local. */
#pragma once

#include <cuda_runtime.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/cuda/device/cuda_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Pieces lie one behind the other, and begin anew at the front when the end is reached: by then the copies
 * there are over, as their event tells. */
typedef struct cuda_staging {
    char *host, *device;
    size_t bytes, used;
    cudaEvent_t copied; /* the last copy */
} cuda_staging;

status cuda_staging_open(size_t bytes, cuda_staging **out);
void cuda_staging_close(cuda_staging *s); /* NULL is fine */

/* The next piece lies at the front. */
void cuda_staging_rewind(cuda_device *dev, cuda_staging *s);

/* Room for `bytes` at *host, and where they will be on the device; larger buffers are made where these are
 * too small. False when that failed, which the device records. */
bool cuda_staging_begin(cuda_device *dev, cuda_staging *s, size_t bytes, char **host, const char **device);

/* Copy the first `bytes` of what was begun. */
void cuda_staging_end(cuda_device *dev, cuda_staging *s, size_t bytes);

/* Both, with bytes that lie elsewhere; where they are on the device, or NULL. */
void *cuda_staging_send(cuda_device *dev, cuda_staging *s, const void *bytes, size_t n);

#ifdef __cplusplus
}
#endif
