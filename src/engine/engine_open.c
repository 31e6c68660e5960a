/* The begin and the end of an engine: plan, weights, cache and pipeline, agreed by all ranks; and its
 * figures. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file_reader.h"
#include "mpi/placement/gpu_choice.h"
#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/fault.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/engine/engine_private.h"

/* What a rank's own disk may take to answer. */
static const double most_seconds_of_disk = 60;

/* All ranks compute on devices of one kind: GPUs if they are asked for, or if every rank sees one. The ranks
 * of a host share its GPUs out among them. */
static status choose_device(engine *e) {
    const char *why = NULL;
    int n = e->options.device == DEVICE_CPU ? 0 : device_count(e->options.device, &why);
    if (e->options.device == DEVICE_AUTO)
        e->options.device = comm_min(e->worker.comm, n) > 0 ? DEVICE_CUDA : DEVICE_CPU;
    e->device_ranks = comm_node_size(e->worker.comm);
    e->options.sizing.is_apart = e->options.device == DEVICE_CUDA;
    if (e->options.device == DEVICE_CPU) return STATUS_OK;
    int local_rank = gpu_choice_local_rank(e->worker.comm);
    if (n == 0) return status_refuse("--device cuda: no usable GPU: %s", why);
    if (e->options.sizing.kv_codes == KV_INT4)
        return status_refuse("--kv int4 is for the CPU: give --device cpu");
    if (e->options.sizing.evict.kind != EVICT_NOTHING)
        return status_refuse("--evict is for the CPU: give --device cpu");
    e->device_ranks = (e->device_ranks + n - 1) / n;
    return gpu_choice_index(local_rank, n, &e->device_index);
}

/* Threads that feed a GPU run best on processors near it. */
static status open_device(engine *e) {
    const engine_options *o = &e->options;
    status st = device_open(o->device, e->device_index, o->sizing.precision, o->n_threads, &e->worker.dev);
    if (st == STATUS_OK && o->sizing.kv_codes != KV_ROWS) {
        e->worker.dev->kv_layout = o->device == DEVICE_CUDA ? KV_INT8_ROWS : o->sizing.kv_codes;
        notice_add(
            "--kv %s, so that text and scores are not those of --kv bf16",
            o->sizing.kv_codes == KV_INT8
                ? "int8: keys and values are rounded to int8 with a scale for each head and token, but for "
                  "the first and the last ones"
                : "int4: keys and values are rounded to 4 bits, keys, rotated, with a range for each element "
                  "over 64 tokens, "
                  "values with one for each 64 elements, but for the first and the last tokens");
    }
    if (st != STATUS_OK || o->device != DEVICE_CUDA) return st;
    e->worker.trace.mark = e->worker.dev->ops->mark;
    return STATUS_OK;
}

/* Once all ranks have their GPUs: bind this rank near its own, and let rank 0 know where all are. */
static void take_places(engine *e) {
    char host[64] = "", bound[128];
    const char *gpu = e->worker.dev->ops->bus_id(e->worker.dev);
    rank_place mine;
    if (e->options.device != DEVICE_CUDA) return;
    gethostname(host, sizeof host - 1);
    gpu_choice_bind_near(gpu, bound, sizeof bound);
    snprintf(mine.text, sizeof mine.text, "%s, GPU %s, %s", host, gpu, bound);
    if (comm_rank(e->worker.comm) == 0)
        e->places = mem_new((size_t)comm_size(e->worker.comm), sizeof *e->places);
    comm_gather(e->worker.comm, &mine, sizeof mine, e->places);
}

/* Ranks may see more or less memory: the smallest share counts, so that all plans are the same. */
static plan_bound bound_here(engine *e) {
    if (e->options.device == DEVICE_CPU) {
        memory_share share = memory_share_find(e->worker.comm);
        return plan_bound_of_host(&share);
    }
    uint64_t free_bytes = device_free_bytes(e->options.device, e->device_index);
    plan_bound bound = plan_bound_of_gpu(free_bytes, e->device_ranks);
    int64_t least = comm_min(e->worker.comm, bound.bytes ? (int64_t)bound.bytes : INT64_MAX);
    bound.bytes = least == INT64_MAX ? 0 : (uint64_t)least;
    return bound;
}

