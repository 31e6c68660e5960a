#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/files.h"
#include "io/json.h"
#include "io/snapshot/manifest_private.h"
#include "src/base/utf8.h"

static const size_t max_file_bytes = (size_t)16 << 30;

/* ---- the file ---- */

status manifest_read_bytes(const char *dir, char **bytes, size_t *n_bytes) {
    char *path = manifest_path(dir), *read = NULL;
    size_t n = 0;
    manifest_block block;
    status st = file_read_all(path, max_file_bytes, &read, &n);
    if (st == STATUS_OK) st = manifest_block_parse(read, n, path, &block);
    if (st == STATUS_OK) st = manifest_block_check_digest(&block, read, path);
    free(path);
    if (st != STATUS_OK) {
        free(read);
        return st;
    }
    *bytes = read;
    *n_bytes = n;
    return STATUS_OK;
}

status manifest_read(const char *dir, manifest *out) {
    char *bytes, *path = manifest_path(dir);
    size_t n_bytes;
    status st = manifest_read_bytes(dir, &bytes, &n_bytes);
    if (st == STATUS_OK) {
        st = manifest_parse(bytes, n_bytes, path, out);
        free(bytes);
    }
    free(path);
    return st;
}

status manifest_parse(const char *bytes, size_t n_bytes, const char *name, manifest *out) {
    manifest_block block;
    status st = manifest_block_parse(bytes, n_bytes, name, &block);
    if (st != STATUS_OK) return st;
    return manifest_parse_json(bytes + block.json_offset, (size_t)block.json_bytes, bytes, n_bytes, name,
                               out);
}

/* ---- members ---- */

static char *read_text(json_object *object, const char *key) {
    const char *text = json_text(object, key);
    return mem_copy_text(text, strlen(text));
}

static void read_digest(json_object *object, const char *key, uint64_t digest[2]) {
    const char *text = json_text(object, key);
    char again[MANIFEST_DIGEST_BYTES];
    if (sscanf(text, "%16" SCNx64 "%16" SCNx64, &digest[0], &digest[1]) == 2) {
        manifest_digest_text(digest, again);
        if (strcmp(again, text) == 0) return;
    }
    json_refuse(object, key, "not a digest of 32 hexadecimal digits");
}

static dtype read_dtype(json_object *object, const char *key) {
    const char *name = json_text(object, key);
    if (strcmp(name, dtype_name(DTYPE_F32)) == 0) return DTYPE_F32;
    if (strcmp(name, dtype_name(DTYPE_BF16)) != 0)
        json_refuse(object, key, "\"%.40s\" is not bf16 or f32", name);
    return DTYPE_BF16;
}

static kv_codec read_codec(json_object *object, const char *key) {
    const char *name = json_text(object, key);
    for (int c = 0; c < N_KV_CODECS; c++)
        if (strcmp(name, kv_codec_name((kv_codec)c)) == 0) return (kv_codec)c;
    json_refuse(object, key, "\"%.40s\" is not a codec of this kvarve: use a newer one", name);
    return KV_CODEC_NONE;
}

/* ---- the arrays ---- */

/* The elements of each array that are not taken yet: the sequences take theirs one behind the other. */
typedef struct array_view {
    const char *next;
    int64_t n_taken, n_left;
} array_view;

typedef struct reader {
    const char *file; /* its bytes, among them the arrays */
    size_t file_bytes;
    array_view arrays[N_MANIFEST_ARRAYS];
    manifest *m;
} reader;

static void read_array(reader *r, json_object *arrays, manifest_array a) {
    json_object object = json_view_member(arrays, manifest_array_name(a));
    const int64_t offset = json_int(&object, "file_offset", 0, (int64_t)r->file_bytes);
    const int64_t room = ((int64_t)r->file_bytes - offset) / (int64_t)manifest_element_bytes(a);
    const int64_t n = json_int(&object, "n_elements", 0, JSON_MAX_EXACT);
    if (object.st == STATUS_OK && n > room) json_refuse(&object, "n_elements", "more than the file holds");
    r->arrays[a] = (array_view){.next = r->file + offset, .n_left = object.st == STATUS_OK ? n : 0};
}

/* The next n elements, copied, one zeroed element behind them; `first` is where the sequence says that they
 * are. */
