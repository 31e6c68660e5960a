/* kvarve synth --shape NAME DIR: write a model of random weights, as if it came from Hugging Face. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "io/synthetic/synthetic_files.h"
#include "io/weights/model_dir.h"
#include "src/base/clock.h"
#include "src/command/progress.h"
#include "src/command/run.h"
#include "src/tokenizer/synth_tokenizer.h"

static const double giga = 1e9;
static const uint64_t max_file_bytes = 4000000000u; /* of a shard, as Hugging Face counts */

static const char config_name[] = "config.json", tokenizer_name[] = "tokenizer.json",
                  tokenizer_config_name[] = "tokenizer_config.json";

/* ---- the directory ---- */

/* Nothing of a model may be there: neither ours nor anybody's is overwritten. */
static status check_empty(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return status_refuse("%s: %s", dir, strerror(errno));
    status st = STATUS_OK;
    for (struct dirent *item; st == STATUS_OK && (item = readdir(d));)
        if (model_dir_is_name(item->d_name))
            st = status_refuse("%s: it holds a model already (%s is there): give another directory, or "
                               "remove that one",
                               dir, item->d_name);
    closedir(d);
    return st;
}

static status make_dir(const char *dir, bool *is_new) {
    *is_new = mkdir(dir, 0777) == 0;
    if (*is_new) return STATUS_OK;
    if (errno == EEXIST) return check_empty(dir);
    return errno == ENOSPC || errno == EDQUOT ? status_fail("%s: cannot be made: %s", dir, strerror(errno))
                                              : status_refuse("%s: cannot be made: %s", dir, strerror(errno));
}

/* ---- progress ---- */

/* Rank 0's share, which stands for all. */
typedef struct teller {
    progress bar;
    bool is_shown;
    double done, all; /* GB */
    int n_ranks;
} teller;

static void tell(void *context, uint64_t n_bytes) {
    teller *t = context;
    t->done += (double)n_bytes / giga;
    if (t->is_shown)
        progress_update(&t->bar, t->done, t->all, "%.2f of %.2f GB%s", t->done, t->all,
                        t->n_ranks > 1 ? " by rank 0" : "");
}

/* ---- writing ---- */

/* The weights, each rank every n_ranks-th file: all space is asked for before any time is spent. Local. */
static status write_weights(const comm *c, const options *o, const synthetic_model *m,
                            synthetic_files *files) {
    const int n_ranks = comm_size(c), rank = comm_rank(c);
    teller t = {.is_shown = rank == 0, .n_ranks = n_ranks};
    status st = STATUS_OK;
    for (int i = rank; i < files->n_files && st == STATUS_OK; i += n_ranks) {
        st = synthetic_files_create(files, i);
        t.all += (double)(files->files[i].n_bytes - files->files[i].n_header) / giga;
    }
    t.bar = progress_begin("GB");
    synthetic_values *values = synthetic_values_open(m);
    for (int i = rank; i < files->n_files && st == STATUS_OK; i += n_ranks)
        st = synthetic_files_fill(files, i, values, run_threads(c, o), tell, &t);
    synthetic_values_close(values);
    progress_end(&t.bar);
    return st;
}

static status write_and_free(synthetic_files *files, const char *name, text_buffer *text) {
    status st = synthetic_files_write_text(files, name, text);
    free(text->data);
    *text = (text_buffer){0};
    return st;
}

/* All other files. The config comes last: without it, what an interrupted run leaves is no model. */
static status write_texts(const synthetic_model *m, synthetic_files *files) {
    text_buffer text = {0};
    status st = synthetic_files_write_index(files);
    if (st != STATUS_OK) return st;
    synth_tokenizer_append(m->vocab_size, &text);
    st = write_and_free(files, tokenizer_name, &text);
    if (st != STATUS_OK) return st;
    synth_tokenizer_append_config((long long)m->max_positions, &text);
    st = write_and_free(files, tokenizer_config_name, &text);
    if (st != STATUS_OK) return st;
    synthetic_append_config(m, &text);
    st = write_and_free(files, config_name, &text);
    return st == STATUS_OK ? directory_flush(files->dir) : st;
}

static void print_end(const synthetic_model *m, const synthetic_files *files, double seconds) {
    double bytes = (double)files->n_data_bytes;
    bool is_small = bytes < 2e9;
    printf("%s: %s, %.2f %s parameters, %d file%s of weights, %.0f bytes, %.2f s, %.2f GB/s\n", files->dir,
           m->name, bytes / 2 / (is_small ? 1e6 : 1e9), is_small ? "million" : "billion", files->n_files,
           files->n_files == 1 ? "" : "s", bytes, seconds, bytes / seconds / giga);
}

/* All ranks write, and leave nothing behind when one of them fails. Collective. */
static status write_model(comm *c, const options *o, const synthetic_model *m, const model_config *config,
                          bool is_new) {
    size_t n = 0;
    synthetic_tensor *tensors = model_list_tensors(config, &n);
    synthetic_files files = synthetic_files_plan(o->dir, tensors, n, max_file_bytes);
    double begin = clock_seconds();
    bool is_first = comm_rank(c) == 0;
    status st = write_weights(c, o, m, &files);
    if (!comm_any_failed(c, &st)) {
        if (is_first) st = write_texts(m, &files);
        comm_any_failed(c, &st);
    }
    if (st == STATUS_OK) {
        if (is_first) print_end(m, &files, clock_seconds() - begin);
    } else {
        synthetic_files_remove(&files);
        comm_barrier(c);
        if (is_first && is_new) (void)rmdir(o->dir);
    }
    synthetic_files_free(&files);
    return st;
}

int command_synth(comm *c, const options *o) {
    synthetic_model m;
    model_config config;
    bool is_new = false;
    status st = run_find_shape(o, &m);
    if (st == STATUS_OK) st = run_read_model(o, &config, NULL);
    if (o->seed != OPTION_UNSET) m.seed = (uint64_t)o->seed;
    if (st == STATUS_OK && comm_rank(c) == 0) st = make_dir(o->dir, &is_new);
    if (!comm_any_failed(c, &st)) st = write_model(c, o, &m, &config, is_new);
    return st == STATUS_OK ? EXIT_CODE_OK : run_say_failure(c, st);
}