/* What is asked for counts, be it there or not. */
static void find_bound(engine *e) {
    plan_bound *bound = &e->options.sizing.bound, here = bound_here(e);
    if (bound->bytes == 0)
        *bound = here;
    else if (here.bytes && bound->bytes > here.bytes && comm_rank(e->worker.comm) == 0)
        notice_add("--memory-per-rank: %.1f MiB are more than %.1f MiB, %s", mem_mib(bound->bytes),
                   mem_mib(here.bytes), here.by);
}

static status make_plan(engine *e) {
    const sizing *s = &e->options.sizing;
    const int n = comm_size(e->worker.comm);
    find_bound(e);
    if (e->options.device == DEVICE_CPU) return plan_make(&e->config, s, n, &e->plan);
    const memory_share share = memory_share_find(e->worker.comm);
    const plan_bound host = plan_bound_of_host(&share);
    return plan_make_beside(&e->config, s, n, &host, &e->plan);
}

static char *share_text(comm *c, const char *text) {
    size_t n = comm_rank(c) == 0 && text ? strlen(text) : 0;
    return comm_share(c, text, &n, 0);
}

/* Rank 0's options and config to all; what they point to is needed only while the engine opens. */
static void share_options(engine *e) {
    engine_options *o = &e->options;
    comm_broadcast(e->worker.comm, o, sizeof *o, 0);
    comm_broadcast(e->worker.comm, &e->config, sizeof e->config, 0);
    if (comm_rank(e->worker.comm) > 0) o->chunks = NULL; /* stage 0 cuts */
    o->model_dir = share_text(e->worker.comm, o->model_dir);
    o->sizing.layers_per_rank = share_text(e->worker.comm, o->sizing.layers_per_rank);
    o->save_dir = share_text(e->worker.comm, o->save_dir);
    o->load_dir = share_text(e->worker.comm, o->load_dir);
    o->manifest = comm_share(e->worker.comm, o->manifest, &o->n_manifest, 0);
}

static void forget_shared_options(engine *e) {
    engine_options *o = &e->options;
    const char **shared[] = {&o->model_dir, &o->sizing.layers_per_rank, &o->save_dir, &o->load_dir,
                             &o->manifest};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        free((void *)*shared[i]);
        *shared[i] = NULL;
    }
}

/* Every rank opens the files; the first compares them with the config, which it may mend. */
static status open_weights(engine *e) {
    const engine_options *o = &e->options;
    status st = STATUS_OK;
    if (*o->made.name) {
        size_t n = 0;
        synthetic_tensor *tensors = model_list_tensors(&e->config, &n);
        e->worker.files = weights_open_synthetic(&o->made, tensors, n, o->n_threads);
        free(tensors);
    } else {
        st = weights_open(o->model_dir, &e->worker.files);
    }
    if (st == STATUS_OK && comm_rank(e->worker.comm) == 0)
        st = model_check_files(&e->config, o->sizing.precision, e->worker.files);
    if (comm_any_failed(e->worker.comm, &st)) return st;
    comm_broadcast(e->worker.comm, &e->config, sizeof e->config, 0);
    return STATUS_OK;
}

static status open_kv_file(engine *e, const kv_shape *shape) {
    enum { DEPTH = 64 };
    const kv_disk *disk = &e->options.sizing.kv_disk;
    const size_t bytes = kv_page_bytes(&shape->format);
    if (bytes % PAGE_FILE_ALIGNMENT)
        return status_refuse(
            "--kv-disk: a KV page has %zu bytes, which are no multiple of %d: raise --page-tokens", bytes,
            PAGE_FILE_ALIGNMENT);
    status st =
        page_file_open(disk->dir, (int64_t)disk->bytes, bytes, DEPTH, PAGE_FILE_IO_URING, &e->worker.kv_file);
    return status_at(st, "--kv-disk");
}

