/* kvarve snapshot ACTION DIR: look at a snapshot, check it, show its texts (compact: src/snapshot/compact.c).
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/snapshot/snapshot_tables.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/command/run.h"
#include "src/snapshot/compact.h"

static const double mib = 1024.0 * 1024, giga = 1e9;

/* ---- columns ---- */

/* Characters of a text in UTF-8. */
static int text_columns(const char *text) {
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* A name from outside, on one line whatever it holds, and spaces up to the width of its column. */
static void print_name(const char *text, int width) {
    for (const char *c = text; *c; c++)
        putchar((unsigned char)*c < ' ' || *c == 0x7F ? '?' : *c);
    printf("%*s", width > text_columns(text) ? width - text_columns(text) : 0, "");
}

static void widen(int *width, const char *text) {
    int n = text_columns(text);
    if (n > *width) *width = n;
}

static const char *plural(int64_t n) {
    return n == 1 ? "" : "s";
}

/* ---- info ---- */

static double sequence_mib(const manifest *m, const manifest_sequence *q) {
    return 2.0 * m->n_layers * m->n_kv_heads * m->head_dim * (double)dtype_bytes(m->type) *
           (double)manifest_kv_tokens(q) / mib;
}

static const char *state_of(const manifest_sequence *q) {
    bool generates = q->n_tokens > q->n_prompt;
    if (generates) return q->is_over ? finish_reason_name(q->finish) : "generating";
    return manifest_kv_tokens(q) < q->n_prompt ? "reading" : "read";
}

static void print_origin(const manifest *m, const char *dir) {
    char when[64], digest[MANIFEST_DIGEST_BYTES];
    time_t t = (time_t)m->unix_time;
    struct tm utc;
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&t, &utc));
    printf("snapshot      %s, format %d, save %lld\n", dir, manifest_format(m), (long long)m->save_number);
    printf("model         %s\n", m->model_name);
    printf("              %s\n", m->model_shape);
    manifest_digest_text(m->model_digest, digest);
    printf("              digest %s, rope %s\n", digest, m->rope);
    manifest_digest_text(m->tokenizer_digest, digest);
    printf("tokenizer     digest %s\n", digest);
    printf("cache         %d layers x %d kv heads x %d, %s, keys after rope, %lld rows\n", m->n_layers,
           m->n_kv_heads, m->head_dim, dtype_name(m->type), (long long)m->n_rows);
    printf("saved         %s on %s by kvarve %s, %d rank%s, %s; %.1f s computed\n", when, m->host, m->version,
           m->n_ranks, m->n_ranks == 1 ? "" : "s", m->processor, m->seconds_computed);
    printf("              %s\n", m->command_line);
}

static void print_sequences(const manifest *m) {
    int width = 8;
    for (int64_t i = 0; i < m->n_sequences; i++)
        widen(&width, m->sequences[i].id);
    printf("\n%-*s %10s %10s %10s %10s  %s\n", width, "sequence", "prompt", "generated", "saved", "MiB",
           "state");
    for (int64_t i = 0; i < m->n_sequences; i++) {
        const manifest_sequence *q = &m->sequences[i];
        print_name(q->id, width);
        printf(" %10lld %10lld %10lld %10.1f  %s%s%s%s%s\n", (long long)q->n_prompt,
               (long long)(q->n_tokens - q->n_prompt), (long long)manifest_kv_tokens(q), sequence_mib(m, q),
               state_of(q), q->inexact ? ", computed over " : "", q->inexact ? q->inexact : "",
               q->pages ? ", pages: " : "", q->pages ? q->pages : "");
    }
}

static int by_place(const void *a, const void *b) {
    const segment_info *x = a, *y = b;
    if (x->row0 != y->row0) return x->row0 < y->row0 ? -1 : 1;
    return x->first_layer < y->first_layer ? -1 : x->first_layer > y->first_layer;
}

