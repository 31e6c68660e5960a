#include "src/command/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "src/base/memory.h"
#include "src/base/notice.h"

static const double giga = 1e9, mib = 1024.0 * 1024;

/* All that the table and the JSON tell. */
typedef struct run_figures {
    int n_ranks;
    rank_report *ranks;
    engine_times times;
    yardstick machine;
    engine_loads loads;
    engine_evictions evicted;
    run_summary summary;
    double bytes_read_per_second, flops;
} run_figures;

/* ---- the table ---- */

static double total_seconds(const rank_report *r) {
    double sum = 0;
    for (int i = 0; i < N_REGIONS; i++)
        sum += r->trace.seconds[i];
    return sum;
}

static void print_row(const run_figures *f, const char *name, double (*value)(const rank_report *, int),
                      int which) {
    double min = value(&f->ranks[0], which), max = min, sum = 0, all = 0;
    int slowest = 0;
    for (int i = 0; i < f->n_ranks; i++) {
        double v = value(&f->ranks[i], which);
        if (v < min) min = v;
        if (v > max) {
            max = v;
            slowest = i;
        }
        sum += v;
        all += total_seconds(&f->ranks[i]);
    }
    fprintf(stderr, "  %-24s %10.3f %10.3f %10.3f %6d %7.1f%%\n", name, min, sum / f->n_ranks, max, slowest,
            all > 0 ? 100 * sum / all : 0);
}

static double region_seconds(const rank_report *r, int which) {
    return r->trace.seconds[which];
}

static double all_seconds(const rank_report *r, int which) {
    (void)which;
    return total_seconds(r);
}

static bool anyone_was_there(const run_figures *f, int which) {
    for (int i = 0; i < f->n_ranks; i++)
        if (f->ranks[i].trace.seconds[which] > 0) return true;
    return false;
}

static double per_second(double n, double seconds) {
    return seconds > 0 ? n / seconds : 0;
}

/* Of all ranks whose KV pages a GPU's memory did not hold. */
static void print_kv_hosts(const run_figures *f) {
    double out = 0, in = 0, out_seconds = 0, in_seconds = 0;
    bool any = false;
    for (const rank_report *r = f->ranks; r < f->ranks + f->n_ranks; r++) {
        any |= r->has_kv_host;
        out += (double)r->kv.to_host.bytes;
        in += (double)r->kv.from_host.bytes;
        out_seconds += r->kv.to_host.seconds;
        in_seconds += r->kv.from_host.seconds;
    }
    if (any)
        fprintf(stderr,
                "  KV pages in host memory: %.1f MiB written (%.2f GB/s a rank), %.1f MiB read (%.2f GB/s a "
                "rank)\n",
                out / mib, per_second(out, out_seconds) / giga, in / mib, per_second(in, in_seconds) / giga);
}

/* Of all ranks whose KV pages memory did not hold. */
static void print_kv_files(const run_figures *f) {
    double written = 0, read = 0, write_seconds = 0, read_seconds = 0;
    const char *by = NULL;
    for (const rank_report *r = f->ranks; r < f->ranks + f->n_ranks; r++) {
        if (!*r->kv_file_by) continue;
        by = r->kv_file_by;
        written += (double)r->kv.disk.written.bytes;
        read += (double)r->kv.disk.read.bytes;
        write_seconds += r->kv.disk.written.seconds;
        read_seconds += r->kv.disk.read.seconds;
    }
    if (by)
        fprintf(stderr,
                "  KV pages on disks: %.1f MiB written (%.2f GB/s a rank), %.1f MiB read (%.2f GB/s a rank), "
                "by %s\n",
                written / mib, per_second(written, write_seconds) / giga, read / mib,
                per_second(read, read_seconds) / giga, by);
}

static void print_table(const run_figures *f, const options *o) {
    const engine_times *t = &f->times;
    fprintf(stderr, "\n  %-24s %10s %10s %10s %6s %8s\n", "region, seconds", "min", "avg", "max", "rank",
            "share");
    for (int r = REGION_REST + 1; r < N_REGIONS; r++)
        if (anyone_was_there(f, r)) print_row(f, region_name((region)r), region_seconds, r);
    print_row(f, region_name(REGION_REST), region_seconds, REGION_REST);
    print_row(f, "all", all_seconds, 0);
    fprintf(stderr, "\n  prefill %lld tokens, %.1f tokens/s; decode %lld tokens, %.1f tokens/s",
            (long long)t->prompt_tokens, per_second((double)t->prompt_tokens, t->prefill_seconds),
            (long long)(t->decode_tokens + t->mixed_tokens),
            per_second((double)t->decode_tokens, t->decode_seconds));
    if (t->mixed_tokens) fprintf(stderr, " (%lld came during prefill)", (long long)t->mixed_tokens);
    if (f->summary.first_token_seconds > 0)
        fprintf(stderr, "\n  time to first token %.3f s", f->summary.first_token_seconds);
    fprintf(stderr, "\n  %.2f GB/s of weights and KV read", f->bytes_read_per_second / giga);
    if (f->machine.read_bytes_per_second > 0)
        fprintf(stderr, " (memory reads here: %.2f GB/s)", f->machine.read_bytes_per_second / giga);
    fprintf(stderr, ", %.1f GFLOP/s", f->flops / giga);
    double sent = 0, file = 0;
    for (int i = 0; i < f->n_ranks; i++) {
        sent += f->ranks[i].bytes_sent;
        file += (double)f->ranks[i].file_bytes;
    }
    fprintf(stderr, "\n  %.1f MiB sent between ranks; %.1f MiB of weights %s in %.2f s\n", sent / mib,
            file / mib, o->shape ? "made" : "read", f->ranks[0].load_seconds);
    print_kv_hosts(f);
    print_kv_files(f);
}