/* What goes to a disk goes through host memory. */
static status open_kv_host(engine *e, const plan_rank *mine, const kv_shape *shape) {
    const page_file *file = e->worker.kv_file;
    const int64_t on_disk = file ? page_file_count_records(file) - KV_TIER_SPARE_RECORDS : 0;
    kv_host_shape host = {
        .dev = e->worker.dev,
        .page_bytes = kv_page_bytes(&shape->format),
        .n_records = (int32_t)mine->n_records,
        .n_pages = (int32_t)mine->n_host_pages,
        .n_least = (int32_t)mine->n_host_pages,
        .n_turn = shape->n_turn,
        .file = e->worker.kv_file,
    };
    if (file && host.n_least > KV_HOST_LEAST_PAGES) host.n_least = KV_HOST_LEAST_PAGES;
    if (host.n_least < host.n_records - on_disk) host.n_least = (int32_t)(host.n_records - on_disk);
    status st = kv_host_open(&host, &e->worker.kv_host);
    if (st != STATUS_OK) return status_at(st, e->options.sizing.kv_host_bytes ? "--kv-host" : "--kv-disk");
    if (kv_host_n_pages(e->worker.kv_host) < host.n_pages)
        notice_add("--kv-host: only %.1f MiB of host memory could be pinned: the rest goes to --kv-disk",
                   mem_mib((uint64_t)kv_host_n_pages(e->worker.kv_host) * host.page_bytes));
    return STATUS_OK;
}

/* For pages that memory has no room for. */
static status open_kv_records(engine *e, const plan_rank *mine, kv_shape *shape) {
    status st = e->options.sizing.kv_disk.bytes ? open_kv_file(e, shape) : STATUS_OK;
    if (st == STATUS_OK && e->options.sizing.is_apart) st = open_kv_host(e, mine, shape);
    if (st != STATUS_OK) return st;
    e->worker.kv_records =
        e->worker.kv_host ? kv_host_records(e->worker.kv_host) : kv_records_of_file(e->worker.kv_file);
    shape->records = &e->worker.kv_records;
    return model_open_partials(e->worker.model, shape->longest_tokens);
}

/* What is asked for and of no use, and what is taken and was not asked for. */
static void note_kv_tiers(const sizing *s, const plan_rank *mine) {
    if (mine->n_frames == 0 && s->kv_host_bytes)
        notice_add("--kv-host: nothing is kept there, as memory has room for all KV pages");
    if (mine->n_frames == 0 && s->kv_disk.bytes)
        notice_add("--kv-disk: nothing is kept there, as memory has room for all KV pages");
    if (mine->n_frames > 0 && mine->kv_host_bytes > s->kv_host_bytes && s->kv_disk.bytes)
        notice_add(
            "--kv-disk: KV pages go there through %.1f MiB of pinned host memory; --kv-host gives more",
            mem_mib(mine->kv_host_bytes));
}

static status open_slice(engine *e) {
    const engine_options *o = &e->options;
    const plan_rank *mine = &e->plan.ranks[comm_rank(e->worker.comm)];
    status st = model_open(
        &e->config, mine->slice, o->sizing.chunk_tokens, e->worker.files, e->worker.dev, &e->worker.trace,
        o->save_dir || o->load_dir || o->wants_digest ? e->model_digest : NULL, &e->worker.model);
    int64_t windows[MODEL_MAX_LAYERS];
    kv_shape shape = {
        .format =
            model_kv_format(&e->config, e->worker.dev->kv, e->worker.dev->kv_layout, o->sizing.page_tokens),
        .n_layers = mine->slice.last_layer - mine->slice.first_layer,
        .windows = windows,
        .n_pages = e->plan.n_pages,
        .n_slots = engine_n_slots(e),
        .longest_tokens = o->sizing.longest_tokens,
        .max_rows = o->sizing.chunk_tokens,
        .evicts = o->sizing.evict.kind != EVICT_NOTHING,
        .n_near_blocks = sizing_near_blocks(&o->sizing),
        .n_frames = mine->n_frames,
        .n_turn = 2 * e->max_in_flight,
    };
    for (int i = 0; i < shape.n_layers; i++)
        windows[i] = model_config_kept(&e->config, mine->slice.first_layer + i, o->sizing.saves);
    if (st == STATUS_OK && mine->n_frames > 0) st = open_kv_records(e, mine, &shape);
    if (st == STATUS_OK) st = kv_cache_open(e->worker.dev, &shape, &e->worker.kv);
    note_kv_tiers(&o->sizing, mine);
    return st;
}

