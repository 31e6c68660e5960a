#include "src/engine/saver.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/host.h"
#include "src/base/memory.h"
#include "src/engine/notes.h"

/* Beside a run that computes on the processors, the saving thread works at most this share of the time: what
 * it takes from the run's caches and processors is then a few percent, however many of them are idle. Codecs
 * that are not exact work ten times as long for a chunk, mostly in a processor's own caches: with a rest as
 * long as others' they would never keep up with a run. */
static const double exact_duty = 1.0 / 32, coded_duty = 1.0 / 6, longest_rest_seconds = 0.25;

/* Positions of the sequence in a slot that are written. */
typedef struct saved_rows {
    int64_t row0, pos0, n_tokens;
    int slot;
} saved_rows;

typedef struct save_order {
    step_save save;
    int64_t n_rows;
    int n_extents;
    saved_rows *extents;
} save_order;

struct saver {
    char *dir;
    kv_coding coding;
    const kv_tables *tables;
    slice slice;
    const model_config *config;
    dtype type;
    int n_threads;
    kv_cache *kv;
    const stage *logits;
    mailbox *notes;
    save_order order;
    pthread_t thread;
    atomic_bool hurries; /* nothing else runs */
    bool has_thread;
    double worked_seconds; /* of the saving thread, until its last rest */
    double rested_seconds; /* of this save */
};

saver *saver_open(const char *dir, const kv_coding *coding, const kv_tables *tables, slice s,
                  const model_config *config, dtype type, int n_threads, kv_cache *kv, const stage *logits,
                  mailbox *notes) {
    saver *v = mem_new(1, sizeof *v);
    *v = (saver){
        .dir = mem_copy_text(dir, strlen(dir)),
        .coding = *coding,
        .tables = tables,
        .slice = s,
        .config = config,
        .type = type,
        .n_threads = n_threads,
        .kv = kv,
        .logits = logits,
        .notes = notes,
    };
    return v;
}

static void join(saver *v) {
    if (v->has_thread) pthread_join(v->thread, NULL);
    v->has_thread = false;
    for (int i = 0; i < v->order.n_extents; i++)
        kv_cache_unpin(v->kv, v->order.extents[i].slot);
    free(v->order.extents);
    v->order = (save_order){0};
}

void saver_close(saver *v) {
    if (!v) return;
    join(v);
    free(v->dir);
    free(v);
}

/* A large chunk is owed a long rest, which ends where nothing runs any more. */
static void rest(saver *v) {
    double worked = clock_thread_seconds(), begin = clock_seconds();
    double duty = kv_codec_is_exact(v->coding.codec) ? exact_duty : coded_duty;
    double left = (worked - v->worked_seconds) * (1 / duty - 1);
    for (; left > 0 && !atomic_load(&v->hurries); left -= longest_rest_seconds) {
        const double pause = left < longest_rest_seconds ? left : longest_rest_seconds;
        nanosleep(&(struct timespec){0, (long)(pause * 1e9)}, NULL);
    }
    v->worked_seconds = worked;
    v->rested_seconds += clock_seconds() - begin;
}

/* Part of a layer of a chunk: rows of the save are positions of its sequences, one after the other. */
static status read_rows(const saver *v, int layer, kv_part part, int64_t row0, int64_t n_rows, char *out) {
    size_t row_bytes = (size_t)v->config->n_kv_heads * (size_t)v->config->head_dim * dtype_bytes(v->type);
    int64_t end = row0 + n_rows;
    for (int i = 0; i < v->order.n_extents; i++) {
        const saved_rows *x = &v->order.extents[i];
        int64_t a = row0 > x->row0 ? row0 : x->row0, b = x->row0 + x->n_tokens;
        if (b > end) b = end;
        if (a >= b) continue;
        status st = kv_cache_read(v->kv, x->slot, layer - v->slice.first_layer, part, x->pos0 + (a - x->row0),
                                  b - a, out + (size_t)(a - row0) * row_bytes);
        if (st != STATUS_OK) return st;
    }
    return STATUS_OK;
}

/* ---- a segment's source ---- */

static status read_chunk(void *context, const kv_chunk *chunk, int64_t row0, void *out) {
    saver *v = context;
    const size_t part_bytes = kv_chunk_bytes(&chunk->shape);
    status st = STATUS_OK;
    if (!atomic_load(&v->hurries)) rest(v);
    for (int i = 0; st == STATUS_OK && i < kv_chunk_count_parts(chunk); i++)
        st = read_rows(v, kv_chunk_layer(chunk, i), kv_chunk_part(chunk, i), row0, chunk->shape.n_tokens,
                       (char *)out + (size_t)i * part_bytes);
    return st;
}

