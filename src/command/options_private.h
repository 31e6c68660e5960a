/* src/command/options_private.h: what the files of the command line share: the table, and values as text.
 * Local. */
#pragma once

#include <stddef.h>

#include "src/base/memory.h"
#include "src/command/options.h"

typedef struct option_spec option_spec;

/* A type of option: all that differs between types. Fields are in the options that the spec is for. */
typedef struct option_type {
    const char *takes; /* what stands behind the name in the help; NULL: the names */
    enum { UNSET_ZERO, UNSET_INTEGER, UNSET_REAL } unset;

    /* Set the field from a text, which is borrowed. Refuses, naming the option. */
    status (*set)(options *o, const option_spec *spec, const char *text);

    /* Append "--name value" so that it parses to the same; nothing when it is not set. */
    void (*append)(const options *o, const option_spec *spec, text_buffer *out);

    /* Of a choice: the name of each value of its enum, NULL behind the last. "": a value that nobody asks
     * for. */
    const char *(*name)(unsigned value);
} option_type;

extern const option_type option_flag;
extern const option_type option_text;
extern const option_type option_texts;                /* may be given again */
extern const option_type option_path;                 /* a text that is not empty */
extern const option_type option_input, option_output; /* files that are read and written: paths.c compares */
extern const option_type option_integer, option_real;
extern const option_type option_bytes; /* with K, M, G or T, powers of 1024 */
extern const option_type option_disk;  /* a directory and bytes */
extern const option_type option_time;  /* 90s, 30m, 12h or [D-]HH:MM:SS */
extern const option_type option_every; /* 90s, 30m, 12h, or a number of tokens */
extern const option_type option_precision, option_weights, option_kv, option_codec, option_device,
    option_transport;
extern const option_type option_load, option_evict;

/* "bf16|f32": the names of a choice with this between them, and `last` before the last one. */
void option_type_append_names(const option_type *type, const char *between, const char *last,
                              text_buffer *out);

struct option_spec {
    const char *name;
    const option_type *type;
    unsigned commands;    /* bits 1 << command, and 1 << (N_COMMANDS + action) of snapshot */
    size_t offset;        /* of its field in options */
    const char *fallback; /* the default as it could be given; NULL: unset */
    const char *unset;    /* what stands in the table when fallback is NULL */
    double min, max;      /* of a number; 2^53 is the most a double counts exactly */
    const char *help;
};

/* The table: options_table.c */
enum { OPTIONS_MAX = 80 }; /* rows at most */
extern const option_spec options_table[];
extern const int n_options;

/* Is it an option of the command and action that o is for? */
bool options_have(const options *o, const option_spec *spec);

/* Values: options_values.c */

/* Every field as it is when nothing is given. */
void options_set_defaults(options *o);

/* Append a word as a shell reads it, behind a space when it is not the first. */
void options_append_word(const char *word, text_buffer *out);