static void open_stage_0(engine *e) {
    schedule_limits limits = {
        .n_stages = comm_size(e->worker.comm),
        .n_slots = engine_n_slots(e),
        .chunk_tokens = e->options.sizing.chunk_tokens,
        .page_tokens = e->options.sizing.page_tokens,
        .n_pages = e->plan.n_pages,
        .n_memory_pages = plan_memory_pages(&e->plan),
    };
    size_t slots = (size_t)limits.n_slots;
    e->schedule = schedule_open(&limits);
    schedule_keep_for_held(e->schedule, e->plan.n_held);
    if (e->options.chunks) schedule_use_chunks(e->schedule, e->options.chunks);
    e->options.chunks = NULL;
    e->planned = mem_new(slots, sizeof *e->planned);
    e->releases = mem_new(slots, sizeof *e->releases);
    e->issued = mem_new((size_t)e->max_in_flight, sizeof *e->issued);
    for (int i = 0; i < e->max_in_flight; i++)
        e->issued[i].spans = mem_new(slots, sizeof(planned_span));
    e->loads = mem_new(slots, sizeof *e->loads);
}

static status open_pipeline(engine *e) {
    int n_slots = engine_n_slots(e), rows = e->options.sizing.chunk_tokens;
    /* One step in each stage, and one on its way. */
    e->max_in_flight = comm_size(e->worker.comm) == 1 ? 1 : comm_size(e->worker.comm) + 1;
    pipeline_sizes sizes = {
        .header_bytes = step_max_bytes(n_slots, rows),
        .x_floats = (size_t)rows * (size_t)e->config.d_model,
        .reply_bytes = step_reply_max_bytes(n_slots, rows),
        .n_replies = e->max_in_flight,
    };
    e->worker.step = step_new(n_slots, rows);
    e->worker.reply = step_reply_new(n_slots, rows);
    e->worker.reply_bytes = mem_new(1, sizes.reply_bytes);
    return pipeline_open(e->worker.comm, e->worker.dev, &sizes, e->options.transport, &e->worker.pipe);
}

/* Ranks digest the tensors that they own; the sum does not depend on who owned which. */
static void add_up_digests(engine *e) {
    uint64_t(*all)[2] = mem_new((size_t)comm_size(e->worker.comm), sizeof *all);
    comm_gather(e->worker.comm, e->model_digest, sizeof e->model_digest, all);
    e->model_digest[0] = e->model_digest[1] = 0;
    for (int i = 0; comm_rank(e->worker.comm) == 0 && i < comm_size(e->worker.comm); i++) {
        e->model_digest[0] += all[i][0];
        e->model_digest[1] += all[i][1];
    }
    for (int k = 0; k < 2 && e->options.sizing.precision == PRECISION_INT8; k++)
        e->model_digest[k] += model_int8_digest[k];
    free(all);
}

/* Which ranks have others read what they load. */
static void note_relay(const engine *e) {
    const int n_ranks = comm_size(e->worker.comm);
    char list[128] = "";
    int n = 0;
    for (int rank = 0; rank < n_ranks; rank++) {
        const size_t used = strlen(list);
        const int reader = file_relay_reader(e->worker.relay, rank);
        if (reader != rank && n++ < 4)
            snprintf(list + used, sizeof list - used, "%s%d (rank %d reads for it)", used ? ", " : "", rank,
                     reader);
    }
    notice_add("--resume %s: %d of %d ranks do not see it: rank%s %s%s; what they load is sent to them",
               e->worker.load_dir, n, n_ranks, n > 1 ? "s" : "", list, n > 4 ? ", ..." : "");
}

/* Ranks that do not see the snapshot have others read for them. */
static status open_relay(engine *e) {
    if (!e->options.load_dir) return STATUS_OK;
    e->worker.load_dir = mem_copy_text(e->options.load_dir, strlen(e->options.load_dir));
    const bool sees = manifest_exists(e->worker.load_dir) && fault_at("load-see") == STATUS_OK;
    const file_relay_source source = file_reader_source(e->worker.load_dir);
    status st = file_relay_open(e->worker.comm, sees, &source, &e->worker.relay);
    if (st != STATUS_OK || !e->worker.relay) return st;
    e->options.sizing.host_bytes += FILE_RELAY_BYTES;
    if (comm_rank(e->worker.comm) == 0) note_relay(e);
    return STATUS_OK;
}

/* Every rank writes to it: seen now, and not when hours were computed. The file system of several hosts may
 * show late what rank 0 has just made. */
