#include "src/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

typedef enum option_type {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_TEXTS, /* may be given again */
    OPTION_INTEGER,
    OPTION_REAL,
    OPTION_BYTES,     /* with K, M, G or T, powers of 1024 */
    OPTION_PRECISION, /* bf16 or f32 */
} option_type;

typedef struct option_spec {
    const char *name;
    option_type type;
    unsigned commands;    /* bits 1 << command */
    size_t offset;        /* of its field in options */
    const char *fallback; /* the default as it could be given; NULL: unset */
    const char *unset;    /* what stands in the table when fallback is NULL */
    double min, max;      /* of a number; 2^53 is the most a double counts exactly */
    const char *help;
} option_spec;

#define GENERATE   (1u << COMMAND_GENERATE)
#define PERPLEXITY (1u << COMMAND_PERPLEXITY)
#define PLAN       (1u << COMMAND_PLAN)
#define BENCH      (1u << COMMAND_BENCH)
#define RUNS       (GENERATE | PERPLEXITY | BENCH)
#define ALL        (RUNS | PLAN)
#define AT(field)  offsetof(options, field)

static const double most = 9007199254740992.0; /* 2^53 */

static const option_spec table[] = {
    {"model", OPTION_TEXT, ALL, AT(model), NULL, "required", 0, 0,
     "model directory, as downloaded from Hugging Face"},
    {"prompt", OPTION_TEXT, GENERATE, AT(prompt), NULL, "", 0, 0, "text to continue"},
    {"prompt-file", OPTION_TEXT, GENERATE, AT(prompt_file), NULL, "", 0, 0,
     "file whose text is continued; - is stdin"},
    {"input", OPTION_TEXT, GENERATE, AT(input), NULL, "", 0, 0, "prompts, one JSON object a line"},
    {"output", OPTION_TEXT, GENERATE, AT(output), NULL, "stdout", 0, 0,
     "results of --input, one JSON object a line"},
    {"file", OPTION_TEXT, PERPLEXITY, AT(file), NULL, "required", 0, 0, "text to score"},
    {"max-tokens", OPTION_INTEGER, GENERATE | PLAN, AT(max_tokens), NULL, "256", 0, 2147483647,
     "tokens to generate at most; 0 only reads the prompt"},
    {"temperature", OPTION_REAL, GENERATE, AT(temperature), NULL, "model's", 0, 100,
     "0 takes the likeliest token"},
    {"top-k", OPTION_INTEGER, GENERATE, AT(top_k), NULL, "model's", 0, 2147483647,
     "draw among the k likeliest; 0 is all"},
    {"top-p", OPTION_REAL, GENERATE, AT(top_p), NULL, "model's", 0, 1,
     "draw among the likeliest that sum to p"},
    {"min-p", OPTION_REAL, GENERATE, AT(min_p), NULL, "model's", 0, 1,
     "draw among those at least p times the likeliest"},
    {"repetition-penalty", OPTION_REAL, GENERATE, AT(repetition_penalty), NULL, "model's", 0, 100,
     "above 1 makes tokens seen before less likely"},
    {"seed", OPTION_INTEGER, GENERATE, AT(seed), NULL, "0", 0, 9007199254740992.0, "of the draws"},
    {"stop", OPTION_TEXTS, GENERATE, AT(stops), NULL, "", 0, 0,
     "end before this text; may be given 16 times"},
    {"ignore-eos", OPTION_FLAG, GENERATE, AT(ignore_eos), NULL, "", 0, 0,
     "go on behind the model's end token"},
    {"echo", OPTION_FLAG, GENERATE, AT(echo), NULL, "", 0, 0, "print the prompt before what is generated"},
    {"logprobs", OPTION_INTEGER, GENERATE, AT(logprobs), NULL, "0", 0, 20,
     "likeliest tokens to tell with each token"},
    {"context", OPTION_INTEGER, GENERATE | PERPLEXITY | PLAN, AT(context), NULL, "model's", 1,
     1099511627776.0, "tokens of a sequence at most, prompt and generated; perplexity: 2048"},
    {"stride", OPTION_INTEGER, PERPLEXITY, AT(stride), NULL, "context", 1, 1099511627776.0,
     "tokens from one window to the next; only new ones are scored"},
    {"sequences", OPTION_INTEGER, ALL, AT(sequences), "16", NULL, 1, 65536, "sequences at once at most"},
    {"chunk-tokens", OPTION_INTEGER, ALL, AT(chunk_tokens), "512", NULL, 1, 65536,
     "rows of a step through the pipeline"},
    {"page-tokens", OPTION_INTEGER, ALL, AT(page_tokens), "64", NULL, KV_PAGE_QUANTUM, 65536,
     "positions of a KV page, a multiple of 16"},
    {"kv-memory", OPTION_BYTES, GENERATE | PERPLEXITY | PLAN, AT(kv_memory), NULL, "as needed", 1, most,
     "KV cache of a rank, such as 8G"},
    {"memory-per-rank", OPTION_BYTES, ALL, AT(memory_per_rank), NULL, "90% of host", 1, most,
     "all that a rank may take"},
    {"layers-per-rank", OPTION_TEXT, ALL, AT(layers_per_rank), NULL, "best", 0, 0,
     "layers of each rank, such as 10,12,10"},
    {"ranks", OPTION_INTEGER, PLAN, AT(ranks), "1", NULL, 1, 65536, "ranks to plan for"},
    {"threads", OPTION_INTEGER, RUNS, AT(threads), "0", NULL, 0, 1024,
     "of a rank; 0 shares this host's processors"},
    {"precision", OPTION_PRECISION, ALL, AT(precision), "bf16", NULL, 0, 0,
     "of matrices and KV cache: bf16, or f32 to check"},
    {"depths", OPTION_TEXT, BENCH, AT(depths), "0,1024,4096", NULL, 0, 0, "contexts at which to measure"},
    {"repeats", OPTION_INTEGER, BENCH, AT(repeats), "3", NULL, 1, 100,
     "measurements of each, of which the median counts"},
    {"peer-timeout", OPTION_REAL, RUNS, AT(peer_timeout), "600", NULL, 1, 1e9,
     "seconds to wait for another rank at most"},
    {"report", OPTION_TEXT, RUNS, AT(report), NULL, "", 0, 0,
     "write figures of the run to this file, as JSON"},
    {"help", OPTION_FLAG, ALL, AT(help), NULL, "", 0, 0, "print this table"},
};

