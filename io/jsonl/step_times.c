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
    status st = file_write_text(path, text.data);
    free(text.data);
    return st;
}

/* ---- reading ---- */

/* The member, a list of 1 to `most` items; NULL after a failure. */
static const cJSON *find_list(json_object *root, const char *key, int most) {
    const cJSON *list = json_find(root, key);
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (n < 1 || n > most) json_refuse(root, key, "expected a list of 1 to %d objects", most);
    return root->st == STATUS_OK ? list : NULL;
}

static void copy_text(json_object *root, const char *key, char *out, size_t n) {
    const char *text = json_text(root, key);
    if (!json_is_printable(text)) json_refuse(root, key, "has control characters");
    snprintf(out, n, "%s", text);
}

static status read_ranks(json_object *root, step_times *out) {
    const cJSON *list = find_list(root, "ranks", MAX_RANKS), *item;
    if (!list) return root->st;
    out->layers = mem_new((size_t)cJSON_GetArraySize(list), sizeof *out->layers);
    cJSON_ArrayForEach(item, list) {
        json_object rank = json_view(item, root->file);
        out->layers[out->n_ranks++] = (int)json_int(&rank, "layers", 1, MAX_RANKS);
        if (rank.st != STATUS_OK) return rank.st;
    }
    return STATUS_OK;
}

static status read_steps(json_object *root, step_times *out) {
    const cJSON *list = find_list(root, "steps", MAX_FILE_BYTES), *item;
    if (!list) return root->st;
    out->steps = mem_new((size_t)cJSON_GetArraySize(list), sizeof *out->steps);
    cJSON_ArrayForEach(item, list) {
        json_object step = json_view(item, root->file);
        snprintf(step.path, sizeof step.path, "steps[%d].", out->n_steps);
        out->steps[out->n_steps++] = (step_time){
            .rank = (int)json_int(&step, "rank", 0, out->n_ranks - 1),
            .n_sequences = (int)json_int(&step, "sequences", 1, MAX_ROWS),
            .n_rows = (int)json_int(&step, "rows", 1, MAX_ROWS),
            .history = json_number(&step, "history", 0, most_positions),
            .layer_seconds = json_number(&step, "layer_seconds", 1e-9, most_seconds),
            .n_head_rows = (int)json_int(&step, "head_rows", 0, MAX_ROWS),
            .head_seconds = json_number(&step, "head_seconds", 0, most_seconds),
        };
        if (step.st != STATUS_OK) return step.st;
    }
    return STATUS_OK;
}

static status read_root(json_object *root, step_times *out) {
    json_int(root, "format", FORMAT, FORMAT);
    copy_text(root, "model", out->model, sizeof out->model);
    copy_text(root, "processor", out->processor, sizeof out->processor);
    out->n_threads = (int)json_int(root, "threads", 1, MAX_RANKS);
    out->hop_seconds = json_number(root, "hop_seconds", 0, most_seconds);
    status st = root->st;
    if (st == STATUS_OK) st = read_ranks(root, out);
    if (st == STATUS_OK) st = read_steps(root, out);
    return st;
}

static status read_document(cJSON *document, const char *name, step_times *out) {
    step_times t = {0};
    json_object root = json_view(document, name);
    status st = root.st == STATUS_OK ? read_root(&root, &t) : root.st;
    if (st == STATUS_OK)
        *out = t;
    else
        step_times_free(&t);
    cJSON_Delete(document);
    return st;
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