static void describe_rows(void *context, int64_t row0, int64_t n_rows, kv_token *out) {
    const saver *v = context;
    for (int i = 0; i < v->order.n_extents; i++) {
        const saved_rows *x = &v->order.extents[i];
        for (int64_t row = row0; row < row0 + n_rows; row++) {
            const int64_t place = row - x->row0;
            if (place >= 0 && place < x->n_tokens)
                out[row - row0] = (kv_token){(int32_t)(x->pos0 + place), (int32_t)(x->n_tokens - 1 - place)};
        }
    }
}

static void write_segment(saver *v, int n_threads) {
    const save_order *o = &v->order;
    double begin = clock_seconds();
    v->worked_seconds = clock_thread_seconds();
    v->rested_seconds = 0;
    note report = {.kind = NOTE_SEGMENT, .number = o->save.number};
    report.segment = (segment_info){
        .first_layer = v->slice.first_layer,
        .last_layer = v->slice.last_layer,
        .row0 = o->save.row0,
        .n_rows = o->n_rows,
        .n_kv_heads = v->config->n_kv_heads,
        .head_dim = v->config->head_dim,
        .type = v->type,
        .codec = v->coding.codec,
        .level = v->coding.level,
        .has_base = v->coding.has_base,
        .tables_digest = v->tables ? v->tables->digest : 0,
        .chunk_tokens = segment_chunk_tokens(v->coding.codec, v->type, v->config->n_kv_heads,
                                             v->config->head_dim, o->n_rows),
    };
    segment_make_name(&report.segment, o->save.number);
    const bool is_asked = !kv_codec_is_exact(v->coding.codec) || kv_is_coded(&kv_cache_shape(v->kv)->format);
    const segment_source source = {read_chunk, is_asked ? describe_rows : NULL, v, v->tables};
    report.st = segment_write(v->dir, &report.segment, &source, n_threads);
    if (report.st == STATUS_OK) report.st = fault_at("save-note");
    if (report.st != STATUS_OK) memcpy(report.text, status_text(), sizeof report.text);
    report.seconds = clock_seconds() - begin - v->rested_seconds;
    mailbox_send(v->notes, &report, sizeof report);
}

static void *write_beside(void *arg) {
    const saver *v = arg;
    if (!v->order.save.is_last) host_yield_to_others();
    write_segment(arg, v->order.save.is_last ? v->n_threads : 1);
    return NULL;
}

/* The last positions' logits go to rank 0, which puts them into the manifest. */
static status send_logits(const saver *v, const step *order) {
    status st = STATUS_OK;
    size_t bytes = (size_t)v->config->vocab_size * sizeof(float);
    note *report = mem_new(1, sizeof *report + bytes);
    for (int i = 0; st == STATUS_OK && i < order->n_extents; i++) {
        const step_extent *x = &order->extents[i];
        if (!stage_has_logits(v->logits, x->slot, x->pos0 + x->n_tokens - 1)) continue;
        *report = (note){.kind = NOTE_LOGITS, .number = order->save.number, .extent = i};
        st = stage_read_logits(v->logits, x->slot, (float *)(report + 1));
        if (st == STATUS_OK) mailbox_send(v->notes, report, sizeof *report + bytes);
    }
    free(report);
    return st;
}

status saver_begin(saver *v, const step *order) {
    join(v);
    status st = slice_has_head(v->slice) ? send_logits(v, order) : STATUS_OK;
    if (st != STATUS_OK) return st;
    v->order = (save_order){
        .save = order->save,
        .n_extents = order->n_extents,
        .extents = mem_new((size_t)order->n_extents, sizeof(saved_rows)),
    };
    for (int i = 0; i < order->n_extents; i++) {
        const step_extent *x = &order->extents[i];
        v->order.extents[i] = (saved_rows){order->save.row0 + v->order.n_rows, x->pos0, x->n_tokens, x->slot};
        v->order.n_rows += x->n_tokens;
        kv_cache_pin(v->kv, x->slot);
    }
    atomic_store(&v->hurries, order->save.is_last);
    if (v->order.n_rows == 0) {
        note report = {.kind = NOTE_SEGMENT, .number = order->save.number};
        mailbox_send(v->notes, &report, sizeof report);
        return STATUS_OK;
    }
    v->has_thread = pthread_create(&v->thread, NULL, write_beside, v) == 0;
    if (v->has_thread) return STATUS_OK;
    atomic_store(&v->hurries, true); /* then here, with nothing beside it that would need rests */
    write_segment(v, v->n_threads);
    return STATUS_OK;
}

void saver_hurry(saver *v) {
    atomic_store(&v->hurries, true);
}
