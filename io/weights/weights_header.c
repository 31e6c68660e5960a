#include "io/weights/weights_header.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "io/json.h"
#include "src/base/memory.h"

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 32 << 20 };

/* The file around the header: where its data begins, and how many bytes of it there are. */
typedef struct data_area {
    const char *path;
    int file;
    uint64_t offset, n_bytes;
} data_area;

static const struct {
    const char *name;
    unsigned bits;
    int type; /* of dtype.h, or -1 */
} known_dtypes[] = {
    {"BF16", 16, DTYPE_BF16}, {"F16", 16, DTYPE_F16}, {"F32", 32, DTYPE_F32}, {"F64", 64, -1},
    {"I64", 64, -1},          {"U64", 64, -1},        {"I32", 32, -1},        {"U32", 32, -1},
    {"I16", 16, -1},          {"U16", 16, -1},        {"I8", 8, -1},          {"U8", 8, -1},
    {"BOOL", 8, -1},          {"F8_E4M3", 8, -1},     {"F8_E5M2", 8, -1},     {"F8_E8M0", 8, -1},
    {"F6_E2M3", 6, -1},       {"F6_E3M2", 6, -1},     {"F4", 4, -1},          {"C64", 64, -1},
};

/* ---- one tensor ---- */

static void read_dtype(json_object *entry, header_tensor *out, unsigned *bits) {
    const char *name = json_text(entry, "dtype");
    for (size_t i = 0; i < sizeof known_dtypes / sizeof *known_dtypes; i++) {
        if (strcmp(known_dtypes[i].name, name) != 0) continue;
        *bits = known_dtypes[i].bits;
        if (known_dtypes[i].type < 0)
            out->unread_dtype = known_dtypes[i].name;
        else
            out->t.type = (dtype)known_dtypes[i].type;
        return;
    }
    json_refuse(entry, "dtype", "\"%.40s\" is not a dtype of safetensors", name);
}

/* *n_elements is the product of the shape. */
static void read_shape(json_object *entry, tensor *t, uint64_t *n_elements) {
    const cJSON *shape = json_find(entry, "shape"), *dim;
    if (!cJSON_IsArray(shape)) {
        json_refuse(entry, "shape", "an array of dimensions was expected");
        return;
    }
    *n_elements = 1;
    cJSON_ArrayForEach(dim, shape) {
        if (t->n_dims == TENSOR_MAX_DIMS) {
            json_refuse(entry, "shape", "more than %d dimensions", TENSOR_MAX_DIMS);
            return;
        }
        int64_t *length = &t->shape[t->n_dims++];
        if (!json_item_is_int(dim, 0, INT64_MAX, length)) {
            json_refuse(entry, "shape", "dimension %d is not a whole number from 0 to 2^53", t->n_dims);
            return;
        }
        if (__builtin_mul_overflow(*n_elements, (uint64_t)*length, n_elements)) {
            json_refuse(entry, "shape", "the product of the dimensions overflows");
            return;
        }
    }
}

static void read_offsets(json_object *entry, const data_area *data, uint64_t n_bytes, tensor *t) {
    const cJSON *pair = json_find(entry, "data_offsets");
    int64_t begin, end;
    if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 ||
        !json_item_is_int(pair->child, 0, INT64_MAX, &begin) ||
        !json_item_is_int(pair->child->next, begin, INT64_MAX, &end)) {
        json_refuse(entry, "data_offsets", "[begin, end] with 0 <= begin <= end was expected");
        return;
    }
    if ((uint64_t)end > data->n_bytes)
        json_refuse(
            entry, "data_offsets",
            "it ends at byte %lld of the data, but the file holds only %llu (truncated? fetch it again)",
            (long long)end, (unsigned long long)data->n_bytes);
    else if ((uint64_t)(end - begin) != n_bytes)
        json_refuse(entry, "data_offsets", "[%lld, %lld] are %lld bytes, but dtype and shape need %llu",
                    (long long)begin, (long long)end, (long long)(end - begin), (unsigned long long)n_bytes);
    t->offset = data->offset + (uint64_t)begin;
    t->n_bytes = n_bytes;
}

static status read_tensor(const cJSON *item, const data_area *data, header_tensor *out) {
    char label[STATUS_TEXT_BYTES / 2];
    snprintf(label, sizeof label, "%.300s: tensor \"%.150s\"", data->path, item->string);
    json_object entry = json_view(item, label);
    unsigned bits = 0;
    uint64_t n_elements = 0, n_bits;
    read_dtype(&entry, out, &bits);
    read_shape(&entry, &out->t, &n_elements);
    if (__builtin_mul_overflow(n_elements, (uint64_t)bits, &n_bits))
        json_refuse(&entry, "shape", "the number of bytes overflows");
    else if (n_bits % 8)
        json_refuse(&entry, "shape", "the elements do not fill whole bytes");
    else
        read_offsets(&entry, data, n_bits / 8, &out->t);
    return entry.st;
}

/* ---- all tensors of a file ---- */

