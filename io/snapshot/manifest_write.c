#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/files.h"
#include "io/h5.h"
#include "io/snapshot/manifest_private.h"
#include "src/base/fault.h"

/* ---- the HDF5 file, made in memory ---- */

typedef struct image {
    const char *path; /* for messages */
    hid_t file;
    char *bytes; /* once it is closed */
    size_t n_bytes;
} image;

/* HDF5's driver for files in memory hands the bytes over when the file is closed. (H5Fget_file_image copies
 * those of an open file, which is marked as such, with a checksum that is wrong then.) */

static void *image_malloc(size_t n, H5FD_file_image_op_t op, void *to) {
    (void)op, (void)to;
    return malloc(n);
}

static void *image_realloc(void *bytes, size_t n, H5FD_file_image_op_t op, void *to) {
    (void)op, (void)to;
    return realloc(bytes, n);
}

static void *image_memcpy(void *dst, const void *src, size_t n, H5FD_file_image_op_t op, void *to) {
    (void)op, (void)to;
    return memcpy(dst, src, n);
}

static herr_t image_free(void *bytes, H5FD_file_image_op_t op, void *to) {
    if (op == H5FD_FILE_IMAGE_OP_FILE_CLOSE)
        ((image *)to)->bytes = bytes;
    else
        free(bytes);
    return 0;
}

static void *same_image(void *to) {
    return to;
}

static herr_t leave_image(void *to) {
    (void)to;
    return 0;
}

/* A file of no disk: what may fail is only memory. */
static status create_image(image *out) {
    H5FD_file_image_callbacks_t callbacks = {.image_malloc = image_malloc,
                                             .image_memcpy = image_memcpy,
                                             .image_realloc = image_realloc,
                                             .image_free = image_free,
                                             .udata_copy = same_image,
                                             .udata_free = leave_image,
                                             .udata = out};
    hid_t access = h5_file_access(), creation = h5_file_creation();
    herr_t code = H5Pset_fapl_core(access, 1 << 20, false);
    if (code >= 0) code = H5Pset_file_image_callbacks(access, &callbacks);
    if (code >= 0) out->file = H5Fcreate(MANIFEST_NAME, H5F_ACC_TRUNC, creation, access);
    bool good = out->file >= 0 && h5_create_group(out->file, "/batch") >= 0 &&
                h5_create_group(out->file, "/layers") >= 0;
    status st = good ? STATUS_OK : h5_fail(out->path, "cannot be made");
    H5Pclose(creation);
    H5Pclose(access);
    return st;
}

/* The superblock says how many of the bytes are used. */
static status close_image(image *from) {
    if (H5Fclose(from->file) < 0 || !from->bytes) return h5_fail(from->path, "cannot be made");
    const int end_of_file_at = 28; /* superblocks of version 2 and 3 */
    uint64_t n_bytes;
    assert(from->bytes[8] == 2 || from->bytes[8] == 3);
    memcpy(&n_bytes, from->bytes + end_of_file_at, sizeof n_bytes);
    from->n_bytes = (size_t)n_bytes;
    return STATUS_OK;
}

static hid_t array_type(manifest_array a) {
    if (a == MANIFEST_TOKENS) return H5Tcopy(H5T_STD_I32LE);
    if (a == MANIFEST_LAST_LOGITS) return H5Tcopy(H5T_IEEE_F32LE);
    if (a != MANIFEST_LOGPROBS) return H5Tcopy(H5T_STD_U8LE);
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(manifest_logprob));
    H5Tinsert(type, "token", HOFFSET(manifest_logprob, token), H5T_STD_I32LE);
    H5Tinsert(type, "logprob", HOFFSET(manifest_logprob, logprob), H5T_IEEE_F32LE);
    return type;
}

