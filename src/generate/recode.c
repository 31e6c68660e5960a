/* --codec with tables or without: how what is saved is coded, and coded anew at the end of the run. */
#include <stdio.h>

#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/command/run.h"
#include "src/generate/generation.h"
#include "src/snapshot/compact.h"
#include "src/snapshot/own_tables.h"
#include "src/study/linear.h"

status generate_choose_coding(generation *g) {
    const options *o = g->options;
    const model_config *m = &g->config;
    const linear *l;
    if (!o->save) return STATUS_OK;
    status st = chosen_coding_find(o, &o->codec, m->n_layers, m->n_kv_heads, m->head_dim, o->resume,
                                   manifest_find_coded(&g->past), &g->chosen);
    if (st != STATUS_OK || kv_codec_is_exact(o->codec.codec) || g->chosen.tables) return st;
    g->chosen.coding = (kv_coding){.codec = KV_CODEC_LOSSLESS};
    return o->codec.codec == KV_CODEC_CACHEGEN ? linear_load(&l) : STATUS_OK; /* what is missing then is
                                                                                 missing now */
}

bool generate_recodes(const generation *g) {
    return g->options->save && kv_codec_is_exact(g->chosen.coding.codec) &&
           !kv_codec_is_exact(g->options->codec.codec);
}

void generate_announce_recode(const generation *g) {
    const bool is_generic = options_wants_generic(g->options);
    char text[KV_CODING_TEXT_BYTES];
    if (!generate_recodes(g)) return;
    kv_coding_text(&g->options->codec, text);
    notice_add(
        "--codec %s %s: what is saved is lossless until the end of the run, when %s is coded anew with %s",
        text, is_generic ? "--tables generic" : "without --tables", g->options->save,
        is_generic ? "those" : "tables of what it holds");
}

void generate_note_lossless(const generation *g, const char *why) {
    const char *dir = g->options->save;
    char text[KV_CODING_TEXT_BYTES];
    kv_coding_text(&g->options->codec, text);
    notice_add("%s stays lossless: %s; kvarve snapshot recode %s --codec %s makes it smaller later", dir, why,
               dir, text);
}

static void note_end(generation *g) {
    char why[NOTICE_BYTES];
    snprintf(why, sizeof why, "the run was told to end (%s)", g->stop_reason);
    generate_note_lossless(g, why);
}

/* Rank 0. */
static bool may_recode(generation *g, status st) {
    const manifest *m = checkpoint_committed(g->save);
    if (m->save_number == 0 || m->n_rows == 0) return false; /* that nothing is saved is said */
    if (st != STATUS_OK)
        generate_note_lossless(g, "the run failed");
    else if (g->stop_reason)
        note_end(g);
    else if (own_tables_check(m, g->options->codec.codec) != STATUS_OK)
        notice_add("%s stays lossless: %s", g->options->save, status_text());
    else
        return true;
    return false;
}

/* Rank 0. */
static void tell(generation *g, const compact_figures *f, const char *coding) {
    notice_add("%s: coded anew by %s: its files had %.1f MiB and have %.1f MiB, %.1f of them tables",
               g->options->save, coding, mem_mib((uint64_t)f->before.file_bytes),
               mem_mib((uint64_t)f->now.file_bytes), mem_mib((uint64_t)f->now.tables_bytes));
    snprintf(g->summary.saved_codec, sizeof g->summary.saved_codec, "%s", coding);
    g->summary.recoded_bytes = f->now.file_bytes;
}

status generate_recode(generation *g, comm *c, engine *e, status st) {
    options as = *g->options;
    char coding[KV_CODING_TEXT_BYTES];
    compact_figures figures;
    if (!generate_recodes(g)) return st;
    bool may = comm_rank(c) == 0 && may_recode(g, st);
    comm_broadcast(c, &may, sizeof may, 0);
    if (!may) return st;
    trace *t = engine_trace(e);
    const double seconds = t->seconds[REGION_SAVE];
    const region before = trace_enter(t, REGION_SAVE);
    kv_coding_text(&as.codec, coding);
    as.dir = as.save;
    as.recode = coding;
    checkpoint_close(g->save); /* and its lock with it */
    g->save = NULL;
    st = snapshot_compact(c, &as, run_threads(c, &as), &figures);
    trace_enter(t, before);
    g->summary.end_save_seconds += t->seconds[REGION_SAVE] - seconds;
    if (st != STATUS_OK && comm_rank(c) == 0) g->stop_reason = stop_reason(&g->limits, 0);
    bool is_told = st != STATUS_OK && g->stop_reason;
    comm_broadcast(c, &is_told, sizeof is_told, 0);
    if (is_told && comm_rank(c) == 0) note_end(g);
    if (is_told) return STATUS_OK;
    if (st != STATUS_OK)
        return status_fail(
            "%s stays lossless, as coding it anew failed (%s): kvarve snapshot recode %s --codec %s "
            "does it later",
            as.dir, status_text(), as.dir, coding);
    if (comm_rank(c) == 0) tell(g, &figures, coding);
    return STATUS_OK;
}
