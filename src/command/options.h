/* src/command/options.h: the command line: one table of all options of all commands. Local; the same on every
 * rank.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "io/codec/kv_coding.h"
#include "kernels/device.h"
#include "mpi/transport/transport.h"
#include "src/base/status.h"
#include "src/model/evict.h"
#include "src/model/kv_tier.h"

typedef enum command {
    COMMAND_GENERATE,
    COMMAND_PERPLEXITY,
    COMMAND_TOKENIZE,
    COMMAND_PLAN,
    COMMAND_BENCH,
    COMMAND_CALIBRATE,
    COMMAND_SYNTH,
    COMMAND_SNAPSHOT,
    N_COMMANDS
} command;

/* kvarve snapshot ACTION DIR */
typedef enum snapshot_action {
    SNAPSHOT_INFO,
    SNAPSHOT_VERIFY,
    SNAPSHOT_COMPACT,
    SNAPSHOT_RECODE,
    SNAPSHOT_TEXT,
    N_SNAPSHOT_ACTIONS
} snapshot_action;

/* All of it loaded; or what takes too long computed; or its base first, and what refines that beside the run;
 * or all computed. */
typedef enum load_mode { LOAD_FULL, LOAD_AUTO, LOAD_BASE, LOAD_RECOMPUTE } load_mode;

typedef enum kv_kind { KV_CACHE_OF_PRECISION, KV_CACHE_BF16, KV_CACHE_INT8, KV_CACHE_INT4 } kv_kind;

typedef enum weights_kind { WEIGHTS_OF_PRECISION, WEIGHTS_BF16, WEIGHTS_INT8 } weights_kind;

enum { OPTIONS_MAX_TEXTS = 16 };

/* Of an option that may be given again. */
typedef struct option_text_list {
    const char *items[OPTIONS_MAX_TEXTS];
    int64_t n;
} option_text_list;

/* Values as given or the table's defaults. Texts are borrowed from argv. */
typedef struct options {
    command command;
    snapshot_action action; /* of COMMAND_SNAPSHOT; N_SNAPSHOT_ACTIONS: only its help is asked for */
    bool help, version;

    const char *model, *shape, *report, *load_log; /* NULL: not given, as all texts */
    const char *prompt, *prompt_file, *text, *input, *output, *file, *tables, *context_codec, *key_depths;
    const char *layers_per_rank, *prefill, *depths, *decode_depths, *batch_depths;
    const char *save, *resume, *stop_file;
    const char *measure, *measured, *chunk_model, *link, *node_link;
    const char *dir, *id; /* of COMMAND_SNAPSHOT; dir also of COMMAND_SYNTH */
    const char *fail_at;  /* only where KVARVE_FAULTS is defined */
    option_text_list stops, samples;

    int64_t max_tokens, top_k, seed, logprobs;            /* OPTION_UNSET: not given */
    double temperature, top_p, min_p, repetition_penalty; /* NaN: not given */
    bool ignore_eos, echo, predict, add_bos;

    int64_t context; /* OPTION_UNSET: the model's */
    int64_t stride;  /* OPTION_UNSET: the context */
    int64_t scored;  /* behind each context of a changed cache */
    int64_t windows; /* at most; OPTION_UNSET: all */
    int64_t keys;    /* in each context of a changed cache */
    int64_t vocab;   /* OPTION_UNSET: the shape's */
    int64_t chunk_tokens, page_tokens, sequences, threads, ranks, repeats;
    int64_t nodes;                      /* OPTION_UNSET: 1 */
    int64_t kv_memory, memory_per_rank; /* bytes; 0: not given */
    int64_t kv_host;                    /* bytes; 0: not given */
    kv_disk kv_disk;                    /* bytes 0: not given */
    double peer_timeout;
    double save_every_seconds; /* NaN: not given */
    int64_t save_every_tokens; /* OPTION_UNSET: not given; one of both at most */
    double max_time_seconds;   /* NaN: not given */
    device_kind device;
    precision precision;  /* what --precision and --weights mean together */
    weights_kind weights; /* as given */
    kv_kind kv;           /* as given */
    evict_policy evict;   /* what --evict and --evict-every mean together; EVICT_NOTHING: not given */
    int64_t evict_every;  /* as given; OPTION_UNSET: not */
    transport_kind transport;
    load_mode load;                          /* of what --resume has cached */
    int64_t io_bandwidth;                    /* bytes a second of a rank; 0: no limit */
    double max_distortion, deadline_seconds; /* NaN: not given */
    kv_coding codec;                         /* of what is saved */
    const char *recode;                      /* the same, of a snapshot that is there; NULL: as it is */
} options;

#define OPTION_UNSET INT64_MIN

/* Read argv. Refuses, naming the option, what it got and what it takes; a misspelt one with the nearest right
 * one. */
status options_parse(int argc, char **argv, options *out);

/* Do the pages of the KV cache hold other numbers than were computed? */
bool options_change_pages(const options *o);

/* Does perplexity judge a cache that is changed so, or by a codec? And the same options with the exact one.
 */
bool options_change_cache(const options *o);
options options_of_exact_cache(const options *o);

/* The table of a command's options (all commands when `help` came before any), on `to`. */
void options_print_help(const options *o, FILE *to);

/* "--name value ..." of all that was given or has a default, for logs and reports, with snapshot's action and
 * directory before it; released with free(). */
char *options_effective(const options *o);

/* How the command (and action) may be called, with all options that matter: its help shows it. */
const char *options_example(const options *o);

const char *options_command_name(command c);

/* --tables generic, and no file: tables that are made of what is saved, without knowing its model. */
bool options_wants_generic(const options *o);
const char *options_action_name(snapshot_action a);
const char *options_kv_name(kv_kind kind);
