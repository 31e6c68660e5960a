#include "src/command/chosen_coding.h"

#include <stdlib.h>
#include <string.h>

#include "io/files.h"
#include "src/base/notice.h"

status chosen_coding_take(const kv_coding *coding, char *bytes, size_t n_bytes, chosen_coding *out) {
    *out = (chosen_coding){.coding = *coding, .bytes = bytes, .n_bytes = n_bytes};
    status st = kv_tables_parse(bytes, n_bytes, &out->tables);
    if (st == STATUS_OK && coding->codec == KV_CODEC_CACHEGEN && !out->tables->cachegen)
        return status_refuse(
            "generic tables are for kvarve's codecs: cachegen needs those of kvarve calibrate");
    if (st == STATUS_OK) kv_coding_settle(&out->coding, out->tables);
    return st;
}

status chosen_coding_find(const options *o, const kv_coding *coding, int n_layers, int n_kv_heads,
                          int head_dim, const char *dir, const segment_info *coded, chosen_coding *out) {
    char name[KV_TABLES_NAME_BYTES], *bytes = NULL;
    size_t n_bytes = 0;
    *out = (chosen_coding){.coding = *coding};
    if (kv_codec_is_exact(coding->codec) || options_wants_generic(o) || (!o->tables && !coded))
        return STATUS_OK;
    if (coded) kv_tables_name(coded->tables_digest, name);
    char *path = o->tables ? mem_copy_text(o->tables, strlen(o->tables)) : file_path(dir, name);
    status st = file_read_all(path, kv_tables_most_bytes, &bytes, &n_bytes);
    if (st == STATUS_OK) {
        st = chosen_coding_take(coding, bytes, n_bytes, out);
        if (st == STATUS_OK) st = kv_tables_check_shape(out->tables, n_layers, n_kv_heads, head_dim);
        st = status_at(st, "%s%s", o->tables ? "--tables " : "", path);
    }
    free(path);
    return st;
}

status chosen_coding_share(comm *c, chosen_coding *k) {
    comm_broadcast(c, &k->coding, sizeof k->coding, 0);
    char *bytes = comm_share(c, k->bytes, &k->n_bytes, 0);
    if (comm_rank(c) == 0) {
        free(bytes);
        return STATUS_OK;
    }
    k->bytes = bytes;
    return bytes ? kv_tables_parse(bytes, k->n_bytes, &k->tables) : STATUS_OK;
}

void chosen_coding_free(chosen_coding *k) {
    kv_tables_free(k->tables);
    free(k->bytes);
    *k = (chosen_coding){.n_bytes = 0};
}

void chosen_coding_note(const chosen_coding *k, const options *o, const char *model_name,
                        const uint64_t model_digest[2]) {
    if (!k->tables || !o->tables ||
        memcmp(k->tables->shape.model_digest, model_digest, sizeof k->tables->shape.model_digest) == 0)
        return;
    notice_add("--tables %s: calibrated on another model than %s, or with other --weights: calibrate anew, "
               "or expect more bits and larger errors",
               o->tables, model_name);
}