enum {
    N_OPTIONS = sizeof table / sizeof *table,
    FIRST_CODE = 256 /* getopt's code of option 0, beyond characters */
};

static const struct {
    const char *name, *help;
} commands[N_COMMANDS] = {
    [COMMAND_GENERATE] = {"generate", "continue one prompt, or a file of prompts"},
    [COMMAND_PERPLEXITY] = {"perplexity", "score a text: negative log-likelihood per token"},
    [COMMAND_PLAN] = {"plan", "what each rank would own, and whether it fits; loads nothing"},
    [COMMAND_BENCH] = {"bench", "prefill and decode speed beside what this machine can do"},
};

const char *options_command_name(command c) {
    return commands[c].name;
}

static void *field(options *o, const option_spec *spec) {
    return (char *)o + spec->offset;
}

static status bad_value(const option_spec *spec, const char *text, const char *takes) {
    return status_refuse("--%s %s: expected %s; see kvarve --help", spec->name, text, takes);
}

static const char *range_text(const option_spec *spec, char *text, size_t n) {
    const char *kind = spec->type == OPTION_INTEGER ? "a whole number" : "a number";
    snprintf(text, n, "%s from %.15g to %.15g", kind, spec->min, spec->max);
    return text;
}

static status parse_integer(const option_spec *spec, const char *text, int64_t *out) {
    char *end, takes[96];
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)value < spec->min || (double)value > spec->max)
        return bad_value(spec, text, range_text(spec, takes, sizeof takes));
    *out = value;
    return STATUS_OK;
}

static status parse_real(const option_spec *spec, const char *text, double *out) {
    char *end, takes[96];
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= spec->min && value <= spec->max))
        return bad_value(spec, text, range_text(spec, takes, sizeof takes));
    *out = value;
    return STATUS_OK;
}

static status parse_bytes(const option_spec *spec, const char *text, int64_t *out) {
    char *end;
    double value = strtod(text, &end);
    const char *units = "KMGT", *unit = *end ? strchr(units, *end) : NULL;
    double scale = 1;
    for (const char *u = units; unit && u <= unit; u++)
        scale *= 1024;
    if (unit) end++;
    if (end == text || *end || !(value * scale >= spec->min && value * scale <= spec->max))
        return bad_value(spec, text, "bytes above 0, with K, M, G or T for powers of 1024, such as 8G");
    *out = (int64_t)(value * scale);
    return STATUS_OK;
}

static status set_value(options *o, const option_spec *spec, const char *text) {
    switch (spec->type) {
    case OPTION_FLAG:
        *(bool *)field(o, spec) = true;
        return STATUS_OK;
    case OPTION_TEXT:
        *(const char **)field(o, spec) = text;
        return STATUS_OK;
    case OPTION_TEXTS:
        if (o->n_stops == OPTIONS_MAX_STOPS) return bad_value(spec, text, "at most 16 of these");
        if (!*text) return bad_value(spec, "''", "a text that is not empty");
        o->stops[o->n_stops++] = text;
        return STATUS_OK;
    case OPTION_INTEGER:
        return parse_integer(spec, text, field(o, spec));
    case OPTION_REAL:
        return parse_real(spec, text, field(o, spec));
    case OPTION_BYTES:
        return parse_bytes(spec, text, field(o, spec));
    case OPTION_PRECISION:
        break;
    }
    bool exact = !strcmp(text, "f32");
    if (!exact && strcmp(text, "bf16")) return bad_value(spec, text, "bf16 or f32");
    *(precision *)field(o, spec) = exact ? PRECISION_F32 : PRECISION_BF16;
    return STATUS_OK;
}