static void *take(reader *r, json_object *object, const char *key, manifest_array a, int64_t first,
                  int64_t n) {
    array_view *view = &r->arrays[a];
    const size_t element_bytes = manifest_element_bytes(a);
    if (object->st == STATUS_OK && first != view->n_taken)
        json_refuse(object, key, "%" PRId64 " was expected, as sequences do not share elements of %s",
                    view->n_taken, manifest_array_name(a));
    if (object->st == STATUS_OK && n > view->n_left)
        json_refuse(object, key, "%s has no %" PRId64 " elements from here on", manifest_array_name(a), n);
    if (object->st != STATUS_OK) return NULL;
    void *copy = mem_new((size_t)n + 1, element_bytes);
    memcpy(copy, view->next, (size_t)n * element_bytes);
    view->next += (size_t)n * element_bytes;
    view->n_taken += n;
    view->n_left -= n;
    return copy;
}

static void check_all_taken(const reader *r, json_object *root) {
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++)
        if (r->arrays[a].n_left)
            json_refuse(root, manifest_array_name((manifest_array)a),
                        "%" PRId64 " elements belong to nothing", r->arrays[a].n_left);
}

/* ---- what the snapshot is ---- */

static void read_model(json_object *root, manifest *m) {
    json_object o = json_view_member(root, "model");
    m->model_name = read_text(&o, "name");
    m->model_shape = read_text(&o, "shape");
    m->rope = read_text(&o, "rope");
    read_digest(&o, "digest", m->model_digest);
    read_digest(&o, "tokenizer_digest", m->tokenizer_digest);
    m->n_layers = (int)json_int(&o, "n_layers", 1, SEGMENT_MAX_LAYERS);
    m->n_kv_heads = (int)json_int(&o, "n_kv_heads", 1, INT32_MAX);
    m->head_dim = (int)json_int(&o, "head_dim", 1, INT32_MAX);
    m->vocab_size = (int)json_int(&o, "vocab_size", 1, INT32_MAX);
    m->type = read_dtype(&o, "kv_dtype");
    if (strcmp(json_text_or(&o, "keys", MANIFEST_KEYS), MANIFEST_KEYS) != 0)
        json_refuse(&o, "keys", "this program reads keys that are kept %s", MANIFEST_KEYS);
}

static void read_origin(json_object *root, manifest *m) {
    json_object o = json_view_member(root, "origin");
    m->version = read_text(&o, "version");
    m->command_line = read_text(&o, "command_line");
    m->host = read_text(&o, "host");
    m->processor = read_text(&o, "processor");
    m->n_ranks = (int)json_int(&o, "n_ranks", 0, INT32_MAX);
    m->unix_time = json_int(&o, "unix_time", -JSON_MAX_EXACT, JSON_MAX_EXACT);
    m->seconds_computed = json_number(&o, "seconds_computed", 0, 1e18);
}

static void read_batch(reader *r, json_object *root) {
    manifest_batch *b = &r->m->batch;
    json_object o = json_view_optional(root, "batch");
    if (!o.item) return;
    read_digest(&o, "digest", b->digest);
    read_digest(&o, "output_digest", b->output_digest);
    b->output_bytes = json_int(&o, "output_bytes", -1, JSON_MAX_EXACT);
    const int64_t n_lines = json_int(&o, "n_lines", 1, JSON_MAX_EXACT);
    const unsigned char *bytes = take(r, &o, "n_lines", MANIFEST_IS_DONE, 0, n_lines);
    if (!bytes) return;
    b->n_lines = n_lines;
    b->is_done = mem_new((size_t)n_lines, sizeof *b->is_done);
    for (int64_t i = 0; i < n_lines; i++) {
        if (bytes[i] > 1) json_refuse(root, "batch", "/batch/is_done[%" PRId64 "] is not 0 or 1", i);
        b->is_done[i] = bytes[i];
    }
    free((void *)bytes);
}

static void read_root(reader *r, json_object *root) {
    manifest *m = r->m;
    m->save_number = json_int(root, "save_number", 1, JSON_MAX_EXACT);
    m->n_rows = json_int(root, "n_rows", 0, JSON_MAX_EXACT);
    m->codec = read_codec(root, "codec");
    m->page_tokens = (int)json_int(root, "page_tokens", 1, INT32_MAX);
    read_model(root, m);
    read_origin(root, m);
    json_object arrays = json_view_member(root, "arrays");
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++)
        read_array(r, &arrays, (manifest_array)a);
    read_batch(r, root);
}

