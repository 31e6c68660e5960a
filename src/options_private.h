/* src/options_private.h: what the files of the command line share: the table, and values as text. Local. */
#pragma once

#include <stddef.h>

#include "src/base/memory.h"
#include "src/options.h"

typedef enum option_type {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_TEXTS, /* may be given again */
    OPTION_INTEGER,
    OPTION_REAL,
    OPTION_BYTES,     /* with K, M, G or T, powers of 1024 */
    OPTION_PATH,      /* a text that is not empty */
    OPTION_TIME,      /* 90s, 30m, 12h or [D-]HH:MM:SS */
    OPTION_EVERY,     /* 90s, 30m, 12h, or a number of tokens */
    OPTION_PRECISION, /* bf16 or f32 */
    OPTION_WEIGHTS,   /* bf16 or int8 */
    OPTION_CODEC,
    OPTION_DEVICE, /* auto, cpu or cuda */
    OPTION_TRANSPORT,
} option_type;

typedef struct option_spec {
    const char *name;
    option_type type;
    unsigned commands;    /* bits 1 << command, and 1 << (N_COMMANDS + action) of snapshot */
    size_t offset;        /* of its field in options */
    const char *fallback; /* the default as it could be given; NULL: unset */
    const char *unset;    /* what stands in the table when fallback is NULL */
    double min, max;      /* of a number; 2^53 is the most a double counts exactly */
    const char *help;
} option_spec;

/* The table: options_table.c */
enum { OPTIONS_MAX = 64 }; /* rows at most */
extern const option_spec options_table[];
extern const int n_options;

/* Is it an option of the command and action that o is for? */
bool options_have(const options *o, const option_spec *spec);

/* Values: options_values.c */

/* Set the field of the option from a text, which is borrowed. Refuses, naming the option. */
status options_set_value(options *o, const option_spec *spec, const char *text);

/* Every field as it is when nothing is given. */
void options_set_defaults(options *o);

/* Append a word as a shell reads it, behind a space when it is not the first. */
void options_append_word(const char *word, text_buffer *out);

/* Append "--name value" in the same way, so that it parses to the same; nothing when it is not set. */
void options_append_value(const options *o, const option_spec *spec, text_buffer *out);