static void set_defaults(options *o) {
    *o = (options){0};
    for (int i = 0; i < N_OPTIONS; i++) {
        const option_spec *spec = &table[i];
        if (spec->fallback)
            set_value(o, spec, spec->fallback);
        else if (spec->type == OPTION_INTEGER)
            *(int64_t *)field(o, spec) = OPTION_UNSET;
        else if (spec->type == OPTION_REAL)
            *(double *)field(o, spec) = NAN;
    }
}

/* Insertions, deletions, replacements and swaps of neighbours that make b of a (Damerau 1964), for short
 * names. */
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 40 };
    int n = (int)strnlen(a, LONGEST), m = (int)strnlen(b, LONGEST), d[LONGEST + 1][LONGEST + 1];
    for (int i = 0; i <= n; i++) {
        for (int j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            int least = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < least) least = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < least) least = d[i][j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && d[i - 2][j - 2] + 1 < least) least = d[i - 2][j - 2] + 1;
            d[i][j] = least;
        }
    }
    return d[n][m];
}

static status unknown_option(const options *o, const char *given) {
    char name[64];
    snprintf(name, sizeof name, "%s", given + strspn(given, "-"));
    name[strcspn(name, "=")] = '\0';
    const option_spec *nearest = NULL;
    int distance = 4;
    for (int i = 0; i < N_OPTIONS; i++) {
        int d = edit_distance(name, table[i].name);
        if (!(table[i].commands & (1u << o->command)) || d >= distance) continue;
        distance = d;
        nearest = &table[i];
    }
    if (nearest && distance == 0 && strchr(given, '='))
        return status_refuse("--%s takes no value, but got %s", nearest->name, given);
    if (nearest)
        return status_refuse("kvarve %s has no option %s; did you mean --%s?",
                             options_command_name(o->command), given, nearest->name);
    return status_refuse("kvarve %s has no option %s; see kvarve --help", options_command_name(o->command),
                         given);
}

static status find_command(const char *name, command *out) {
    int nearest = -1, distance = 4;
    for (int i = 0; i < N_COMMANDS; i++) {
        int d = edit_distance(name, commands[i].name);
        if (d == 0) {
            *out = (command)i;
            return STATUS_OK;
        }
        if (d < distance) {
            distance = d;
            nearest = i;
        }
    }
    if (nearest >= 0)
        return status_refuse("kvarve has no command %s; did you mean %s?", name, commands[nearest].name);
    return status_refuse("kvarve has no command %s; there are generate, perplexity, plan and bench", name);
}

static status check_together(const options *o) {
    if (!o->model) return status_refuse("kvarve %s needs --model DIR", options_command_name(o->command));
    if (o->page_tokens % KV_PAGE_QUANTUM)
        return status_refuse("--page-tokens %lld: expected a multiple of %d", (long long)o->page_tokens,
                             KV_PAGE_QUANTUM);
    if (o->top_p == 0) return status_refuse("--top-p 0: expected a number above 0, up to 1");
    if (o->min_p == 1) return status_refuse("--min-p 1: expected a number from 0 to below 1");
    if (o->repetition_penalty == 0) return status_refuse("--repetition-penalty 0: expected a number above 0");
    int sources = (o->prompt != NULL) + (o->prompt_file != NULL) + (o->input != NULL);
    if (o->command == COMMAND_GENERATE && sources != 1)
        return status_refuse("kvarve generate needs one of --prompt, --prompt-file and --input, and has %d",
                             sources);
    if (o->output && !o->input)
        return status_refuse("--output is for the results of --input, which is not given");
    if (o->command == COMMAND_PERPLEXITY && !o->file)
        return status_refuse("kvarve perplexity needs --file TEXT");
    return STATUS_OK;
}

