#include "io/codec/kv_tables.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/codec/varve_planes.h"
#include "io/files.h"

enum { FILE_VERSION = 2, GENERIC_VERSION, MOST_LAYERS = 4096 };

/* As in the file, little-endian. */
typedef struct file_head {
    char magic[8];
    uint32_t version;
    int32_t n_layers, n_kv_heads, head_dim;
    uint64_t model_digest[2];
} file_head;

static const char magic[8] = {'K', 'V', 'T', 'A', 'B', 'L', 'E', '\n'};

_Static_assert(sizeof(file_head) == 40, "the head lies in memory as in a file");

static uint64_t digest_of(const void *bytes, size_t n) {
    uint64_t digest = XXH3_64bits(bytes, n);
    return digest ? digest : 1;
}

static void append_file(const kv_tables_shape *shape, uint32_t version, const void *parts, size_t n_bytes,
                        text_buffer *out) {
    file_head head = {
        .version = version,
        .n_layers = shape->n_layers,
        .n_kv_heads = shape->n_kv_heads,
        .head_dim = shape->head_dim,
        .model_digest = {shape->model_digest[0], shape->model_digest[1]},
    };
    memcpy(head.magic, magic, sizeof magic);
    const size_t begin = out->n;
    text_append(out, (const char *)&head, sizeof head);
    text_append(out, parts, n_bytes);
    uint64_t digest = digest_of(out->data + begin, out->n - begin);
    text_append(out, (const char *)&digest, sizeof digest);
}

void kv_tables_append(const kv_tables_shape *shape, const void *parts, size_t n_bytes, text_buffer *out) {
    append_file(shape, FILE_VERSION, parts, n_bytes, out);
}

void kv_tables_append_generic(const kv_tables_shape *shape, const float *frequencies,
                              const varve_scale *layers, text_buffer *out) {
    text_buffer parts = {0};
    text_append(&parts, (const char *)frequencies, (size_t)shape->head_dim / 2 * sizeof *frequencies);
    text_append(&parts, (const char *)layers, (size_t)shape->n_layers * sizeof *layers);
    append_file(shape, GENERIC_VERSION, parts.data, parts.n, out);
    free(parts.data);
}

static status check_head(const file_head *head) {
    if (memcmp(head->magic, magic, sizeof magic) != 0)
        return status_refuse("no tables of kvarve calibrate: its first bytes are others");
    if (head->version < FILE_VERSION || head->version > GENERIC_VERSION)
        return status_refuse("tables of version %u, this program reads %d and %d", head->version,
                             FILE_VERSION, GENERIC_VERSION);
    if (head->n_layers < 1 || head->n_layers > MOST_LAYERS || head->n_kv_heads < 1 || head->head_dim < 1)
        return status_refuse("tables of %d layers, %d kv heads of %d", head->n_layers, head->n_kv_heads,
                             head->head_dim);
    return STATUS_OK;
}

static status read_cachegen(byte_reader *r, int64_t n_channels, cachegen_tables *out) {
    status st = cachegen_tables_read(r, out);
    if (st != STATUS_OK) return st;
    return out->n_channels == n_channels ? STATUS_OK
                                         : status_refuse("tables of %d channels, and not of %lld",
                                                         out->n_channels, (long long)n_channels);
}

static status read_calibrated(kv_tables *t, byte_reader *r) {
    const int64_t n_channels = (int64_t)t->shape.n_kv_heads * t->shape.head_dim;
    const int n = t->shape.n_layers;
    status st = STATUS_OK;
    t->cachegen = mem_new((size_t)n * N_KV_PARTS, sizeof *t->cachegen);
    for (int layer = 0; st == STATUS_OK && layer < n; layer++) {
        for (int part = 0; st == STATUS_OK && part < N_KV_PARTS; part++)
            st = read_cachegen(r, n_channels, &t->cachegen[layer * N_KV_PARTS + part]);
        if (st == STATUS_OK) st = varve_read_layer(r, &t->varve.shape, layer == 0, &t->varve.layers[layer]);
        st = status_at(st, "layer %d", layer);
    }
    return st == STATUS_OK ? varve_read_classes(r, &t->varve.classes) : st;
}

