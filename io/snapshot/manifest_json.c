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

static void put_digest(json_writer *w, const char *key, const uint64_t digest[2]) {
    char text[MANIFEST_DIGEST_BYTES];
    manifest_digest_text(digest, text);
    json_put_text(w, key, text);
}

/* ---- what the snapshot is ---- */

static void put_model(json_writer *w, const manifest *m) {
    json_open(w, "model", '{');
    json_put_text(w, "name", m->model_name);
    json_put_text(w, "shape", m->model_shape);
    put_digest(w, "digest", m->model_digest);
    put_digest(w, "tokenizer_digest", m->tokenizer_digest);
    json_put_integer(w, "n_layers", m->n_layers);
    json_put_integer(w, "n_kv_heads", m->n_kv_heads);
    json_put_integer(w, "head_dim", m->head_dim);
    json_put_integer(w, "vocab_size", m->vocab_size);
    json_put_text(w, "kv_dtype", dtype_name(m->type));
    json_put_text(w, "rope", m->rope);
    json_put_text(w, "keys", MANIFEST_KEYS);
    json_close(w);
}

static void put_origin(json_writer *w, const manifest *m) {
    char utc[40] = "";
    const time_t seconds = (time_t)m->unix_time;
    struct tm parts;
    if (gmtime_r(&seconds, &parts)) strftime(utc, sizeof utc, "%Y-%m-%dT%H:%M:%SZ", &parts);
    json_open(w, "origin", '{');
    json_put_text(w, "version", m->version);
    json_put_text(w, "command_line", m->command_line);
    json_put_text(w, "host", m->host);
    json_put_text(w, "processor", m->processor);
    json_put_integer(w, "n_ranks", m->n_ranks);
    json_put_integer(w, "unix_time", m->unix_time);
    json_put_text(w, "utc", utc);
    json_put_number(w, "seconds_computed", m->seconds_computed);
    json_close(w);
}

static void put_batch(json_writer *w, const manifest_batch *b) {
    if (b->n_lines == 0) return;
    json_open(w, "batch", '{');
    put_digest(w, "digest", b->digest);
    json_put_integer(w, "n_lines", b->n_lines);
    json_put_integer(w, "output_bytes", b->output_bytes);
    put_digest(w, "output_digest", b->output_digest);
    json_close(w);
}

static void put_arrays(json_writer *w, const text_buffer *arrays, const int64_t *offsets) {
    json_open(w, "arrays", '{');
    for (int a = 0; a < N_MANIFEST_ARRAYS; a++) {
        json_open(w, manifest_array_name((manifest_array)a), '{');
        json_put_integer(w, "file_offset", offsets[a]);
        json_put_integer(w, "n_elements", (int64_t)(arrays[a].n / manifest_element_bytes((manifest_array)a)));
        json_close(w);
    }
    json_close(w);
}

static void put_segment(json_writer *w, const segment_info *s) {
    json_open(w, NULL, '{');
    json_put_text(w, "file", s->name);
    json_put_text(w, "codec", kv_codec_name(s->codec));
    if (s->is_plain) json_put_bool(w, "plain", true);
    if (!kv_codec_is_exact(s->codec)) {
        char digest[17];
        snprintf(digest, sizeof digest, "%016" PRIx64, s->tables_digest);
        json_put_integer(w, "level", s->level);
        json_put_text(w, "tables_digest", digest);
        json_put_integer(w, "chunk_layers", s->chunk_layers);
        if (s->has_base) json_put_integer(w, "bases_offset", s->bases_offset);
    }
    json_put_integer(w, "chunk_tokens", s->chunk_tokens);
    json_put_integer(w, "file_bytes", s->file_bytes);
    json_put_integer(w, "index_offset", s->index_offset);
    put_digest(w, "digest", s->digest);
    json_close(w);
}

/* ---- sequences ---- */

static void put_sampling(json_writer *w, sampling_options s) {
    json_open(w, "sampling", '{');
    for (const sampling_field *f = sampling_fields; f < sampling_fields + N_SAMPLING_FIELDS; f++) {
        const void *value = sampling_value(&s, f);
        if (f->kind == SAMPLING_REAL) json_put_number(w, f->name, *(const double *)value);
        if (f->kind == SAMPLING_INTEGER) json_put_integer(w, f->name, *(const int64_t *)value);
        if (f->kind == SAMPLING_FLAG) json_put_bool(w, f->name, *(const bool *)value);
    }
    json_close(w);
}