/* ---- segments ---- */

/* What only coded segments have. */
static void read_coding(json_object *o, segment_info *s) {
    s->chunk_layers = 1;
    if (kv_codec_is_exact(s->codec)) return;
    const char *text = json_text(o, "tables_digest");
    char again[17] = "";
    if (sscanf(text, "%16" SCNx64, &s->tables_digest) == 1)
        snprintf(again, sizeof again, "%016" PRIx64, s->tables_digest);
    if (strcmp(again, text) != 0 || !s->tables_digest)
        json_refuse(o, "tables_digest", "not a digest of 16 hexadecimal digits");
    s->level = (int)json_int(o, "level", INT32_MIN, INT32_MAX);
    s->has_base = json_find(o, "bases_offset") != NULL;
    if (s->has_base) s->bases_offset = json_int(o, "bases_offset", 1, JSON_MAX_EXACT);
    const kv_coding coding = segment_coding(s);
    if (!kv_coding_is_valid(&coding))
        json_refuse(o, "level", "the codec %s has no level %d%s", kv_codec_name(s->codec), s->level,
                    s->has_base ? " with a base" : "");
    s->chunk_layers = (int)json_int(o, "chunk_layers", 1, INT32_MAX);
}

static void read_segment(const reader *r, json_object *o, segment_info *s) {
    const manifest *m = r->m;
    int64_t save_number = 0;
    const char *name = json_text(o, "file");
    if (!segment_parse_name(name, s, &save_number))
        json_refuse(o, "file", "\"%.100s\" is not the name of a segment", name);
    if (s->last_layer > m->n_layers || s->row0 > m->n_rows || s->n_rows > m->n_rows - s->row0 ||
        save_number > m->save_number)
        json_refuse(o, "file", "%.100s is beyond the layers, rows or saves of this snapshot", name);
    s->type = m->type;
    s->n_kv_heads = m->n_kv_heads;
    s->head_dim = m->head_dim;
    s->codec = read_codec(o, "codec");
    s->is_plain = json_bool_or(o, "plain", false);
    read_coding(o, s);
    s->chunk_tokens = (int)json_int(o, "chunk_tokens", 1, INT32_MAX);
    s->file_bytes = json_int(o, "file_bytes", 0, JSON_MAX_EXACT);
    s->index_offset = json_int(o, "index_offset", 0, JSON_MAX_EXACT);
    read_digest(o, "digest", s->digest);
    if (o->st == STATUS_OK) json_adopt(o, NULL, segment_check(s, name));
}

static void read_segments(reader *r, json_object *root) {
    json_object o = {0};
    r->m->segments =
        mem_new((size_t)cJSON_GetArraySize(json_array(root, "segments")), sizeof *r->m->segments);
    while (json_next_object(root, "segments", &o))
        read_segment(r, &o, &r->m->segments[r->m->n_segments++]);
}

/* ---- sequences ---- */

/* An id that goes into results as it is must be what it says. */
static void read_id(json_object *o, manifest_sequence *s) {
    s->id = read_text(o, "id");
    s->id_is_json = json_bool_or(o, "id_is_integer", false);
    if (s->id_is_json && !json_is_value(s->id, strlen(s->id)))
        json_refuse(o, "id", "\"%.40s\" is not a value of JSON", s->id);
}

static void read_sampling(json_object *sequence, sampling_options *s) {
    json_object o = json_view_member(sequence, "sampling");
    for (const sampling_field *f = sampling_fields; f < sampling_fields + N_SAMPLING_FIELDS; f++) {
        void *value = sampling_value(s, f);
        if (f->kind == SAMPLING_REAL) *(double *)value = json_number(&o, f->name, f->least, f->most);
        if (f->kind == SAMPLING_INTEGER) *(int64_t *)value = json_int64(&o, f->name);
        if (f->kind == SAMPLING_FLAG) *(bool *)value = json_bool_or(&o, f->name, false);
    }
    if (o.st == STATUS_OK) json_adopt(&o, NULL, sampling_check(s));
}