static status check_save_dir(const char *dir) {
    static const double patience_seconds = 5;
    const double begin = clock_seconds();
    for (; access(dir, W_OK | X_OK) != 0; usleep(100 * 1000), alive_say())
        if (clock_seconds() - begin > patience_seconds)
            return status_refuse("--save %s: this rank cannot write there (%s), as every rank must: name a "
                                 "directory that all hosts see",
                                 dir, strerror(errno));
    return STATUS_OK;
}

/* The ends of the snapshots that this rank writes to and reads from. What is decoded on a device may take a
 * part of what the plan has left free there. */
static status open_snapshots(engine *e) {
    enum { DECODER_SHARE = 4 };
    const engine_options *o = &e->options;
    const int rank = comm_rank(e->worker.comm);
    const bool sees_not = e->worker.relay && file_relay_reader(e->worker.relay, rank) != rank;
    slice s = e->plan.ranks[rank].slice;
    if (o->save_dir || o->load_dir || o->wants_digest) add_up_digests(e);
    if (o->save_dir) {
        e->worker.saver = saver_open(o->save_dir, &o->coding, o->tables, s, &e->config, e->worker.dev->kv,
                                     o->n_threads, e->worker.kv, e->worker.stage, e->worker.notes);
        status st = check_save_dir(o->save_dir);
        if (st == STATUS_OK && slice_has_head(s)) st = stage_keep_logits(e->worker.stage);
        if (st != STATUS_OK) return st;
    }
    if (!o->load_dir) return STATUS_OK;
    const uint64_t free_bytes = device_free_bytes(o->device, e->device_index) / (uint64_t)e->device_ranks;
    const load_options how = {.n_threads = o->n_threads,
                              .device_bytes = (size_t)(free_bytes / DECODER_SHARE),
                              .spares_processors = e->worker.dev->host_memory,
                              .bytes_per_second = o->io_bandwidth,
                              .most_distortion = o->most_distortion,
                              .loads_base = o->loads_base,
                              .deadline_seconds = o->deadline_seconds,
                              .keeps_log = o->keeps_load_log,
                              .relay = sees_not ? e->worker.relay : NULL};
    return loader_open(o->load_dir, o->manifest, o->n_manifest, s, &how, e->worker.kv, e->worker.notes,
                       &e->worker.loader);
}

/* Each part in turn, agreed by all ranks before anyone goes on. */
static status open_parts(engine *e) {
    double begin = clock_seconds();
    status st = choose_device(e);
    if (comm_any_failed(e->worker.comm, &st)) return st;
    st = open_weights(e);
    if (st != STATUS_OK) return st;
    st = open_relay(e);
    if (st != STATUS_OK) return st;
    st = make_plan(e);
    if (comm_any_failed(e->worker.comm, &st)) return st;
    st = open_device(e);
    if (comm_any_failed(e->worker.comm, &st)) return st;
    take_places(e);
    st = open_pipeline(e); /* before the weights: a transport that cannot be is refused at once */
    if (st != STATUS_OK) return st;
    st = open_slice(e);
    if (comm_any_failed(e->worker.comm, &st)) return st;
    const plan_rank *mine = &e->plan.ranks[comm_rank(e->worker.comm)];
    e->worker.stage =
        stage_open(&e->config, mine->slice, e->worker.model, e->worker.kv, &e->options.sizing.evict,
                   mine->weight_bytes, engine_n_slots(e), e->options.sizing.chunk_tokens, &e->worker.trace);
    e->worker.times_steps = e->options.times_steps;
    if (e->options.times_steps) stage_time_steps(e->worker.stage, &e->worker.seconds);
    e->worker.notes = mailbox_open(e->worker.comm);
    st = open_snapshots(e);
    if (comm_any_failed(e->worker.comm, &st)) return st;
    if (comm_rank(e->worker.comm) == 0) open_stage_0(e);
    e->load_seconds = clock_seconds() - begin;
    engine_reset_clocks(e);
    return STATUS_OK;
}

status engine_open(comm *c, const model_config *config, const engine_options *options, engine **out) {
    engine *e = mem_new(1, sizeof *e);
    e->worker.comm = c;
    if (comm_rank(c) == 0) {
        e->options = *options;
        e->config = *config;
    }
    share_options(e);
    e->options.tables = options->tables;
    assert(e->options.sizing.saves == (e->options.save_dir != NULL));
    assert(e->options.sizing.loads || !e->options.load_dir);
    status st = open_parts(e);
    forget_shared_options(e);
    if (st != STATUS_OK) {
        engine_close(e);
        return STATUS_REFUSED;
    }
    *out = e;
    return STATUS_OK;
}

