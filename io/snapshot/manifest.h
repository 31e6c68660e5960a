/* io/snapshot/manifest.h: what a snapshot holds: manifest.h5, which is replaced as a whole. What it names is
 * what exists.
 *
 * The file begins with a block of text for people and programs without HDF5, which holds the digest of all
 * the rest; then comes an HDF5 file: /manifest (a JSON text), /tokens, /text, /logprobs, ... (plain arrays
 * that the JSON refers to), and /layers/<l>/k and /layers/<l>/v, virtual datasets that show the whole cache
 * of a layer over all segments. Documented byte for byte in io/snapshot/SNAPSHOT.md.
 *
 * Writing uses HDF5, in memory, under the lock of the process (io/h5.h); reading uses none. A struct manifest
 * owns all its memory, so that it can be handed from thread to thread. All functions are Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/jsonl/results.h"
#include "io/snapshot/segment.h"
#include "kernels/sampling.h"

enum {
    MANIFEST_NEWEST_FORMAT = 4,
    MANIFEST_DIGEST_BYTES = 33,
    MANIFEST_MAX_STOPS = 16,
    MANIFEST_INEXACT_BYTES = 64
};

/* Behind the name of what is not exact, where other codecs had a part in it. */
#define MANIFEST_AND_OTHERS " and others"

/* Positions [pos0, pos0 + n_tokens) of a sequence are rows [row0, row0 + n_tokens) of the snapshot. */
typedef struct manifest_extent {
    int64_t pos0, n_tokens, row0;
} manifest_extent;

/* A likely token and its natural log probability. */
typedef struct manifest_logprob {
    int32_t token; /* -1: none */
    float logprob;
} manifest_logprob;

typedef struct manifest_sequence {
    char *id; /* of the prompt */
    bool id_is_json;
    int64_t line;        /* of the batch, from 0; -1: not of the batch */
    int64_t sequence_id; /* keys the sampler with sampling.seed */
    int32_t *tokens;     /* [n_tokens] prompt, then generated */
    int64_t n_tokens, n_prompt;
    manifest_extent *extents; /* in order of positions, without gaps, from 0 */
    int64_t n_extents;
    sampling_options sampling;
    int n_stops;
    char *stops[MANIFEST_MAX_STOPS];
    int32_t *stop_tokens; /* [n_stop_tokens] */
    int64_t n_stop_tokens;
    char *inexact; /* "kvarve:small:3": positions from n_exact on came through that codec, or were computed
                      over such; with MANIFEST_AND_OTHERS, some through others, too. NULL: as a
                      model computed them. Printable, below MANIFEST_INEXACT_BYTES */
    int64_t n_exact;
    char *pages;  /* "int8": the pages that its positions lay in while others were computed over them, where
                     these  were rounded; "exact, int8": first such ones, then others. NULL: always exact. As
                     `inexact` */
    bool is_over; /* its end was reached: `finish` says how */
    finish_reason finish;
    char *prompt_text, *text; /* what `kvarve snapshot text` shows; UTF-8, perhaps with zero bytes */
    int64_t n_prompt_text, n_text;
    int64_t n_logprobs;         /* entries for each generated token: itself and the likeliest; 0: none */
    manifest_logprob *logprobs; /* [n_tokens - n_prompt][n_logprobs] */
    float *last_logits;         /* [vocab_size] of the last position whose K and V are saved; NULL: none */
} manifest_sequence;

/* The file of prompts that the run works through; none: n_lines 0. */
typedef struct manifest_batch {
    uint64_t digest[2]; /* of all its prompts with their options */
    int64_t n_lines;
    bool *is_done;        /* [n_lines] its result was written */
    int64_t output_bytes; /* of the results so far, and their digest; -1: not a regular file */
    uint64_t output_digest[2];
} manifest_batch;

typedef struct manifest {
    /* What a run that resumes must match. */
    uint64_t model_digest[2], tokenizer_digest[2]; /* XXH3, 128 bits: high, low */
    int n_layers, n_kv_heads, head_dim, vocab_size;
    dtype type;
    /* What it is. */
    int64_t save_number; /* 1 for the first manifest of a snapshot */
    int64_t n_rows;      /* given out so far: the next save begins there */
    kv_codec codec;      /* of the save that wrote it; each segment says its own */
    int page_tokens;
    char *model_name, *model_shape, *rope; /* for people; a text that is NULL is read back as "" */
    char *version, *command_line, *host, *processor;
    int n_ranks;
    int64_t unix_time;
    double seconds_computed; /* that runs have spent on it, all together */
    manifest_batch batch;
    manifest_sequence *sequences;
    int64_t n_sequences;
    segment_info *segments;
    int64_t n_segments;
} manifest;

/* Release what it holds. A zeroed one is fine. */
void manifest_free(manifest *m);

/* The oldest format that can tell what it holds, which is the one that it is written in: 4 with a segment
 * whose chunks have a base, 3 with one of a codec that is not exact, 2 with a plain one, or else 1. */
int manifest_format(const manifest *m);

/* A segment of a codec that is not exact; NULL: there is none. */
const segment_info *manifest_find_coded(const manifest *m);

/* What of a sequence's first n_tokens is not exact, or was computed over such: a text as `inexact`, and from
 * which position on; NULL: nothing. Released with free(). */
char *manifest_inexact_of(const manifest *m, const manifest_sequence *s, int64_t n_tokens, int64_t *n_exact);

/* Positions of a sequence whose K and V are saved. */
int64_t manifest_kv_tokens(const manifest_sequence *s);

/* Bytes of dir/manifest.h5, after their digest was checked. Refuses a missing, damaged or newer one. Release
 * with free(). */
status manifest_read_bytes(const char *dir, char **bytes, size_t *n_bytes);

/* From these bytes, nothing of which is trusted: counts, ranges and offsets are checked, every position of
 * every sequence lies in exactly one segment of every layer, names of segments are plain file names. `name`
 * is for messages. */
status manifest_parse(const char *bytes, size_t n_bytes, const char *name, manifest *out);

/* Both. */
status manifest_read(const char *dir, manifest *out);

/* The version of the HDF5 that writes it. */
void manifest_describe_hdf5(char *text, size_t n);

/* Where the manifest of dir is; released with free(). */
char *manifest_path(const char *dir);

/* Does dir hold a manifest? */
bool manifest_exists(const char *dir);

/* Is it the name of a file of a snapshot, a temporary one too? */
bool manifest_is_part(const char *name);

/* Refuses a directory that is none of a snapshot: no manifest is in it, but something that is no part of one.
 */
status manifest_check_dir(const char *dir);

/* Replace dir/manifest.h5: a temporary, flushed, renamed, and the directory flushed. A failure leaves the old
 * one and no temporary. Fails also when manifest_parse would refuse its rows. */
status manifest_write(const char *dir, const manifest *m);

/* Drop the segments none of whose rows any sequence needs. */
void manifest_drop_unused(manifest *m);

/* Remove what `m`, which is the committed one (NULL: there is none), does not name: segments of other saves
 * and temporary files. Under the snapshot's lock only. Files with other names are left alone. */
void manifest_remove_unnamed_files(const char *dir, const manifest *m);

/* 32 hexadecimal digits. */
void manifest_digest_text(const uint64_t digest[2], char text[MANIFEST_DIGEST_BYTES]);