/* Of few bytes becomes much more: bounded by what models have. */
static status read_generic(kv_tables *t, byte_reader *r) {
    const size_t n_half = (size_t)t->shape.head_dim / 2, n = (size_t)t->shape.n_layers;
    const int64_t most_channels = (1 << 22) / t->shape.n_layers;
    bool good = t->shape.head_dim % 2 == 0 &&
                (int64_t)t->shape.n_kv_heads * t->shape.head_dim <= most_channels &&
                r->n == n_half * sizeof(float) + n * sizeof(varve_scale);
    if (!good) return status_refuse("generic tables that are cut off or damaged");
    float *frequencies = mem_new(n_half, sizeof *frequencies);
    byte_reader_take(r, frequencies, n_half * sizeof *frequencies);
    for (size_t i = 0; i < n_half; i++)
        good &= isfinite(frequencies[i]) != 0;
    status st = good ? STATUS_OK : status_refuse("generic tables whose frequencies are no numbers");
    for (size_t layer = 0; st == STATUS_OK && layer < n; layer++)
        st = status_at(varve_read_scale(r, &t->varve.shape, layer == 0, frequencies, &t->varve.layers[layer]),
                       "layer %zu", layer);
    free(frequencies);
    if (st == STATUS_OK) t->varve.classes = varve_generic_classes();
    return st;
}

static status read_parts(kv_tables *t, uint32_t version, byte_reader r) {
    const size_t n = (size_t)t->shape.n_layers;
    t->varve =
        (varve_tables){.shape = {t->shape.n_kv_heads, t->shape.head_dim}, .n_layers = t->shape.n_layers};
    t->varve.layers = mem_new(n, sizeof *t->varve.layers);
    status st = version == GENERIC_VERSION ? read_generic(t, &r) : read_calibrated(t, &r);
    if (st == STATUS_OK && r.n > 0) st = status_refuse("%zu bytes behind the last tables", r.n);
    if (st == STATUS_OK) varve_make_planes(&t->varve);
    return st;
}

static status parse(const char *bytes, size_t n, kv_tables *t) {
    file_head head;
    if (n < sizeof head + sizeof t->digest) return status_refuse("tables of %zu bytes only", n);
    memcpy(&head, bytes, sizeof head);
    status st = check_head(&head);
    if (st != STATUS_OK) return st;
    n -= sizeof t->digest;
    memcpy(&t->digest, bytes + n, sizeof t->digest);
    if (t->digest != digest_of(bytes, n)) return status_refuse("the digest of the tables does not match");
    t->shape = (kv_tables_shape){
        head.n_layers, head.n_kv_heads, head.head_dim, {head.model_digest[0], head.model_digest[1]}};
    return read_parts(t, head.version, (byte_reader){bytes + sizeof head, n - sizeof head, false});
}

status kv_tables_parse(const char *bytes, size_t n_bytes, kv_tables **out) {
    kv_tables *t = mem_new(1, sizeof *t);
    status st = parse(bytes, n_bytes, t);
    if (st == STATUS_OK)
        *out = t;
    else
        kv_tables_free(t);
    return st;
}

status kv_tables_open(const char *path, kv_tables **out) {
    char *bytes = NULL;
    size_t n = 0;
    status st = file_read_all(path, kv_tables_most_bytes, &bytes, &n);
    if (st == STATUS_OK) st = status_at(kv_tables_parse(bytes, n, out), "%s", path);
    free(bytes);
    return st;
}

void kv_tables_name(uint64_t digest, char name[KV_TABLES_NAME_BYTES]) {
    snprintf(name, KV_TABLES_NAME_BYTES, "tables-%016" PRIx64 ".kvt", digest);
}

bool kv_tables_parse_name(const char *name, uint64_t *digest) {
    char again[KV_TABLES_NAME_BYTES];
    if (sscanf(name, "tables-%16" SCNx64, digest) != 1) return false;
    kv_tables_name(*digest, again);
    return strcmp(name, again) == 0;
}

status kv_tables_check_shape(const kv_tables *t, int n_layers, int n_kv_heads, int head_dim) {
    const kv_tables_shape *s = &t->shape;
    if (s->n_layers == n_layers && s->n_kv_heads == n_kv_heads && s->head_dim == head_dim) return STATUS_OK;
    return status_refuse("tables for %d layers, %d kv heads of %d, but the model has %d, %d of %d",
                         s->n_layers, s->n_kv_heads, s->head_dim, n_layers, n_kv_heads, head_dim);
}

size_t kv_tables_memory(size_t file_bytes) {
    return file_bytes + 2 * VARVE_CLASSES * sizeof(varve_class); /* as in the file, but for the classes */
}

void kv_tables_free(kv_tables *t) {
    for (int i = 0; t && t->cachegen && i < t->shape.n_layers * N_KV_PARTS; i++)
        cachegen_tables_free(&t->cachegen[i]);
    if (t) free(t->cachegen);
    if (t) varve_tables_free(&t->varve);
    free(t);
}
