/* The manifest as text: what is written here is read in io/snapshot/manifest_read.c. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "io/json.h"
#include "io/snapshot/manifest_private.h"

/* ---- the arrays ---- */

static void gather_sequence(const manifest *m, const manifest_sequence *s, text_buffer *arrays) {
    text_append(&arrays[MANIFEST_TOKENS], (const char *)s->tokens, (size_t)s->n_tokens * sizeof *s->tokens);
    text_append(&arrays[MANIFEST_TEXT], s->prompt_text, (size_t)s->n_prompt_text);
    text_append(&arrays[MANIFEST_TEXT], s->text, (size_t)s->n_text);
    text_append(&arrays[MANIFEST_LOGPROBS], (const char *)s->logprobs,
                (size_t)((s->n_tokens - s->n_prompt) * s->n_logprobs) * sizeof *s->logprobs);
    if (s->last_logits)
        text_append(&arrays[MANIFEST_LAST_LOGITS], (const char *)s->last_logits,
                    (size_t)m->vocab_size * sizeof *s->last_logits);
}

void manifest_gather(const manifest *m, text_buffer arrays[N_MANIFEST_ARRAYS]) {
    for (int64_t i = 0; i < m->n_sequences; i++)
        gather_sequence(m, &m->sequences[i], arrays);
    for (int64_t i = 0; i < m->batch.n_lines; i++)
        text_append(&arrays[MANIFEST_IS_DONE], m->batch.is_done[i] ? "\1" : "\0", 1);
}

/* ---- JSON ---- */

typedef struct json_writer {
    text_buffer *out;
    int depth;
    bool has_members; /* the open object, or array, has some already */
} json_writer;

static void put(json_writer *w, const char *text) {
    text_append(w->out, text, strlen(text));
}

/* A new line for a member, or for an item of an array (key NULL). */
static void put_key(json_writer *w, const char *key) {
    static const char spaces[] = "                ";
    put(w, w->has_members ? ",\n" : "\n");
    text_append(w->out, spaces, 2 * (size_t)w->depth);
    w->has_members = true;
    if (!key) return;
    put(w, "\"");
    put(w, key);
    put(w, "\": ");
}

static void open_group(json_writer *w, const char *key, const char *bracket) {
    if (w->depth) put_key(w, key);
    put(w, bracket);
    w->depth++;
    w->has_members = false;
}

static void close_group(json_writer *w, const char *bracket) {
    bool has_members = w->has_members;
    w->depth--;
    w->has_members = false;
    if (has_members) put_key(w, NULL);
    put(w, bracket);
    w->has_members = true;
}

/* Beyond 2^53 a number in JSON is not exact for everybody: then it is a text. */
static void put_integer(json_writer *w, const char *key, int64_t value) {
    const bool is_exact = value >= -(INT64_C(1) << 53) && value <= INT64_C(1) << 53;
    char text[40];
    snprintf(text, sizeof text, is_exact ? "%" PRId64 : "\"%" PRId64 "\"", value);
    put_key(w, key);
    put(w, text);
}

static void put_number(json_writer *w, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    put_key(w, key);
    put(w, text);
}

static void put_bool(json_writer *w, const char *key, bool value) {
    put_key(w, key);
    put(w, value ? "true" : "false");
}

static void put_text(json_writer *w, const char *key, const char *value) {
    put_key(w, key);
    json_append_text(w->out, value ? value : "", value ? strlen(value) : 0);
}

static void put_digest(json_writer *w, const char *key, const uint64_t digest[2]) {
    char text[MANIFEST_DIGEST_BYTES];
    manifest_digest_text(digest, text);
    put_text(w, key, text);
}

/* ---- what the snapshot is ---- */

static void put_model(json_writer *w, const manifest *m) {
    open_group(w, "model", "{");
    put_text(w, "name", m->model_name);
    put_text(w, "shape", m->model_shape);
    put_digest(w, "digest", m->model_digest);
    put_digest(w, "tokenizer_digest", m->tokenizer_digest);
    put_integer(w, "n_layers", m->n_layers);
    put_integer(w, "n_kv_heads", m->n_kv_heads);
    put_integer(w, "head_dim", m->head_dim);
    put_integer(w, "vocab_size", m->vocab_size);
    put_text(w, "kv_dtype", dtype_name(m->type));
    put_text(w, "rope", m->rope);
    put_text(w, "keys", MANIFEST_KEYS);
    close_group(w, "}");
}

static void put_origin(json_writer *w, const manifest *m) {
    char utc[40] = "";
    const time_t seconds = (time_t)m->unix_time;
    struct tm parts;
    if (gmtime_r(&seconds, &parts)) strftime(utc, sizeof utc, "%Y-%m-%dT%H:%M:%SZ", &parts);
    open_group(w, "origin", "{");
    put_text(w, "version", m->version);
    put_text(w, "command_line", m->command_line);
    put_text(w, "host", m->host);
    put_text(w, "processor", m->processor);
    put_integer(w, "n_ranks", m->n_ranks);
    put_integer(w, "unix_time", m->unix_time);
    put_text(w, "utc", utc);
    put_number(w, "seconds_computed", m->seconds_computed);
    close_group(w, "}");
}

static void put_batch(json_writer *w, const manifest_batch *b) {
    if (b->n_lines == 0) return;
    open_group(w, "batch", "{");
    put_digest(w, "digest", b->digest);
    put_integer(w, "n_lines", b->n_lines);
    put_integer(w, "output_bytes", b->output_bytes);
    put_digest(w, "output_digest", b->output_digest);
    close_group(w, "}");
}