static void read_extents(json_object *o, const manifest *m, manifest_sequence *s) {
    int64_t pos = 0;
    const cJSON *list = json_array(o, "extents"), *item;
    s->extents = mem_new((size_t)cJSON_GetArraySize(list), sizeof *s->extents);
    cJSON_ArrayForEach(item, list) {
        manifest_extent *e = &s->extents[s->n_extents++];
        const bool good = cJSON_IsArray(item) && cJSON_GetArraySize(item) == 3 &&
                          json_item_is_int(item->child, pos, pos, &e->pos0) &&
                          json_item_is_int(item->child->next, 1, s->n_tokens - pos, &e->n_tokens) &&
                          json_item_is_int(item->child->next->next, 0, m->n_rows, &e->row0) &&
                          e->n_tokens <= m->n_rows - e->row0;
        if (!good) {
            json_refuse(o, "extents",
                        "item %" PRId64 " is not [%" PRId64 ", tokens, row] within tokens and rows",
                        s->n_extents - 1, pos);
            return;
        }
        pos += e->n_tokens;
    }
}

static void read_stops(json_object *o, manifest_sequence *s) {
    const cJSON *list = json_array(o, "stop"), *item;
    if (cJSON_GetArraySize(list) > MANIFEST_MAX_STOPS)
        json_refuse(o, "stop", "more than %d texts", MANIFEST_MAX_STOPS);
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsString(item)) json_refuse(o, "stop", "not an array of texts");
        if (o->st != STATUS_OK) return;
        s->stops[s->n_stops++] = mem_copy_text(item->valuestring, strlen(item->valuestring));
    }
}

static void read_stop_tokens(json_object *o, int vocab_size, manifest_sequence *s) {
    int64_t id;
    const cJSON *list = json_array_optional(o, "stop_token_ids"), *item;
    if (!list) return;
    s->stop_tokens = mem_new((size_t)cJSON_GetArraySize(list), sizeof *s->stop_tokens);
    cJSON_ArrayForEach(item, list) {
        if (!json_item_is_int(item, 0, vocab_size - 1, &id))
            json_refuse(o, "stop_token_ids", "not an array of tokens");
        if (o->st != STATUS_OK) return;
        s->stop_tokens[s->n_stop_tokens++] = (int32_t)id;
    }
}

static void read_finish(json_object *o, manifest_sequence *s) {
    const char *name = json_text_or(o, "finish_reason", NULL);
    if (!name) return;
    for (int f = FINISH_EOS; f <= FINISH_ERROR; f++)
        if (strcmp(name, finish_reason_name((finish_reason)f)) == 0) {
            s->is_over = true;
            s->finish = (finish_reason)f;
        }
    if (!s->is_over) json_refuse(o, "finish_reason", "\"%.40s\" is none", name);
}

/* NULL: there is none. */
static char *read_line(json_object *o, const char *name) {
    const char *text = json_text_or(o, name, NULL);
    if (!text) return NULL;
    const size_t n = strlen(text);
    bool good = n > 0 && n < MANIFEST_INEXACT_BYTES;
    for (size_t i = 0; i < n; i++)
        good = good && text[i] >= ' ' && text[i] <= '~';
    if (!good) json_refuse(o, name, "no short line of text");
    return mem_copy_text(text, n);
}

static void read_inexact(json_object *o, manifest_sequence *s) {
    s->inexact = read_line(o, "inexact");
    if (s->inexact) s->n_exact = json_int(o, "exact_tokens", 0, JSON_MAX_EXACT);
    s->pages = read_line(o, "pages");
}

static void read_tokens(reader *r, json_object *o, manifest_sequence *s) {
    const int64_t first = json_int(o, "first_token", 0, JSON_MAX_EXACT);
    const int64_t n = json_int(o, "n_tokens", 0, JSON_MAX_EXACT);
    s->n_prompt = json_int(o, "n_prompt", 0, n);
    s->tokens = take(r, o, "first_token", MANIFEST_TOKENS, first, n);
    if (!s->tokens) return;
    s->n_tokens = n;
    for (int64_t i = 0; i < n; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= r->m->vocab_size) {
            json_refuse(o, "first_token", "token %" PRId64 " is %" PRId32 ", which is not in the vocabulary",
                        i, s->tokens[i]);
            return;
        }
}