static double most_seconds(const run_figures *f, region r) {
    double most = 0;
    for (int i = 0; i < f->n_ranks; i++)
        if (f->ranks[i].trace.seconds[r] > most) most = f->ranks[i].trace.seconds[r];
    return most;
}

/* What snapshots cost: the time of the save itself, and how long the run stood still for it. */
static void print_snapshots(const run_figures *f, const options *o, const engine *e) {
    const checkpoint_stats *s = &f->summary.saves;
    double load = most_seconds(f, REGION_LOAD), save = most_seconds(f, REGION_SAVE);
    double token_bytes = model_kv_token_bytes(engine_config(e), engine_device(e)->kv, KV_ROWS);
    if (f->loads.n_loaded > 0)
        fprintf(stderr, "  %s: %lld tokens were not computed but loaded, in %.3f s (%.2f GB/s of K and V)\n",
                o->resume, (long long)f->loads.n_loaded, load,
                per_second((double)f->loads.n_loaded * token_bytes, load) / giga);
    if (s->n_saves > 0)
        fprintf(stderr,
                "  %s: %d save%s of %lld tokens, %.1f MiB in %.1f MiB of files (%.2fx) in %.3f s; the run "
                "stood still for %.3f s, and %.3f s at its end\n",
                o->save, s->n_saves, s->n_saves == 1 ? "" : "s", (long long)s->n_tokens, s->raw_bytes / mib,
                (double)s->file_bytes / mib, per_second(s->raw_bytes, (double)s->file_bytes), s->seconds,
                save - f->summary.end_save_seconds, f->summary.end_save_seconds);
    if (s->beside_seconds > 0 && s->alone_seconds > 0)
        fprintf(stderr, "  with a save beside it the run did %.1f tokens/s, without one %.1f\n",
                per_second((double)s->beside_tokens, s->beside_seconds),
                per_second((double)s->alone_tokens, s->alone_seconds));
}

/* ---- advice ---- */

static double share_of(const run_figures *f, region r, int rank) {
    double all = total_seconds(&f->ranks[rank]);
    return all > 0 ? f->ranks[rank].trace.seconds[r] / all : 0;
}

static double mean_share(const run_figures *f, region r) {
    double sum = 0;
    for (int i = 0; i < f->n_ranks; i++)
        sum += share_of(f, r, i);
    return sum / f->n_ranks;
}

static void note_waiting(const run_figures *f, const options *o) {
    if (f->n_ranks == 1) return;
    double waits = mean_share(f, REGION_SEND_WAIT) + mean_share(f, REGION_RECEIVE_WAIT) +
                   mean_share(f, REGION_REPLY_WAIT);
    if (waits < 0.2) return;
    fprintf(stderr, "NOTE: the ranks waited for each other %.0f%% of the time.", 100 * waits);
    if (f->summary.n_requests < f->n_ranks && f->times.decode_seconds > f->times.prefill_seconds)
        fprintf(stderr,
                " %lld sequence(s) cannot keep %d ranks busy in decode: give at least %d prompts with "
                "--input, or "
                "use fewer ranks.\n",
                (long long)f->summary.n_requests, f->n_ranks, f->n_ranks);
    else if (f->times.prefill_seconds > f->times.decode_seconds)
        fprintf(stderr, " Smaller chunks fill the pipeline sooner: try --chunk-tokens %lld.\n",
                (long long)(o->chunk_tokens > 64 ? o->chunk_tokens / 2 : 32));
    else
        fprintf(stderr, "\n");
}