status options_parse(int argc, char **argv, options *out) {
    options o;
    set_defaults(&o);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        o.command = N_COMMANDS;
        o.help = true;
        *out = o;
        return STATUS_OK;
    }
    status st = find_command(argv[1], &o.command);
    if (st != STATUS_OK) return st;

    struct option longs[N_OPTIONS + 1] = {{0}};
    for (int i = 0, n = 0; i < N_OPTIONS; i++) {
        if (!(table[i].commands & (1u << o.command))) continue;
        int takes = table[i].type == OPTION_FLAG ? no_argument : required_argument;
        longs[n++] = (struct option){table[i].name, takes, NULL, FIRST_CODE + i};
    }
    opterr = 0;
    optind = 0; /* from the beginning, also after an earlier call that refused */
    for (int at = 1, c; (c = getopt_long(argc - 1, argv + 1, "+:", longs, NULL)) != -1; at = optind) {
        if (c == ':') return status_refuse("%s needs a value; see kvarve --help", argv[1 + at]);
        if (c == '?') return unknown_option(&o, argv[1 + at]);
        st = set_value(&o, &table[c - FIRST_CODE], optarg);
        if (st != STATUS_OK) return st;
    }
    if (1 + optind < argc)
        return status_refuse("kvarve %s takes options only, not %s", argv[1], argv[1 + optind]);
    st = o.help ? STATUS_OK : check_together(&o);
    if (st == STATUS_OK) *out = o;
    return st;
}

static void print_row(const option_spec *spec, FILE *to) {
    static const char *const types[] = {
        [OPTION_FLAG] = "",
        [OPTION_TEXT] = "TEXT",
        [OPTION_TEXTS] = "TEXT",
        [OPTION_INTEGER] = "N",
        [OPTION_REAL] = "X",
        [OPTION_BYTES] = "BYTES",
        [OPTION_PRECISION] = "bf16|f32",
    };
    char name[48], range[48] = "";
    bool numeric = spec->type == OPTION_INTEGER || spec->type == OPTION_REAL;
    snprintf(name, sizeof name, "--%s %s", spec->name, types[spec->type]);
    if (numeric && spec->max >= 1e9)
        snprintf(range, sizeof range, "%.6g ..", spec->min);
    else if (numeric)
        snprintf(range, sizeof range, "%.6g .. %.6g", spec->min, spec->max);
    fprintf(to, "  %-29s %-12s %-12s %s\n", name, spec->fallback ? spec->fallback : spec->unset, range,
            spec->help);
}

void options_print_help(const options *o, FILE *to) {
    fprintf(to, "kvarve: long-context generation from language models over MPI ranks\n\n"
                "usage: [mpirun -n RANKS] kvarve COMMAND [options]\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (o->command == N_COMMANDS || o->command == (command)i)
            fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\n  %-29s %-12s %-12s %s\n", "option", "default", "range", "what it does");
    for (int i = 0; i < N_OPTIONS; i++)
        if (o->command == N_COMMANDS || (table[i].commands & (1u << o->command))) print_row(&table[i], to);
    fprintf(to,
            "\nText goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the machine failed,\n"
            "2 the input was refused, 3 some lines of --input were refused.\n");
}

static void append(text_buffer *out, const char *text) {
    text_append(out, text, strlen(text));
}

static void append_value(text_buffer *out, const option_spec *spec, const char *value) {
    append(out, out->n ? " --" : "--");
    append(out, spec->name);
    if (!value) return;
    bool plain =
        *value && strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+.,/:=@%") ==
                      strlen(value);
    append(out, plain ? " " : " '");
    for (; *value; value++) {
        if (*value == '\'')
            append(out, "'\\''");
        else
            text_append(out, value, 1);
    }
    if (!plain) append(out, "'");
}

char *options_effective(const options *given) {
    text_buffer text = {0};
    options copy = *given;
    for (int i = 0; i < N_OPTIONS; i++) {
        const option_spec *spec = &table[i];
        char number[40];
        const void *at = field(&copy, spec);
        if (!(spec->commands & (1u << given->command))) continue;
        switch (spec->type) {
        case OPTION_FLAG:
            if (*(const bool *)at) append_value(&text, spec, NULL);
            break;
        case OPTION_TEXT:
            if (*(const char *const *)at) append_value(&text, spec, *(const char *const *)at);
            break;
        case OPTION_TEXTS:
            for (int64_t k = 0; k < given->n_stops; k++)
                append_value(&text, spec, given->stops[k]);
            break;
        case OPTION_INTEGER:
        case OPTION_BYTES:
            snprintf(number, sizeof number, "%lld", (long long)*(const int64_t *)at);
            if (*(const int64_t *)at != OPTION_UNSET &&
                !(spec->type == OPTION_BYTES && *(const int64_t *)at == 0))
                append_value(&text, spec, number);
            break;
        case OPTION_REAL:
            snprintf(number, sizeof number, "%.15g", *(const double *)at);
            if (strtod(number, NULL) != *(const double *)at)
                snprintf(number, sizeof number, "%.17g", *(const double *)at);
            if (!isnan(*(const double *)at)) append_value(&text, spec, number);
            break;
        case OPTION_PRECISION:
            append_value(&text, spec, *(const precision *)at == PRECISION_F32 ? "f32" : "bf16");
            break;
        }
    }
    text_append(&text, "", 0);
    return text.data;
}
