/* io/h5.h: HDF5 for those who write its files. HDF5 itself may be built for one thread: whoever calls it
 * holds this process's lock. A file that could not be written (a full disk) may stay open within HDF5 until
 * the process ends; other files are not harmed. All functions are Local. */
#pragma once

#include <hdf5.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "src/base/status.h"

/* The lock. Within it HDF5 is initialised and prints nothing. */
void h5_lock(void);
void h5_unlock(void);

/* What follows is called with the lock held. */

/* Record that HDF5 could not do something ("cannot be written") to this file, and why: the system's reason if
 * it has one, or else HDF5's. */
status h5_fail(const char *path, const char *what);

/* Properties of new files: metadata with checksums, readable from HDF5 1.10 on, no locks of HDF5's own. */
hid_t h5_file_access(void);

/* Properties of new files and datasets, and new groups: without times, so that equal content makes equal
 * bytes. */
hid_t h5_file_creation(void);
hid_t h5_dataset_creation(void);
herr_t h5_create_group(hid_t file, const char *name);

/* How DTYPE_BF16 and DTYPE_F32 lie in files; to be closed. Elements go to files as they are in memory, of
 * this very type: HDF5 is never asked to convert numbers. */
hid_t h5_element_type(dtype type);

/* h5_dataset_creation for elements of K and V: those that are not there read as NaN, which nobody takes for a
 * value. */
hid_t h5_element_creation(dtype type);

/* Attributes for people. Negative: failed. */
herr_t h5_write_integers(hid_t object, const char *name, const int64_t *values, int n);
herr_t h5_write_text(hid_t object, const char *name, const char *text);