static header_tensor *append(header_list *list) {
    if (list->n == list->capacity) {
        list->capacity = 2 * list->capacity + 64;
        list->items = mem_resize(list->items, list->capacity, sizeof *list->items);
    }
    header_tensor *item = &list->items[list->n++];
    *item = (header_tensor){0};
    return item;
}

static int compare_offsets(const void *a, const void *b) {
    const tensor *s = &((const header_tensor *)a)->t, *t = &((const header_tensor *)b)->t;
    if (s->offset != t->offset) return s->offset < t->offset ? -1 : 1;
    return s->n_bytes < t->n_bytes ? -1 : s->n_bytes > t->n_bytes;
}

/* Tensors [first, n) of the list tile the data. */
static status check_tiling(header_list *list, size_t first, const data_area *data) {
    if (list->n) qsort(list->items + first, list->n - first, sizeof *list->items, compare_offsets);
    uint64_t end = data->offset;
    for (size_t i = first; i < list->n; i++) {
        const tensor *t = &list->items[i].t;
        if (t->offset < end)
            return status_refuse("%.300s: tensors \"%.150s\" and \"%.150s\" overlap", data->path,
                                 list->items[i - 1].t.name, t->name);
        if (t->offset > end)
            return status_refuse("%.300s: %llu bytes before tensor \"%.150s\" belong to no tensor",
                                 data->path, (unsigned long long)(t->offset - end), t->name);
        end += t->n_bytes;
    }
    uint64_t rest = data->offset + data->n_bytes - end;
    if (rest)
        return status_refuse("%.300s: %llu bytes at its end belong to no tensor", data->path,
                             (unsigned long long)rest);
    return STATUS_OK;
}

static status read_tensors(const cJSON *root, const data_area *data, header_list *list) {
    char label[STATUS_TEXT_BYTES / 2];
    snprintf(label, sizeof label, "%.400s: header", data->path);
    json_object header = json_view(root, label); /* also refuses a name that occurs twice */
    size_t first = list->n;
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        if (header.st != STATUS_OK) return header.st;
        if (strcmp(item->string, "__metadata__") == 0) {
            if (!cJSON_IsObject(item)) json_refuse(&header, "__metadata__", "an object {...} was expected");
            continue;
        }
        if (!json_is_printable(item->string))
            json_refuse(&header, item->string, "a name with control characters");
        if (header.st != STATUS_OK) return header.st;
        header_tensor *out = append(list);
        out->t.name = mem_copy_text(item->string, strlen(item->string));
        out->t.file = data->file;
        header.st = read_tensor(item, data, out);
    }
    return header.st == STATUS_OK ? check_tiling(list, first, data) : header.st;
}

/* ---- the file ---- */

/* The length of the header, which fits the file. */
static status read_length(int fd, const char *path, uint64_t file_bytes, uint64_t *out) {
    if (file_bytes < LENGTH_BYTES + 2)
        return status_refuse("%s: %llu bytes are too few for a safetensors file", path,
                             (unsigned long long)file_bytes);
    unsigned char bytes[64] = {0};
    status st = file_read_at(fd, path, 0, bytes, file_bytes < sizeof bytes ? file_bytes : sizeof bytes);
    if (st == STATUS_OK) st = file_refuse_pointer(path, (const char *)bytes, sizeof bytes);
    if (st != STATUS_OK) return st;
    uint64_t length = 0;
    for (int i = LENGTH_BYTES; i-- > 0;)
        length = length << 8 | bytes[i];
    if (length > file_bytes - LENGTH_BYTES)
        return status_refuse("%s: its header is %llu bytes long, but the file has only %llu "
                             "(truncated, or not safetensors)",
                             path, (unsigned long long)length, (unsigned long long)file_bytes);
    if (length > MAX_HEADER_BYTES)
        return status_refuse("%s: its header is %llu bytes long, more than the %d that are accepted", path,
                             (unsigned long long)length, MAX_HEADER_BYTES);
    *out = length;
    return STATUS_OK;
}

status weights_header_read(int fd, const char *path, int file, header_list *list) {
    struct stat info;
    if (fstat(fd, &info) != 0) return status_fail("%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return status_refuse("%s: not a regular file", path);
    uint64_t length = 0;
    status st = read_length(fd, path, (uint64_t)info.st_size, &length);
    if (st != STATUS_OK) return st;

    char *json = mem_new((size_t)length + 1, 1);
    cJSON *root = NULL;
    st = file_read_at(fd, path, LENGTH_BYTES, json, (size_t)length);
    if (st == STATUS_OK) st = status_at(json_parse(json, (size_t)length, "header", &root), "%.400s", path);
    free(json);
    const data_area data = {.path = path,
                            .file = file,
                            .offset = LENGTH_BYTES + length,
                            .n_bytes = (uint64_t)info.st_size - LENGTH_BYTES - length};
    if (st == STATUS_OK) st = read_tensors(root, &data, list);
    cJSON_Delete(root);
    return st;
}

void header_list_free(header_list *list) {
    for (size_t i = 0; i < list->n; i++)
        free((char *)list->items[i].t.name);
    free(list->items);
    *list = (header_list){0};
}