static void print_segments(const manifest *m) {
    int width = 8;
    double files = 0, raw = 0;
    segment_info *sorted = mem_new((size_t)m->n_segments, sizeof *sorted);
    if (m->n_segments) memcpy(sorted, m->segments, (size_t)m->n_segments * sizeof *sorted);
    qsort(sorted, (size_t)m->n_segments, sizeof *sorted, by_place);
    for (int64_t i = 0; i < m->n_segments; i++)
        widen(&width, sorted[i].name);
    printf("\n%-*s %10s %10s %10s %10s %7s  %s\n", width, "segment", "layers", "rows", "MiB", "raw MiB",
           "ratio", "codec");
    for (int64_t i = 0; i < m->n_segments; i++) {
        const segment_info *s = &sorted[i];
        const kv_coding coding = segment_coding(s);
        char layers[32], text[KV_CODING_TEXT_BYTES];
        double bytes = 2.0 * (s->last_layer - s->first_layer) * (double)s->n_rows * s->n_kv_heads *
                       s->head_dim * (double)dtype_bytes(s->type);
        files += (double)s->file_bytes;
        raw += bytes;
        snprintf(layers, sizeof layers, "%d..%d", s->first_layer, s->last_layer - 1);
        kv_coding_text(&coding, text);
        printf("%-*s %10s %10lld %10.1f %10.1f %6.2fx  %s\n", width, s->name, layers, (long long)s->n_rows,
               (double)s->file_bytes / mib, bytes / mib, bytes / (double)s->file_bytes, text);
    }
    printf("%-*s %10s %10s %10.1f %10.1f %6.2fx\n", width, "all", "", "", files / mib, raw / mib,
           files > 0 ? raw / files : 1);
    free(sorted);
}

static void print_info(const manifest *m, const char *dir) {
    print_origin(m, dir);
    if (m->batch.n_lines > 0) {
        int64_t n_done = 0;
        for (int64_t i = 0; i < m->batch.n_lines; i++)
            n_done += m->batch.is_done[i];
        printf("batch         %lld of %lld lines done\n", (long long)n_done, (long long)m->batch.n_lines);
    }
    print_sequences(m);
    print_segments(m);
    if (m->n_segments > 100L * m->n_ranks)
        printf("NOTE: many small segments: kvarve snapshot compact %s merges them.\n", dir);
}

/* ---- text ---- */

static status print_texts(const manifest *m, const options *o) {
    int64_t n_shown = 0;
    for (int64_t i = 0; i < m->n_sequences; i++) {
        const manifest_sequence *q = &m->sequences[i];
        if (o->id && strcmp(o->id, q->id) != 0) continue;
        if (!o->id && m->n_sequences > 1) printf("%s--- %s\n", n_shown ? "\n" : "", q->id);
        if (q->n_prompt_text) fwrite(q->prompt_text, 1, (size_t)q->n_prompt_text, stdout);
        if (q->n_text) fwrite(q->text, 1, (size_t)q->n_text, stdout);
        putchar('\n');
        n_shown++;
    }
    if (n_shown > 0 || !o->id) return STATUS_OK;
    return status_refuse("%s: has no sequence with --id %s; kvarve snapshot info %s lists them", o->dir,
                         o->id, o->dir);
}

/* ---- verify ---- */

/* What one rank found. */
typedef struct verification {
    int64_t n_bytes, n_damaged;
    float distortion;              /* the largest of a chunk */
    char first[STATUS_TEXT_BYTES]; /* damage */
} verification;

static void note_damage(verification *v, const char *text) {
#pragma omp critical(snapshot_damage)
    {
        if (v->n_damaged++ == 0) snprintf(v->first, sizeof v->first, "%s", text);
    }
}

/* A segment's chunks in parallel. */
static void verify_segment(const char *dir, const segment_info *info, int n_threads, verification *v) {
    segment *s;
    if (segment_open(dir, NULL, info, NULL, &s) != STATUS_OK) {
        note_damage(v, status_text());
        return;
    }
    int64_t n_bytes = 0;
    float most = 0;
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) reduction(+ : n_bytes) reduction(max : most)
    for (int64_t i = 0; i < segment_count_entries(info); i++) {
        float distortion = 0;
        if (segment_verify_chunk(s, i, &n_bytes) != STATUS_OK ||
            segment_read_distortion(s, i, KV_ALL_PLANES, &distortion) != STATUS_OK)
            note_damage(v, status_text());
        if (distortion > most) most = distortion;
    }
    v->n_bytes += n_bytes;
    if (most > v->distortion) v->distortion = most;
    segment_close(s);
}

/* Rank 0 reads the manifest, and all ranks get the same. */
static status share_manifest(comm *c, const char *dir, manifest *out) {
    char *bytes = NULL;
    size_t n = 0;
    status st = comm_rank(c) == 0 ? manifest_read_bytes(dir, &bytes, &n) : STATUS_OK;
    if (comm_any_failed(c, &st)) return st;
    char *shared = comm_share(c, bytes, &n, 0);
    st = manifest_parse(shared, n, dir, out);
    free(shared);
    free(bytes);
    if (comm_any_failed(c, &st)) manifest_free(out);
    return st;
}