static void put_extents(json_writer *w, const manifest_sequence *s) {
    json_open(w, "extents", '[');
    for (int64_t i = 0; i < s->n_extents; i++) {
        const manifest_extent *e = &s->extents[i];
        json_open_line(w, NULL, '[');
        json_put_integer(w, NULL, e->pos0);
        json_put_integer(w, NULL, e->n_tokens);
        json_put_integer(w, NULL, e->row0);
        json_close(w);
    }
    json_close(w);
}

/* How many elements of each array are those of sequences that stand before. */
typedef struct array_cursor {
    int64_t n_tokens, n_text, n_logprobs, n_logits;
} array_cursor;

static void put_ranges(json_writer *w, const manifest_sequence *s, array_cursor *at) {
    json_put_integer(w, "first_token", at->n_tokens);
    json_put_integer(w, "n_tokens", s->n_tokens);
    json_put_integer(w, "n_prompt", s->n_prompt);
    json_put_integer(w, "first_text_byte", at->n_text);
    json_put_integer(w, "prompt_text_bytes", s->n_prompt_text);
    json_put_integer(w, "text_bytes", s->n_text);
    json_put_integer(w, "first_logprob", at->n_logprobs);
    json_put_integer(w, "logprobs_per_token", s->n_logprobs);
    json_put_integer(w, "last_logits_row", s->last_logits ? at->n_logits : -1);
    at->n_tokens += s->n_tokens;
    at->n_text += s->n_prompt_text + s->n_text;
    at->n_logprobs += (s->n_tokens - s->n_prompt) * s->n_logprobs;
    at->n_logits += s->last_logits ? 1 : 0;
}

static void put_sequence(json_writer *w, const manifest_sequence *s, array_cursor *at) {
    json_open(w, NULL, '{');
    json_put_text(w, "id", s->id);
    json_put_bool(w, "id_is_integer", s->id_is_json);
    json_put_integer(w, "line", s->line);
    json_put_integer(w, "sequence_id", s->sequence_id);
    put_ranges(w, s, at);
    put_extents(w, s);
    put_sampling(w, s->sampling);
    json_open(w, "stop", '[');
    for (int i = 0; i < s->n_stops; i++)
        json_put_text(w, NULL, s->stops[i]);
    json_close(w);
    if (s->n_stop_tokens) {
        json_open(w, "stop_token_ids", '[');
        for (int64_t i = 0; i < s->n_stop_tokens; i++)
            json_put_integer(w, NULL, s->stop_tokens[i]);
        json_close(w);
    }
    if (s->is_over) json_put_text(w, "finish_reason", finish_reason_name(s->finish));
    if (s->inexact) json_put_text(w, "inexact", s->inexact);
    if (s->inexact) json_put_integer(w, "exact_tokens", s->n_exact);
    if (s->pages) json_put_text(w, "pages", s->pages);
    json_close(w);
}

void manifest_write_json(const manifest *m, const text_buffer arrays[N_MANIFEST_ARRAYS],
                         const int64_t offsets[N_MANIFEST_ARRAYS], text_buffer *out) {
    json_writer w = {.out = out};
    json_open(&w, NULL, '{');
    json_put_integer(&w, "save_number", m->save_number);
    json_put_integer(&w, "n_rows", m->n_rows);
    json_put_text(&w, "codec", kv_codec_name(m->codec));
    json_put_integer(&w, "page_tokens", m->page_tokens);
    put_model(&w, m);
    put_origin(&w, m);
    put_batch(&w, &m->batch);
    put_arrays(&w, arrays, offsets);
    json_open(&w, "segments", '[');
    for (int64_t i = 0; i < m->n_segments; i++)
        put_segment(&w, &m->segments[i]);
    json_close(&w);
    json_open(&w, "sequences", '[');
    array_cursor at = {0};
    for (int64_t i = 0; i < m->n_sequences; i++)
        put_sequence(&w, &m->sequences[i], &at);
    json_close(&w);
    json_close(&w);
    text_append(out, "\n", 1);
}