/* Write a dataset whose bytes are as in memory; *offset: where they lie in the image. */
static status write_dataset(const image *to, const char *name, hid_t type, hid_t space, const void *bytes,
                            haddr_t *offset) {
    hid_t creation = h5_dataset_creation();
    hid_t dataset = H5Dcreate2(to->file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    bool good = dataset >= 0 && H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0;
    *offset = dataset >= 0 ? H5Dget_offset(dataset) : HADDR_UNDEF;
    status st = good ? STATUS_OK : h5_fail(to->path, "cannot be made");
    if (dataset >= 0) H5Dclose(dataset);
    H5Pclose(creation);
    return st;
}

/* An array without elements lies nowhere. */
static status write_array(const image *to, const manifest *m, manifest_array a, const text_buffer *bytes,
                          int64_t *file_offset) {
    *file_offset = 0;
    const bool is_table = a == MANIFEST_LAST_LOGITS;
    const size_t n = bytes->n / manifest_element_bytes(a), width = is_table ? (size_t)m->vocab_size : 1;
    const hsize_t dims[2] = {n / width, width};
    hid_t type = array_type(a), space = H5Screate_simple(is_table ? 2 : 1, dims, NULL);
    haddr_t offset;
    status st = write_dataset(to, manifest_array_name(a), type, space, bytes->n ? bytes->data : "", &offset);
    if (bytes->n) *file_offset = MANIFEST_BLOCK_BYTES + (int64_t)offset;
    H5Sclose(space);
    H5Tclose(type);
    return st;
}

static status write_json(const image *to, const text_buffer *json, int64_t *file_offset) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, json->n);
    H5Tset_strpad(type, H5T_STR_NULLPAD); /* no zero byte at the end */
    H5Tset_cset(type, H5T_CSET_UTF8);
    haddr_t offset;
    status st = write_dataset(to, "/manifest", type, space, json->data, &offset);
    *file_offset = MANIFEST_BLOCK_BYTES + (int64_t)offset;
    H5Sclose(space);
    H5Tclose(type);
    return st;
}

/* ---- the cache as virtual datasets ---- */

/* Add the rows of a segment: of its dataset of the same name, or of the one that all its layers have, in the
 * file beside the manifest. */
static herr_t map_segment(hid_t creation, hid_t space, const segment_info *s, int layer, kv_part part,
                          const char *name) {
    const hsize_t begin[3] = {(hsize_t)s->row0, 0, 0};
    const hsize_t dims[5] = {1, 1, (hsize_t)s->n_rows, (hsize_t)s->n_kv_heads, (hsize_t)s->head_dim};
    const hsize_t all[5] = {(hsize_t)(s->last_layer - s->first_layer), N_KV_PARTS, dims[2], dims[3], dims[4]};
    const hsize_t at[5] = {(hsize_t)(layer - s->first_layer), (hsize_t)part};
    const bool is_joint = segment_is_joint(s);
    hid_t source = is_joint ? H5Screate_simple(5, all, NULL) : H5Screate_simple(3, dims + 2, NULL);
    herr_t code = H5Sselect_hyperslab(space, H5S_SELECT_SET, begin, NULL, dims + 2, NULL);
    if (code >= 0 && is_joint) code = H5Sselect_hyperslab(source, H5S_SELECT_SET, at, NULL, dims, NULL);
    if (code >= 0) code = H5Pset_virtual(creation, space, s->name, is_joint ? "/kv" : name, source);
    H5Sclose(source);
    return code;
}

/* One part of a layer; rows of which no segment is there read as NaN. */
static status write_view(const image *to, const manifest *m, int layer, kv_part part, hid_t type) {
    char name[64];
    snprintf(name, sizeof name, "/layers/%d/%s", layer, part == KV_PART_K ? "k" : "v");
    const hsize_t dims[3] = {(hsize_t)m->n_rows, (hsize_t)m->n_kv_heads, (hsize_t)m->head_dim};
    hid_t space = H5Screate_simple(3, dims, NULL), creation = h5_element_creation(m->type);
    herr_t code = H5Pset_layout(creation, H5D_VIRTUAL);
    for (int64_t i = 0; i < m->n_segments && code >= 0; i++)
        if (m->segments[i].first_layer <= layer && layer < m->segments[i].last_layer)
            code = map_segment(creation, space, &m->segments[i], layer, part, name);
    H5Sselect_all(space);
    hid_t dataset =
        code >= 0 ? H5Dcreate2(to->file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT) : -1;
    status st = dataset >= 0 ? STATUS_OK : h5_fail(to->path, "its virtual datasets cannot be made");
    if (dataset >= 0) H5Dclose(dataset);
    H5Pclose(creation);
    H5Sclose(space);
    return st;
}

static status write_views(const image *to, const manifest *m) {
    hid_t type = h5_element_type(m->type);
    status st = STATUS_OK;
    for (int layer = 0; layer < m->n_layers && m->n_rows && st == STATUS_OK; layer++) {
        char group[32];
        snprintf(group, sizeof group, "/layers/%d", layer);
        if (h5_create_group(to->file, group) < 0) st = h5_fail(to->path, "cannot be made");
        for (int part = 0; part < N_KV_PARTS && st == STATUS_OK; part++)
            st = write_view(to, m, layer, (kv_part)part, type);
    }
    H5Tclose(type);
    return st;
}

