#include "io/h5.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* HDF5's own locks of files are off, as some file systems have none, and the snapshot has its own. */
#define CAN_SET_FILE_LOCKING                                                                                 \
    (H5_VERSION_GE(1, 10, 7) && (H5_VERSION_GE(1, 12, 1) || !H5_VERSION_GE(1, 12, 0)))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* At exit HDF5 would close what a full disk left open in it, and crash. */
static void initialise(void) {
#if !CAN_SET_FILE_LOCKING
    setenv("HDF5_USE_FILE_LOCKING", "FALSE", false);
#endif
    H5dont_atexit();
    H5open();
}

void h5_lock(void) {
    pthread_mutex_lock(&lock);
    pthread_once(&once, initialise);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* an HDF5 for many threads keeps this for each of them */
}

void h5_unlock(void) {
    pthread_mutex_unlock(&lock);
}

/* ---- failures ---- */

/* Where the system refused something, HDF5 says "... errno = 28, ..." within its description; upward, the
 * first entry is the one that noticed. */
static herr_t find_reason(unsigned n, const H5E_error2_t *error, void *reason) {
    const char *number = error->desc ? strstr(error->desc, "errno = ") : NULL;
    int code = number ? atoi(number + strlen("errno = ")) : 0;
    if (code > 0)
        snprintf(reason, STATUS_TEXT_BYTES, "%s", strerror(code));
    else if (n == 0)
        snprintf(reason, STATUS_TEXT_BYTES, "HDF5: %s in %s", error->desc, error->func_name);
    return code > 0; /* the end of the walk */
}

status h5_fail(const char *path, const char *what) {
    char reason[STATUS_TEXT_BYTES] = "HDF5 does not say why";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, find_reason, reason);
    return status_fail("%s: %s: %.400s", path, what, reason);
}

/* ---- properties and types ---- */

hid_t h5_file_access(void) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
#if CAN_SET_FILE_LOCKING
    H5Pset_file_locking(access, false, true);
#endif
    return access;
}

static hid_t creation_without_times(hid_t class) {
    hid_t creation = H5Pcreate(class);
    H5Pset_obj_track_times(creation, false);
    return creation;
}

hid_t h5_file_creation(void) {
    return creation_without_times(H5P_FILE_CREATE);
}

hid_t h5_dataset_creation(void) {
    return creation_without_times(H5P_DATASET_CREATE);
}

herr_t h5_create_group(hid_t file, const char *name) {
    hid_t creation = creation_without_times(H5P_GROUP_CREATE);
    hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    H5Pclose(creation);
    return group < 0 ? -1 : H5Gclose(group);
}

hid_t h5_element_type(dtype type) {
    hid_t file_type = H5Tcopy(H5T_IEEE_F32LE);
    if (type == DTYPE_F32) return file_type;
    /* bf16: the upper half of an f32: sign at bit 15, 8 bits of exponent from bit 7, 7 bits of fraction from
     * 0 */
    H5Tset_fields(file_type, 15, 7, 8, 0, 7);
    H5Tset_size(file_type, 2);
    return file_type;
}

hid_t h5_element_creation(dtype type) {
    const uint32_t nan_bits = 0x7FC00000;
    const uint16_t upper_bits = nan_bits >> 16;
    hid_t creation = h5_dataset_creation(), file_type = h5_element_type(type);
    if (H5Pset_fill_value(creation, file_type, type == DTYPE_F32 ? (const void *)&nan_bits : &upper_bits) <
        0) {
        H5Pclose(creation);
        creation = -1;
    }
    H5Tclose(file_type);
    return creation;
}

/* ---- attributes ---- */

static herr_t write_attribute(hid_t object, const char *name, hid_t type, hid_t space, hid_t memory_type,
                              const void *value) {
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t code = attribute < 0 ? -1 : H5Awrite(attribute, memory_type, value);
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    return code;
}

herr_t h5_write_integers(hid_t object, const char *name, const int64_t *values, int n) {
    const hsize_t length = (hsize_t)n;
    hid_t space = n == 1 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &length, NULL);
    return write_attribute(object, name, H5T_STD_I64LE, space, H5T_NATIVE_INT64, values);
}

herr_t h5_write_text(hid_t object, const char *name, const char *text) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(text) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    herr_t code = write_attribute(object, name, type, H5Screate(H5S_SCALAR), type, text);
    H5Tclose(type);
    return code;
}