/* What follows is not what it would be with all of the prompts. */
static void note_evictions(const run_figures *f, const options *o) {
    const engine_evictions *v = &f->evicted;
    char policy[EVICT_TEXT_BYTES], again[100] = "";
    if (v->n_sequences == 0) return;
    evict_text(&o->evict, policy);
    if (o->evict.every > 0)
        snprintf(again, sizeof again, "; and again %lld times, behind every %lld tokens",
                 (long long)v->n_again, (long long)o->evict.every);
    notice_add(
        "--evict %s: in a layer, %lld sequence%s kept %.0f of %lld places of their prompts (%.1f%%); in all "
        "layers that is %.1f of %.1f MiB of K and V%s%s",
        policy, (long long)v->n_sequences, v->n_sequences == 1 ? "" : "s", v->n_kept, (long long)v->n_places,
        100 * v->n_kept / (double)v->n_places, v->kept_bytes / mib, v->bytes / mib, again,
        v->kept_bytes < v->bytes || v->n_again > 0
            ? ": text and scores behind are not those of the whole cache"
            : "");
}

static void print_notes(const run_figures *f, const options *o, const engine *e) {
    note_evictions(f, o);
    notice_print_new(stderr);
    note_waiting(f, o);
    int64_t most = engine_plan(e)->n_pages * o->page_tokens;
    if (f->summary.clipped_context)
        fprintf(stderr, "NOTE: the context ends before --max-tokens for some prompts: raise --context.\n");
    if (o->context != OPTION_UNSET && o->context > engine_config(e)->max_positions)
        fprintf(stderr,
                "NOTE: --context %lld is beyond the %lld positions that the model was made for: expect worse "
                "text.\n",
                (long long)o->context, (long long)engine_config(e)->max_positions);
    if (o->kv_memory && f->summary.n_requests > 1)
        fprintf(stderr,
                "NOTE: the KV cache holds %lld tokens at once; more --kv-memory lets more sequences run "
                "together.\n",
                (long long)most);
    if (o->precision == PRECISION_F32)
        fprintf(
            stderr,
            "NOTE: --precision f32 is for checking: bf16 halves the memory and is several times as fast.\n");
}

/* ---- JSON ---- */

static void put_rank(json_writer *w, const rank_report *r, int rank) {
    json_open(w, NULL, '{');
    json_put_integer(w, "rank", rank);
    json_put_integer(w, "first_layer", r->slice.first_layer);
    json_put_integer(w, "last_layer", r->slice.last_layer);
    json_put_integer(w, "weight_bytes", (int64_t)r->weight_bytes);
    json_put_integer(w, "kv_bytes", (int64_t)r->kv_bytes);
    json_put_integer(w, "planned_bytes", (int64_t)r->total_bytes);
    json_put_integer(w, "file_bytes_read", (int64_t)r->file_bytes);
    json_put_number(w, "load_seconds", r->load_seconds);
    json_put_integer(w, "steps", r->stage.n_steps);
    json_put_integer(w, "rows", r->stage.n_rows);
    json_put_number(w, "bytes_sent", r->bytes_sent);
    json_put_integer(w, "kv_host_bytes_written", r->kv.to_host.bytes);
    json_put_integer(w, "kv_host_bytes_read", r->kv.from_host.bytes);
    json_put_number(w, "kv_host_read_seconds", r->kv.from_host.seconds);
    json_put_integer(w, "kv_disk_bytes_written", r->kv.disk.written.bytes);
    json_put_integer(w, "kv_disk_bytes_read", r->kv.disk.read.bytes);
    json_put_number(w, "kv_disk_read_seconds", r->kv.disk.read.seconds);
    json_open(w, "region_seconds", '{');
    for (int i = 0; i < N_REGIONS; i++)
        json_put_number(w, region_name((region)i), r->trace.seconds[i]);
    json_close(w);
    json_close(w);
}

static void put_snapshots(json_writer *w, const run_figures *f) {
    const checkpoint_stats *s = &f->summary.saves;
    json_put_integer(w, "reused_tokens", f->summary.reused_tokens);
    json_put_integer(w, "loaded_tokens", f->loads.n_loaded);
    json_put_integer(w, "recomputed_tokens", f->loads.n_computed);
    json_put_integer(w, "tokens_from_base", f->loads.n_from_base);
    json_put_integer(w, "sequences_from_base", f->loads.n_coarse);
    json_put_integer(w, "sequences_refined", f->loads.n_refined);
    if (f->loads.n_refined > 0) json_put_integer(w, "refined_before_position", f->loads.last_refined);
    json_put_number(w, "load_kv_seconds", most_seconds(f, REGION_LOAD));
    json_put_integer(w, "saves", s->n_saves);
    if (f->summary.saved_codec[0]) json_put_text(w, "saved_codec", f->summary.saved_codec);
    if (f->summary.recoded_bytes > 0) json_put_integer(w, "recoded_file_bytes", f->summary.recoded_bytes);
    json_put_integer(w, "failed_saves", s->n_failed);
    json_put_integer(w, "saved_tokens", s->n_tokens);
    json_put_number(w, "saved_kv_bytes", s->raw_bytes);
    json_put_integer(w, "saved_file_bytes", s->file_bytes);
    json_put_number(w, "save_seconds", s->seconds);
    json_put_number(w, "save_stall_seconds", most_seconds(f, REGION_SAVE));
    json_put_number(w, "save_end_seconds", f->summary.end_save_seconds);
    json_put_number(w, "tokens_per_second_while_saving",
                    per_second((double)s->beside_tokens, s->beside_seconds));
    json_put_number(w, "tokens_per_second_otherwise", per_second((double)s->alone_tokens, s->alone_seconds));
}