void engine_close(engine *e) {
    if (!e) return;
    saver_close(e->worker.saver);
    loader_close(e->worker.loader);
    file_relay_close(e->worker.relay);
    free(e->worker.load_dir);
    pipeline_close(e->worker.pipe);
    mailbox_close(e->worker.notes);
    for (int i = 0; i < e->n_waiting_notes; i++)
        free(e->waiting_notes[i]);
    stage_close(e->worker.stage);
    kv_cache_close(e->worker.kv);
    kv_host_close(e->worker.kv_host);
    page_file_close(e->worker.kv_file, most_seconds_of_disk);
    model_close(e->worker.model);
    if (e->worker.dev) e->worker.dev->ops->close(e->worker.dev);
    weights_close(e->worker.files);
    for (int i = 0; e->issued && i < e->max_in_flight; i++)
        free(e->issued[i].spans);
    free(e->sessions);
    free(e->worker.log.steps);
    for (int slot = 0; e->loads && slot < engine_n_slots(e); slot++)
        free(e->loads[slot].edges);
    free(e->loads);
    free(e->waiting_notes);
    free(e->load_failure);
    free(e->log_of_loads.records);
    free(e->load_prompts);
    free(e->issued);
    free(e->places);
    free(e->planned);
    free(e->releases);
    schedule_close(e->schedule);
    step_free(&e->worker.step);
    step_reply_free(&e->worker.reply);
    free(e->worker.reply_bytes);
    plan_free(&e->plan);
    free(e);
}

/* ---- what the run was like ---- */

void engine_reset_clocks(engine *e) {
    trace_begin(&e->worker.trace);
    e->times = (engine_times){0};
    e->worker.log.n = 0;
    e->clock_begin = e->phase_begin = clock_seconds();
}

engine_times engine_get_times(const engine *e) {
    engine_times times = e->times;
    times.seconds = clock_seconds() - e->clock_begin;
    return times;
}

void engine_gather_reports(engine *e, rank_report *all) {
    trace_enter(&e->worker.trace, REGION_REST);
    const plan_rank *mine = &e->plan.ranks[comm_rank(e->worker.comm)];
    rank_report report = {
        .trace = e->worker.trace,
        .seconds = clock_seconds() - e->clock_begin,
        .stage = stage_get_stats(e->worker.stage),
        .weight_bytes = mine->weight_bytes,
        .kv_bytes = mine->kv_bytes,
        .total_bytes = mine->total_bytes,
        .file_bytes = weights_bytes_read(e->worker.files),
        .load_seconds = e->load_seconds,
        .bytes_sent = pipeline_get_stats(e->worker.pipe).bytes_sent,
        .slice = mine->slice,
    };
    if (kv_cache_tier(e->worker.kv)) report.kv = kv_tier_measure(kv_cache_tier(e->worker.kv));
    report.has_kv_host = e->worker.kv_host != NULL;
    if (e->worker.kv_file) {
        snprintf(report.kv_file_by, sizeof report.kv_file_by, "%s%s",
                 page_file_engine_text(e->worker.kv_file),
                 page_file_is_direct(e->worker.kv_file) ? "" : ", through the page cache");
    }
    comm_gather(e->worker.comm, &report, sizeof report, all);
}

step_log engine_gather_steps(engine *e) {
    return step_log_gather(e->worker.comm, &e->worker.log);
}

trace *engine_trace(engine *e) {
    return &e->worker.trace;
}

const uint64_t *engine_model_digest(const engine *e) {
    return e->model_digest;
}

const char *engine_rank_place(const engine *e, int rank) {
    return e->places ? e->places[rank].text : NULL;
}

const char *engine_processor(const engine *e) {
    return e->worker.dev->ops->processor(e->worker.dev);
}

const plan *engine_plan(const engine *e) {
    return &e->plan;
}

const plan_bound *engine_bound(const engine *e) {
    return &e->options.sizing.bound;
}

const model_config *engine_config(const engine *e) {
    return &e->config;
}

device *engine_device(const engine *e) {
    return e->worker.dev;
}

const char *engine_transport(const engine *e) {
    return pipeline_transport(e->worker.pipe);
}

int engine_threads(const engine *e) {
    return e->options.n_threads;
}