static void read_texts(reader *r, json_object *o, manifest_sequence *s) {
    const int64_t first = json_int(o, "first_text_byte", 0, JSON_MAX_EXACT);
    const int64_t n_prompt = json_int(o, "prompt_text_bytes", 0, JSON_MAX_EXACT);
    const int64_t n_text = json_int(o, "text_bytes", 0, JSON_MAX_EXACT);
    s->prompt_text = take(r, o, "first_text_byte", MANIFEST_TEXT, first, n_prompt);
    s->text = take(r, o, "first_text_byte", MANIFEST_TEXT, first + n_prompt, n_text);
    if (o->st != STATUS_OK) return;
    s->n_prompt_text = n_prompt;
    s->n_text = n_text;
    if (utf8_count_valid(s->prompt_text, (size_t)n_prompt) < (size_t)n_prompt ||
        utf8_count_valid(s->text, (size_t)n_text) < (size_t)n_text)
        json_refuse(o, "first_text_byte", "a text that is not UTF-8");
}

static void read_logprobs(reader *r, json_object *o, manifest_sequence *s) {
    const int64_t first = json_int(o, "first_logprob", 0, JSON_MAX_EXACT);
    const int64_t per_token = json_int(o, "logprobs_per_token", 0, SAMPLING_MAX_LOGPROBS + 1);
    const int64_t n = (s->n_tokens - s->n_prompt) * per_token;
    manifest_logprob *logprobs = take(r, o, "first_logprob", MANIFEST_LOGPROBS, first, n);
    for (int64_t i = 0; logprobs && i < n; i++)
        if (logprobs[i].token < -1 || logprobs[i].token >= r->m->vocab_size)
            json_refuse(o, "first_logprob", "entry %" PRId64 " is of token %" PRId32 ", which is none", i,
                        logprobs[i].token);
    if (per_token && o->st == STATUS_OK) {
        s->logprobs = logprobs;
        s->n_logprobs = per_token;
    } else {
        free(logprobs);
    }
}

static void read_last_logits(reader *r, json_object *o, manifest_sequence *s) {
    const int64_t row = json_int(o, "last_logits_row", -1, JSON_MAX_EXACT);
    const int64_t n = r->m->vocab_size;
    if (row < 0 || o->st != STATUS_OK) return;
    if (row > r->arrays[MANIFEST_LAST_LOGITS].n_taken / n)
        json_refuse(o, "last_logits_row", "not the next row");
    s->last_logits = take(r, o, "last_logits_row", MANIFEST_LAST_LOGITS, row * n, n);
}

static void read_sequence(reader *r, json_object *o, manifest_sequence *s) {
    read_id(o, s);
    s->line = json_int(o, "line", -1, r->m->batch.n_lines - 1);
    s->sequence_id = json_int64(o, "sequence_id");
    read_tokens(r, o, s);
    read_texts(r, o, s);
    read_logprobs(r, o, s);
    read_last_logits(r, o, s);
    read_extents(o, r->m, s);
    read_stops(o, s);
    read_stop_tokens(o, r->m->vocab_size, s);
    read_finish(o, s);
    read_inexact(o, s);
    read_sampling(o, &s->sampling);
}

static void read_sequences(reader *r, json_object *root) {
    json_object o = {0};
    r->m->sequences =
        mem_new((size_t)cJSON_GetArraySize(json_array(root, "sequences")), sizeof *r->m->sequences);
    while (json_next_object(root, "sequences", &o))
        read_sequence(r, &o, &r->m->sequences[r->m->n_sequences++]);
}

/* ---- all of it ---- */

status manifest_parse_json(const char *json, size_t n_json, const char *file, size_t file_bytes,
                           const char *name, manifest *out) {
    char label[STATUS_TEXT_BYTES / 2];
    snprintf(label, sizeof label, "%.400s: /manifest", name);
    cJSON *document = NULL;
    status st = json_parse(json, n_json, label, &document);
    if (st != STATUS_OK) return st;
    manifest m = {0};
    reader r = {.file = file, .file_bytes = file_bytes, .m = &m};
    json_object root = json_view(document, label);
    read_root(&r, &root);
    read_segments(&r, &root);
    read_sequences(&r, &root);
    check_all_taken(&r, &root);
    st = root.st == STATUS_OK ? manifest_check_rows(&m, name) : root.st;
    cJSON_Delete(document);
    if (st == STATUS_OK)
        *out = m;
    else
        manifest_free(&m);
    return st;
}