/* ---- all of it ---- */

static status fill_image(const image *to, const manifest *m, manifest_block *block) {
    text_buffer arrays[N_MANIFEST_ARRAYS] = {0}, json = {0};
    int64_t offsets[N_MANIFEST_ARRAYS] = {0};
    manifest_gather(m, arrays);
    status st = STATUS_OK;
    for (int a = 0; a < N_MANIFEST_ARRAYS && st == STATUS_OK; a++)
        st = write_array(to, m, (manifest_array)a, &arrays[a], &offsets[a]);
    if (st == STATUS_OK) st = write_views(to, m);
    if (st == STATUS_OK) {
        manifest_write_json(m, arrays, offsets, &json);
        block->json_bytes = (int64_t)json.n;
        st = write_json(to, &json, &block->json_offset);
    }
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++)
        free(arrays[a].data);
    free(json.data);
    return st;
}

static status make_image(const manifest *m, image *out, manifest_block *block) {
    h5_lock();
    status st = create_image(out);
    if (st == STATUS_OK) st = fill_image(out, m, block);
    status closed = out->file >= 0 ? close_image(out) : st;
    if (st == STATUS_OK) st = closed;
    h5_unlock();
    return st;
}

/* ---- the file ---- */

static status write_temporary(const char *path, const char *block, const image *rest) {
    status st = status_at(fault_at("manifest-create"), "%s", path);
    if (st != STATUS_OK) return st;
    if (unlink(path) != 0 && errno != ENOENT)
        return status_fail("%s: cannot be removed: %s", path, strerror(errno));
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return status_fail("%s: cannot be created: %s", path, strerror(errno));
    st = status_at(fault_at("manifest-write"), "%s", path);
    if (st == STATUS_OK) st = file_write(fd, path, block, MANIFEST_BLOCK_BYTES);
    if (st == STATUS_OK) st = file_write(fd, path, rest->bytes, rest->n_bytes);
    if (st == STATUS_OK) st = status_at(fault_at("manifest-flush"), "%s", path);
    if (st == STATUS_OK) st = file_flush(fd, path);
    close(fd);
    return st;
}

/* The old one stays under another name until the directory is on the disk, so that there is a way back (but
 * on file systems without hard links). */
static status replace(const char *dir, const char *temporary) {
    char *path = manifest_path(dir), *old = file_path(dir, MANIFEST_OLD_NAME);
    unlink(old);
    const bool has_old = link(path, old) == 0, is_first = !has_old && errno == ENOENT;
    status st = status_at(fault_at("manifest-rename"), "%s", path);
    if (st == STATUS_OK && rename(temporary, path) != 0)
        st = status_fail("%s: cannot be renamed: %s", temporary, strerror(errno));
    if (st == STATUS_OK) {
        st = status_at(fault_at("manifest-directory-flush"), "%s", dir);
        if (st == STATUS_OK) st = directory_flush(dir);
        if (st != STATUS_OK && has_old) (void)rename(old, path);
        if (st != STATUS_OK && is_first) unlink(path);
    }
    unlink(old);
    free(path);
    free(old);
    return st;
}

/* One that could not be read again must not replace one that can. */
static status check(const manifest *m, const char *path) {
    if (manifest_check_rows(m, path) == STATUS_OK) return STATUS_OK;
    return status_at(STATUS_FAILED, "this manifest would be refused");
}

status manifest_write(const char *dir, const manifest *m) {
    char *temporary = file_path(dir, MANIFEST_TEMPORARY_NAME), block_text[MANIFEST_BLOCK_BYTES];
    image made = {.path = temporary, .file = -1};
    manifest_block block = {0};
    status st = check(m, temporary);
    if (st == STATUS_OK) st = make_image(m, &made, &block);
    if (st == STATUS_OK) {
        block.format = manifest_format(m);
        block.file_bytes = MANIFEST_BLOCK_BYTES + (int64_t)made.n_bytes;
        manifest_block_make(&block, made.bytes, block_text);
        st = write_temporary(temporary, block_text, &made);
        if (st == STATUS_OK) st = replace(dir, temporary);
        if (st != STATUS_OK) unlink(temporary);
    }
    free(made.bytes);
    free(temporary);
    return st;
}

void manifest_describe_hdf5(char *text, size_t n) {
    unsigned major = 0, minor = 0, release = 0;
    h5_lock();
    H5get_libversion(&major, &minor, &release);
    h5_unlock();
    snprintf(text, n, "%u.%u.%u", major, minor, release);
}
