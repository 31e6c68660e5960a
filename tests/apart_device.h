/* tests/apart_device.h: a device whose memory is not host memory, and which does things as late as it may,
 * for tests of those who use one.
 *
 * A pointer into its memory cannot be read or written by the host: a program that tries is ended. Copies
 * and operations know where the bytes really are. What is queued runs only when somebody waits for it: sync,
 * copy_in and copy_out, or a copy that comes after it (copy_after), when that was asked a few times whether
 * it is over; some copies take longer than those after them. So whatever does not wait for what it needs gets
 * bytes from before. */
#pragma once

#include "kernels/device.h"

/* The device has `bytes` of memory, which are not used again when released. Sync, copy_in and copy_out are
 * counted. */
status apart_device_open(size_t bytes, device **out);

/* Queue an operation: run(x, n, argument), where x is memory that the host can read. */
typedef void apart_operation(float *x, size_t n, int argument);
void apart_device_queue(device *dev, apart_operation *run, float *x, size_t n, int argument);

/* How often the host has waited for all operations. */
int apart_device_n_waits(const device *dev);

/* From now on copies beside the operations fail. */
void apart_device_fail_copies(device *dev);
