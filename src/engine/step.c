#include "src/engine/step.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

/* A message begins with the counts; the arrays follow in the order of the structure. */
typedef struct step_counts {
    int32_t kind, n_releases, n_starts, n_spans, n_rows, n_extents;
    step_save save;
} step_counts;

typedef struct reply_counts {
    int32_t n_choices, n_scores;
} reply_counts;

/* A position in a message. */
typedef struct cursor {
    char *at;
} cursor;

static void put(cursor *c, const void *data, size_t n, size_t item_bytes) {
    memcpy(c->at, data, n * item_bytes);
    c->at += n * item_bytes;
}

static void get(cursor *c, void *data, size_t n, size_t item_bytes) {
    memcpy(data, c->at, n * item_bytes);
    c->at += n * item_bytes;
}

step step_new(int n_slots, int max_rows) {
    size_t slots = (size_t)n_slots, rows = (size_t)max_rows;
    return (step){
        .releases = mem_new(slots, sizeof(int32_t)),
        .starts = mem_new(slots, sizeof(step_start)),
        .spans = mem_new(slots, sizeof(step_span)),
        .extents = mem_new(slots, sizeof(step_extent)),
        .tokens = mem_new(rows, sizeof(int32_t)),
        .targets = mem_new(rows, sizeof(int32_t)),
    };
}

void step_free(step *s) {
    free(s->releases);
    free(s->starts);
    free(s->spans);
    free(s->extents);
    free(s->tokens);
    free(s->targets);
    *s = (step){0};
}

void step_clear(step *s) {
    s->kind = STEP_ROWS;
    s->n_releases = s->n_starts = s->n_spans = s->n_rows = s->n_extents = 0;
    s->save = (step_save){0};
}

size_t step_max_bytes(int n_slots, int max_rows) {
    return sizeof(step_counts) +
           (size_t)n_slots *
               (sizeof(int32_t) + sizeof(step_start) + sizeof(step_span) + sizeof(step_extent)) +
           (size_t)max_rows * 2 * sizeof(int32_t);
}

size_t step_write(const step *s, void *out) {
    cursor c = {out};
    step_counts counts = {(int32_t)s->kind, s->n_releases, s->n_starts, s->n_spans,
                          s->n_rows,        s->n_extents,  s->save};
    put(&c, &counts, 1, sizeof counts);
    put(&c, s->releases, (size_t)s->n_releases, sizeof *s->releases);
    put(&c, s->starts, (size_t)s->n_starts, sizeof *s->starts);
    put(&c, s->spans, (size_t)s->n_spans, sizeof *s->spans);
    put(&c, s->extents, (size_t)s->n_extents, sizeof *s->extents);
    put(&c, s->tokens, (size_t)s->n_rows, sizeof *s->tokens);
    put(&c, s->targets, (size_t)s->n_rows, sizeof *s->targets);
    return (size_t)(c.at - (char *)out);
}

void step_read(const void *bytes, size_t n_bytes, step *out) {
    cursor c = {(char *)bytes};
    step_counts counts;
    get(&c, &counts, 1, sizeof counts);
    out->kind = (step_kind)counts.kind;
    out->n_releases = counts.n_releases;
    out->n_starts = counts.n_starts;
    out->n_spans = counts.n_spans;
    out->n_rows = counts.n_rows;
    out->n_extents = counts.n_extents;
    out->save = counts.save;
    get(&c, out->releases, (size_t)counts.n_releases, sizeof *out->releases);
    get(&c, out->starts, (size_t)counts.n_starts, sizeof *out->starts);
    get(&c, out->spans, (size_t)counts.n_spans, sizeof *out->spans);
    get(&c, out->extents, (size_t)counts.n_extents, sizeof *out->extents);
    get(&c, out->tokens, (size_t)counts.n_rows, sizeof *out->tokens);
    get(&c, out->targets, (size_t)counts.n_rows, sizeof *out->targets);
    assert(c.at == (const char *)bytes + n_bytes);
}

step_reply step_reply_new(int n_slots, int max_rows) {
    return (step_reply){
        .choices = mem_new((size_t)n_slots, sizeof(sampler_choice)),
        .scores = mem_new((size_t)max_rows, sizeof(float)),
    };
}

void step_reply_free(step_reply *r) {
    free(r->choices);
    free(r->scores);
    *r = (step_reply){0};
}

size_t step_reply_max_bytes(int n_slots, int max_rows) {
    return sizeof(reply_counts) + (size_t)n_slots * sizeof(sampler_choice) + (size_t)max_rows * sizeof(float);
}

size_t step_reply_write(const step_reply *r, void *out) {
    cursor c = {out};
    reply_counts counts = {r->n_choices, r->n_scores};
    put(&c, &counts, 1, sizeof counts);
    put(&c, r->choices, (size_t)r->n_choices, sizeof *r->choices);
    put(&c, r->scores, (size_t)r->n_scores, sizeof *r->scores);
    return (size_t)(c.at - (char *)out);
}

void step_reply_read(const void *bytes, step_reply *out) {
    cursor c = {(char *)bytes};
    reply_counts counts;
    get(&c, &counts, 1, sizeof counts);
    out->n_choices = counts.n_choices;
    out->n_scores = counts.n_scores;
    get(&c, out->choices, (size_t)counts.n_choices, sizeof *out->choices);
    get(&c, out->scores, (size_t)counts.n_scores, sizeof *out->scores);
}