static void put_arrays(json_writer *w, const text_buffer *arrays, const int64_t *offsets) {
    open_group(w, "arrays", "{");
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++) {
        open_group(w, manifest_array_name((manifest_array)a), "{");
        put_integer(w, "file_offset", offsets[a]);
        put_integer(w, "n_elements", (int64_t)(arrays[a].n / manifest_element_bytes((manifest_array)a)));
        close_group(w, "}");
    }
    close_group(w, "}");
}

static void put_segment(json_writer *w, const segment_info *s) {
    open_group(w, NULL, "{");
    put_text(w, "file", s->name);
    put_text(w, "codec", kv_codec_name(s->codec));
    if (s->is_plain) put_bool(w, "plain", true);
    put_integer(w, "chunk_tokens", s->chunk_tokens);
    put_integer(w, "file_bytes", s->file_bytes);
    put_integer(w, "index_offset", s->index_offset);
    put_digest(w, "digest", s->digest);
    close_group(w, "}");
}

/* ---- sequences ---- */

static void put_sampling(json_writer *w, const sampling_options *s) {
    open_group(w, "sampling", "{");
    put_number(w, "temperature", s->temperature);
    put_integer(w, "top_k", s->top_k);
    put_number(w, "top_p", s->top_p);
    put_number(w, "min_p", s->min_p);
    put_number(w, "repetition_penalty", s->repetition_penalty);
    put_integer(w, "seed", s->seed);
    put_integer(w, "max_tokens", s->max_tokens);
    put_integer(w, "logprobs", s->n_logprobs);
    put_bool(w, "ignore_eos", s->ignore_eos);
    close_group(w, "}");
}

static void put_extents(json_writer *w, const manifest_sequence *s) {
    open_group(w, "extents", "[");
    for (int64_t i = 0; i < s->n_extents; i++) {
        const manifest_extent *e = &s->extents[i];
        char text[80];
        snprintf(text, sizeof text, "[%" PRId64 ", %" PRId64 ", %" PRId64 "]", e->pos0, e->n_tokens, e->row0);
        put_key(w, NULL);
        put(w, text);
    }
    close_group(w, "]");
}

/* How many elements of each array are those of sequences that stand before. */
typedef struct array_cursor {
    int64_t n_tokens, n_text, n_logprobs, n_logits;
} array_cursor;

static void put_ranges(json_writer *w, const manifest_sequence *s, array_cursor *at) {
    put_integer(w, "first_token", at->n_tokens);
    put_integer(w, "n_tokens", s->n_tokens);
    put_integer(w, "n_prompt", s->n_prompt);
    put_integer(w, "first_text_byte", at->n_text);
    put_integer(w, "prompt_text_bytes", s->n_prompt_text);
    put_integer(w, "text_bytes", s->n_text);
    put_integer(w, "first_logprob", at->n_logprobs);
    put_integer(w, "logprobs_per_token", s->n_logprobs);
    put_integer(w, "last_logits_row", s->last_logits ? at->n_logits : -1);
    at->n_tokens += s->n_tokens;
    at->n_text += s->n_prompt_text + s->n_text;
    at->n_logprobs += (s->n_tokens - s->n_prompt) * s->n_logprobs;
    at->n_logits += s->last_logits ? 1 : 0;
}

static void put_sequence(json_writer *w, const manifest_sequence *s, array_cursor *at) {
    open_group(w, NULL, "{");
    put_text(w, "id", s->id);
    put_bool(w, "id_is_integer", s->id_is_json);
    put_integer(w, "line", s->line);
    put_integer(w, "sequence_id", s->sequence_id);
    put_ranges(w, s, at);
    put_extents(w, s);
    put_sampling(w, &s->sampling);
    open_group(w, "stop", "[");
    for (int i = 0; i < s->n_stops; i++)
        put_text(w, NULL, s->stops[i]);
    close_group(w, "]");
    if (s->n_stop_tokens) {
        open_group(w, "stop_token_ids", "[");
        for (int64_t i = 0; i < s->n_stop_tokens; i++)
            put_integer(w, NULL, s->stop_tokens[i]);
        close_group(w, "]");
    }
    if (s->is_over) put_text(w, "finish_reason", finish_reason_name(s->finish));
    close_group(w, "}");
}

void manifest_write_json(const manifest *m, const text_buffer arrays[N_MANIFEST_ARRAYS],
                         const int64_t offsets[N_MANIFEST_ARRAYS], text_buffer *out) {
    json_writer w = {.out = out};
    open_group(&w, NULL, "{");
    put_integer(&w, "save_number", m->save_number);
    put_integer(&w, "n_rows", m->n_rows);
    put_text(&w, "codec", kv_codec_name(m->codec));
    put_integer(&w, "page_tokens", m->page_tokens);
    put_model(&w, m);
    put_origin(&w, m);
    put_batch(&w, &m->batch);
    put_arrays(&w, arrays, offsets);
    open_group(&w, "segments", "[");
    for (int64_t i = 0; i < m->n_segments; i++)
        put_segment(&w, &m->segments[i]);
    close_group(&w, "]");
    open_group(&w, "sequences", "[");
    array_cursor at = {0};
    for (int64_t i = 0; i < m->n_sequences; i++)
        put_sequence(&w, &m->sequences[i], &at);
    close_group(&w, "]");
    close_group(&w, "}");
    put(&w, "\n");
}