static void put_evictions(json_writer *w, const run_figures *f, const options *o) {
    const engine_evictions *v = &f->evicted;
    char policy[EVICT_TEXT_BYTES];
    if (o->evict.kind == EVICT_NOTHING) return;
    evict_text(&o->evict, policy);
    json_open(w, "evict", '{');
    json_put_text(w, "policy", policy);
    json_put_integer(w, "sequences", v->n_sequences);
    json_put_integer(w, "places", v->n_places);
    json_put_number(w, "kept_places", v->n_kept);
    json_put_number(w, "kv_bytes", v->bytes);
    json_put_number(w, "kept_kv_bytes", v->kept_bytes);
    if (o->evict.every > 0) json_put_integer(w, "times_again", v->n_again);
    json_close(w);
}

static void put_run(json_writer *w, const run_figures *f, const options *o, const engine *e) {
    char shape[256], *effective = options_effective(o);
    model_config_describe(engine_config(e), shape, sizeof shape);
    json_put_text(w, "command", options_command_name(o->command));
    json_put_text(w, "options", effective);
    free(effective);
    json_put_text(w, "model", shape);
    json_put_integer(w, "ranks", f->n_ranks);
    json_put_integer(w, "requests", f->summary.n_requests);
    json_put_number(w, "seconds", f->times.seconds);
    json_put_number(w, "prefill_seconds", f->times.prefill_seconds);
    json_put_number(w, "decode_seconds", f->times.decode_seconds);
    json_put_integer(w, "prompt_tokens", f->times.prompt_tokens);
    json_put_integer(w, "generated_tokens", f->times.decode_tokens + f->times.mixed_tokens);
    json_put_number(w, "prefill_tokens_per_second",
                    per_second((double)f->times.prompt_tokens, f->times.prefill_seconds));
    json_put_number(w, "decode_tokens_per_second",
                    per_second((double)f->times.decode_tokens, f->times.decode_seconds));
    json_put_number(w, "first_token_seconds", f->summary.first_token_seconds);
    json_put_number(w, "read_bytes_per_second", f->bytes_read_per_second);
    json_put_number(w, "machine_read_bytes_per_second", f->machine.read_bytes_per_second);
    json_put_number(w, "flops", f->flops);
}

static status write_json(const run_figures *f, const options *o, const engine *e) {
    text_buffer text = {0};
    json_writer w = {.out = &text};
    json_open(&w, NULL, '{');
    put_run(&w, f, o, e);
    put_snapshots(&w, f);
    put_evictions(&w, f, o);
    json_open(&w, "notes", '[');
    for (int i = 0; i < notice_count(); i++)
        json_put_text(&w, NULL, notice_text(i));
    json_close(&w);
    if (f->summary.put_found) f->summary.put_found(&w, f->summary.found);
    json_open(&w, "per_rank", '[');
    for (int i = 0; i < f->n_ranks; i++)
        put_rank(&w, &f->ranks[i], i);
    json_close(&w);
    json_close(&w);
    text_append(&text, "\n", 1);
    status st = file_write_all(o->report, text.data, text.n);
    free(text.data);
    return st;
}

status report_run(comm *c, engine *e, const options *o, const run_summary *summary) {
    int n = comm_size(c);
    run_figures f = {.n_ranks = n, .ranks = mem_new((size_t)n, sizeof(rank_report))};
    f.times = engine_get_times(e);
    engine_gather_reports(e, f.ranks);
    f.machine = yardstick_measure(c, e, false);
    status st = STATUS_OK;
    if (comm_rank(c) == 0) {
        f.summary = *summary;
        f.loads = engine_get_loads(e);
        f.evicted = engine_get_evictions(e);
        double busy = f.times.prefill_seconds + f.times.decode_seconds, bytes = 0, flops = 0;
        for (int i = 0; i < n; i++) {
            bytes += f.ranks[i].stage.weight_bytes + f.ranks[i].stage.kv_bytes;
            flops += f.ranks[i].stage.flops;
        }
        f.bytes_read_per_second = per_second(bytes, busy);
        f.flops = per_second(flops, busy);
        print_table(&f, o);
        print_snapshots(&f, o, e);
        print_notes(&f, o, e);
        if (o->report) st = write_json(&f, o, e);
    }
    free(f.ranks);
    return st;
}
