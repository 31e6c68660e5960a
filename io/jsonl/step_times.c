#include "io/jsonl/step_times.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/files.h"
#include "io/json.h"
#include "src/base/memory.h"

enum { FORMAT = 1, MAX_RANKS = 65536, MAX_ROWS = 1 << 20, MAX_FILE_BYTES = 256 << 20 };

static const double most_seconds = 1e6, most_positions = 1099511627776.0; /* 2^40 */

void step_times_free(step_times *t) {
    free(t->layers);
    free(t->steps);
    *t = (step_times){0};
}

/* ---- writing ---- */

static void put_steps(json_writer *w, const step_times *t) {
    json_open(w, "steps", '[');
    for (int i = 0; i < t->n_steps; i++) {
        const step_time *s = &t->steps[i];
        json_open(w, NULL, '{');
        json_put_integer(w, "rank", s->rank);
        json_put_integer(w, "sequences", s->n_sequences);
        json_put_number(w, "history", s->history);
        json_put_integer(w, "rows", s->n_rows);
        json_put_number(w, "layer_seconds", s->layer_seconds);
        json_put_integer(w, "head_rows", s->n_head_rows);
        json_put_number(w, "head_seconds", s->head_seconds);
        json_close(w);
    }
    json_close(w);
}

status step_times_write(const step_times *t, const char *path) {
    text_buffer text = {0};
    json_writer w = {.out = &text};
    json_open(&w, NULL, '{');
    json_put_integer(&w, "format", FORMAT);
    json_put_text(&w, "model", t->model);
    json_put_text(&w, "processor", t->processor);
    json_put_integer(&w, "threads", t->n_threads);
    json_put_number(&w, "hop_seconds", t->hop_seconds);
    json_open(&w, "ranks", '[');
    for (int i = 0; i < t->n_ranks; i++) {
        json_open(&w, NULL, '{');
        json_put_integer(&w, "layers", t->layers[i]);
        json_close(&w);
    }
    json_close(&w);
    put_steps(&w, t);
    json_close(&w);
    text_append(&text, "\n", 1);
    status st = file_write_all(path, text.data, text.n);
    free(text.data);
    return st;
}

/* ---- reading ---- */

/* Room for the items of an array, which has 1 to `most`; NULL after a failure. */
static void *make_room(json_object *root, const char *key, int most, size_t item_bytes) {
    int n = cJSON_GetArraySize(json_array(root, key));
    if (n < 1 || n > most) json_refuse(root, key, "expected a list of 1 to %d objects", most);
    return root->st == STATUS_OK ? mem_new((size_t)n, item_bytes) : NULL;
}

static void copy_text(json_object *root, const char *key, char *out, size_t n) {
    const char *text = json_text(root, key);
    if (!json_is_printable(text)) json_refuse(root, key, "has control characters");
    snprintf(out, n, "%s", text);
}

static void read_ranks(json_object *root, step_times *out) {
    json_object rank = {0};
    out->layers = make_room(root, "ranks", MAX_RANKS, sizeof *out->layers);
    while (json_next_object(root, "ranks", &rank))
        out->layers[out->n_ranks++] = (int)json_int(&rank, "layers", 1, MAX_RANKS);
}

static void read_steps(json_object *root, step_times *out) {
    json_object step = {0};
    out->steps = make_room(root, "steps", MAX_FILE_BYTES, sizeof *out->steps);
    while (json_next_object(root, "steps", &step))
        out->steps[out->n_steps++] = (step_time){
            .rank = (int)json_int(&step, "rank", 0, out->n_ranks - 1),
            .n_sequences = (int)json_int(&step, "sequences", 1, MAX_ROWS),
            .n_rows = (int)json_int(&step, "rows", 1, MAX_ROWS),
            .history = json_number(&step, "history", 0, most_positions),
            .layer_seconds = json_number(&step, "layer_seconds", 1e-9, most_seconds),
            .n_head_rows = (int)json_int(&step, "head_rows", 0, MAX_ROWS),
            .head_seconds = json_number(&step, "head_seconds", 0, most_seconds),
        };
}

static status read_document(cJSON *document, const char *name, step_times *out) {
    step_times t = {0};
    json_object root = json_view(document, name);
    json_int(&root, "format", FORMAT, FORMAT);
    copy_text(&root, "model", t.model, sizeof t.model);
    copy_text(&root, "processor", t.processor, sizeof t.processor);
    t.n_threads = (int)json_int(&root, "threads", 1, MAX_RANKS);
    t.hop_seconds = json_number(&root, "hop_seconds", 0, most_seconds);
    read_ranks(&root, &t);
    read_steps(&root, &t);
    if (root.st == STATUS_OK)
        *out = t;
    else
        step_times_free(&t);
    cJSON_Delete(document);
    return root.st;
}

status step_times_parse(const char *bytes, size_t n, const char *name, step_times *out) {
    cJSON *document;
    status st = json_parse(bytes, n, name, &document);
    return st == STATUS_OK ? read_document(document, name, out) : st;
}

status step_times_read(const char *path, step_times *out) {
    cJSON *document;
    status st = json_read_file(path, MAX_FILE_BYTES, &document);
    return st == STATUS_OK ? read_document(document, path, out) : st;
}