/* Each rank checks every n-th segment; the sum, on rank 0. */
static verification verify_all(comm *c, const options *o, const manifest *m) {
    verification mine = {0}, sum = {0}, *all = mem_new((size_t)comm_size(c), sizeof *all);
    snapshot_tables tables;
    if (comm_rank(c) == 0 && snapshot_tables_open(o->dir, NULL, m, 0, m->n_layers, &tables) != STATUS_OK)
        note_damage(&mine, status_text());
    if (comm_rank(c) == 0) snapshot_tables_close(&tables);
    for (int64_t i = comm_rank(c); i < m->n_segments; i += comm_size(c))
        verify_segment(o->dir, &m->segments[i], run_threads(c, o), &mine);
    comm_gather(c, &mine, sizeof mine, all);
    for (int i = 0; i < comm_size(c) && comm_rank(c) == 0; i++) {
        sum.n_bytes += all[i].n_bytes;
        if (all[i].distortion > sum.distortion) sum.distortion = all[i].distortion;
        if (all[i].n_damaged && !sum.n_damaged) memcpy(sum.first, all[i].first, sizeof sum.first);
        sum.n_damaged += all[i].n_damaged;
    }
    free(all);
    return sum;
}

/* Has a run that saves replaced the manifest since? */
static bool has_changed(comm *c, const char *dir, const manifest *m) {
    manifest now = {0};
    bool changed =
        comm_rank(c) == 0 && manifest_read(dir, &now) == STATUS_OK && now.save_number != m->save_number;
    manifest_free(&now);
    comm_broadcast(c, &changed, sizeof changed, 0);
    return changed;
}

/* A run may remove segments that nobody needs any more while they are read: then what is there now counts. */
static status verify(comm *c, const options *o) {
    enum { ATTEMPTS = 20 };
    manifest m = {0};
    verification found = {0};
    double begin = 0;
    status st = STATUS_OK;
    for (int i = 0, damaged = 1; st == STATUS_OK && damaged && i < ATTEMPTS; i++) {
        if (i > 0 && !has_changed(c, o->dir, &m)) break;
        manifest_free(&m);
        st = share_manifest(c, o->dir, &m);
        begin = clock_seconds();
        if (st == STATUS_OK) found = verify_all(c, o, &m);
        damaged = found.n_damaged > 0;
        comm_broadcast(c, &damaged, sizeof damaged, 0);
    }
    if (st != STATUS_OK) return st;
    if (comm_rank(c) == 0) {
        double seconds = clock_seconds() - begin;
        printf("%s: %lld segment%s, %.1f MiB of chunks read in %.3f s: %.2f GB/s\n", o->dir,
               (long long)m.n_segments, plural(m.n_segments), (double)found.n_bytes / mib, seconds,
               (double)found.n_bytes / seconds / giga);
        if (found.n_damaged)
            st = status_refuse("%s (damaged objects: %lld)", found.first, (long long)found.n_damaged);
        else
            printf("every checksum matches\n");
        if (!found.n_damaged && found.distortion > 0)
            printf("its codec has left a distortion of at most %.3g (--max-distortion)\n",
                   (double)found.distortion);
    }
    manifest_free(&m);
    comm_any_failed(c, &st);
    return st;
}

/* ---- compact, recode ---- */

static status compact(comm *c, const options *o) {
    const double begin = clock_seconds();
    compact_figures f;
    status st = snapshot_compact(c, o, run_threads(c, o), &f);
    if (st != STATUS_OK || comm_rank(c) != 0) return st;
    char tables[64] = "";
    if (f.now.tables_bytes)
        snprintf(tables, sizeof tables, ", %.1f of them tables", (double)f.now.tables_bytes / mib);
    printf("%s: %lld segments of %.1f MiB are now %lld of %.1f MiB%s; %lld of %lld rows kept; %.3f s\n",
           o->dir, (long long)f.before.n_segments, (double)f.before.file_bytes / mib,
           (long long)f.now.n_segments, (double)f.now.file_bytes / mib, tables, (long long)f.now.n_rows,
           (long long)f.before.n_rows, clock_seconds() - begin);
    return st;
}

/* ---- the command ---- */

static status run_action(comm *c, const options *o) {
    bool is_first = comm_rank(c) == 0;
    manifest m = {0};
    if (o->action == SNAPSHOT_COMPACT || o->action == SNAPSHOT_RECODE) return compact(c, o);
    if (o->action == SNAPSHOT_VERIFY) return verify(c, o);
    status st = share_manifest(c, o->dir, &m);
    if (st != STATUS_OK) return st;
    if (o->action == SNAPSHOT_INFO && is_first) print_info(&m, o->dir);
    if (o->action == SNAPSHOT_TEXT && is_first) st = print_texts(&m, o);
    manifest_free(&m);
    comm_any_failed(c, &st);
    return st;
}

int command_snapshot(comm *c, const options *o) {
    status st = run_action(c, o);
    return st == STATUS_OK ? EXIT_CODE_OK : run_say_failure(c, st);
}
