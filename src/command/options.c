#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/synthetic/synthetic.h"
#include "src/command/options_private.h"
#include "src/timing/chunk_model.h"
#include "src/timing/link_speed.h"

enum { FIRST_CODE = 256 }; /* getopt's code of option 0, beyond characters */

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

/* Which of some names was meant: the nearest so far, when it is near enough for what is given of it. */
typedef struct guess {
    const char *given;
    int index; /* -1: none */
    int distance;
} guess;

static guess guess_begin(const char *given) {
    return (guess){given, -1, 4};
}

static void guess_consider(guess *g, const char *name, int index) {
    int d = edit_distance(g->given, name);
    if (d >= g->distance || d > (int)strlen(g->given)) return;
    g->distance = d;
    g->index = index;
}

/* "generate", "snapshot info" */
static const char *full_name(const options *o, char *text, size_t n) {
    bool has_action = o->command == COMMAND_SNAPSHOT && o->action != N_SNAPSHOT_ACTIONS;
    snprintf(text, n, "%s%s%s", options_command_name(o->command), has_action ? " " : "",
             has_action ? options_action_name(o->action) : "");
    return text;
}

static status unknown_option(const options *o, const char *given) {
    char name[64], verb[64];
    snprintf(name, sizeof name, "%s", given + strspn(given, "-"));
    name[strcspn(name, "=")] = '\0';
    full_name(o, verb, sizeof verb);
    guess g = guess_begin(name);
    for (int i = 0; i < n_options; i++)
        if (options_have(o, &options_table[i])) guess_consider(&g, options_table[i].name, i);
    if (g.index < 0) return status_refuse("kvarve %s has no option %s; see kvarve --help", verb, given);
    const char *nearest = options_table[g.index].name;
    if (g.distance == 0 && strchr(given, '='))
        return status_refuse("--%s takes no value, but got %s", nearest, given);
    return status_refuse("kvarve %s has no option %s; did you mean --%s?", verb, given, nearest);
}

static status find_command(const char *name, command *out) {
    guess g = guess_begin(name);
    for (int i = 0; i < N_COMMANDS; i++)
        guess_consider(&g, options_command_name((command)i), i);
    if (g.index < 0)
        return status_refuse("kvarve has no command %s; there are generate, perplexity, tokenize, plan, "
                             "bench, calibrate, synth and snapshot",
                             name);
    if (g.distance > 0)
        return status_refuse("kvarve has no command %s; did you mean %s?", name,
                             options_command_name((command)g.index));
    *out = (command)g.index;
    return STATUS_OK;
}

/* name: NULL when the command line ends before it. */
static status find_action(const char *name, snapshot_action *out) {
    if (!name || *name == '-')
        return status_refuse("kvarve snapshot needs an action first: info, verify, compact, recode or text");
    guess g = guess_begin(name);
    for (int i = 0; i < N_SNAPSHOT_ACTIONS; i++)
        guess_consider(&g, options_action_name((snapshot_action)i), i);
    if (g.index < 0)
        return status_refuse(
            "kvarve snapshot has no action %s; there are info, verify, compact, recode and text", name);
    if (g.distance > 0)
        return status_refuse("kvarve snapshot has no action %s; did you mean %s?", name,
                             options_action_name((snapshot_action)g.index));
    *out = (snapshot_action)g.index;
    return STATUS_OK;
}

/* A word that is no option. */
static status take_word(options *o, const char *word) {
    char verb[64];
    full_name(o, verb, sizeof verb);
    if (o->command != COMMAND_SNAPSHOT && o->command != COMMAND_SYNTH)
        return status_refuse("kvarve %s takes options only, not %s", verb, word);
    if (o->dir) return status_refuse("kvarve %s takes one directory, not %s as well", verb, word);
    o->dir = word;
    return STATUS_OK;
}

bool options_wants_generic(const options *o) {
    return o->tables && strcmp(o->tables, "generic") == 0;
}

static status check_coding(const options *o, const kv_coding *c) {
    if (options_wants_generic(o) && c->codec == KV_CODEC_CACHEGEN)
        return status_refuse(
            "--tables generic is for kvarve:fast and kvarve:small: cachegen's tables know each "
            "channel of a model");
    if (!o->tables || !kv_codec_is_exact(c->codec)) return STATUS_OK;
    return status_refuse("--tables is for codecs that are not exact, and --codec is %s",
                         kv_codec_name(c->codec));
}

static status check_snapshot(const options *o) {
    kv_coding c;
    const char *action = options_action_name(o->action);
    if (!o->dir || !*o->dir)
        return status_refuse("kvarve snapshot %s needs the directory of a snapshot", action);
    if (o->action == SNAPSHOT_RECODE && !o->recode)
        return status_refuse("kvarve snapshot recode needs --codec");
    if (!o->recode)
        return o->tables ? status_refuse("--tables is for --codec, which is not given") : STATUS_OK;
    status st = status_at(kv_coding_parse(o->recode, &c), "--codec %.60s", o->recode);
    return st == STATUS_OK ? check_coding(o, &c) : st;
}

static status check_saving(const options *o) {
    const char *needs_resume = o->load != LOAD_FULL          ? "--load"
                               : o->io_bandwidth             ? "--io-bandwidth"
                               : !isnan(o->max_distortion)   ? "--max-distortion"
                               : !isnan(o->deadline_seconds) ? "--deadline"
                               : o->load_log                 ? "--load-log"
                                                             : NULL;
    if (needs_resume && !o->resume)
        return status_refuse("%s is for --resume, which is not given", needs_resume);
    const char *needs_save = !isnan(o->max_time_seconds) ? "--max-time" : o->stop_file ? "--stop-file" : NULL;
    if (!isnan(o->save_every_seconds) || o->save_every_tokens != OPTION_UNSET) needs_save = "--save-every";
    if (!kv_codec_is_exact(o->codec.codec)) needs_save = "--codec";
    if (needs_save && !o->save)
        return status_refuse("%s needs --save NAME.kvs, to keep what was computed", needs_save);
    return check_coding(o, &o->codec);
}

static status check_generate(const options *o) {
    int sources = (o->prompt != NULL) + (o->prompt_file != NULL) + (o->input != NULL);
    if (o->command == COMMAND_TOKENIZE)
        return sources == 1 ? STATUS_OK : status_refuse("kvarve tokenize needs --prompt or --prompt-file");
    if (sources > 1 || (sources == 0 && !o->resume))
        return status_refuse("kvarve generate needs one of --prompt, --prompt-file and --input, and has %d",
                             sources);
    if (o->output && !o->input)
        return status_refuse("--output is for the results of --input, which is not given");
    if (o->text && o->input)
        return status_refuse("--text is for the text of one prompt: --output is for the results of --input");
    return check_saving(o);
}

/* Which model, and for synth where to. */
static status check_model(const options *o) {
    synthetic_model m;
    const char *name = options_command_name(o->command);
    if (o->command == COMMAND_SYNTH) {
        if (!o->shape) return status_refuse("kvarve synth needs --shape NAME");
        if (!o->dir || !*o->dir) return status_refuse("kvarve synth needs the directory to write to");
    } else {
        if (!o->model && !o->shape)
            return status_refuse("kvarve %s needs --model DIR, or --shape NAME for random weights", name);
        if (o->model && o->shape)
            return status_refuse("kvarve %s takes one of --model and --shape, not both", name);
        if (!o->shape && o->vocab != OPTION_UNSET)
            return status_refuse("--vocab is for --shape, which is not given");
    }
    return o->shape ? synthetic_find(o->shape, &m) : STATUS_OK;
}

static status join_precision(options *o) {
    if (o->weights == WEIGHTS_OF_PRECISION) return STATUS_OK;
    if (o->precision == PRECISION_F32)
        return status_refuse("--weights %s: not with --precision f32, whose weights are f32",
                             o->weights == WEIGHTS_INT8 ? "int8" : "bf16");
    o->precision = o->weights == WEIGHTS_INT8 ? PRECISION_INT8 : PRECISION_BF16;
    return STATUS_OK;
}

bool options_change_pages(const options *o) {
    return o->kv != KV_CACHE_OF_PRECISION && o->kv != KV_CACHE_BF16;
}

static status check_kv(const options *o) {
    if (o->kv != KV_CACHE_OF_PRECISION && o->precision == PRECISION_F32)
        return status_refuse("--kv %s: not with --precision f32, whose KV cache is f32",
                             options_kv_name(o->kv));
    if (o->kv == KV_CACHE_INT4 && o->device == DEVICE_CUDA)
        return status_refuse("--kv int4: not with --device cuda: the CPU only");
    if (o->kv != KV_CACHE_INT4) return STATUS_OK;
    if (o->page_tokens % KV_INT4_PLACES)
        return status_refuse("--page-tokens %lld: --kv int4 wants a multiple of %d",
                             (long long)o->page_tokens, KV_INT4_PLACES);
    if (o->load == LOAD_AUTO || o->load == LOAD_BASE)
        return status_refuse(
            "--kv int4 rounds many tokens together, all of which are loaded: not with --load %s",
            o->load == LOAD_AUTO ? "auto" : "base");
    return STATUS_OK;
}

bool options_change_cache(const options *o) {
    return o->context_codec || options_change_pages(o) || o->evict.kind != EVICT_NOTHING;
}

options options_of_exact_cache(const options *o) {
    options exact = *o;
    exact.kv = KV_CACHE_OF_PRECISION;
    exact.context_codec = exact.tables = NULL;
    exact.evict = (evict_policy){0};
    return exact;
}

static status check_evict(const options *o) {
    if (o->evict.kind == EVICT_NOTHING)
        return o->evict_every == OPTION_UNSET
                   ? STATUS_OK
                   : status_refuse("--evict-every is for --evict, which is not given");
    if (o->device == DEVICE_CUDA) return status_refuse("--evict: not with --device cuda: the CPU only");
    if (o->save)
        return status_refuse("--evict: not with --save: a snapshot has every position of its sequences");
    if (o->load == LOAD_BASE || !isnan(o->deadline_seconds))
        return status_refuse(
            "--evict: not with --load base or --deadline, as what refines a base comes behind "
            "the prompt");
    if (o->evict.kind == EVICT_H2O && o->kv_disk.bytes)
        return status_refuse("--evict h2o reads all keys twice: not with --kv-disk");
    if (o->predict) return status_refuse("--evict: not with --predict, which knows only whole caches");
    return STATUS_OK;
}

static status check_perplexity(const options *o) {
    const char *changed = o->keys > 0                  ? "--keys"
                          : o->key_depths              ? "--key-depths"
                          : o->windows != OPTION_UNSET ? "--windows"
                                                       : NULL;
    if (!o->file) return status_refuse("kvarve perplexity needs --file TEXT");
    if (changed && !options_change_cache(o))
        return status_refuse("%s is for a changed cache: give --context-codec, --evict, or --kv int8 or int4",
                             changed);
    if (o->stride != OPTION_UNSET && options_change_cache(o))
        return status_refuse(
            "--stride is not for a changed cache, as of --context-codec, --evict, --kv int8 or int4");
    if (o->tables && !o->context_codec)
        return status_refuse("--tables is for --context-codec, which is not given");
    if (options_wants_generic(o))
        return status_refuse(
            "--tables generic is for what is saved: kvarve perplexity needs a file, such as a "
            "snapshot with generic tables keeps");
    if (o->keys > 0 && o->key_depths)
        return status_refuse("kvarve perplexity takes one of --keys and --key-depths, not both");
    return STATUS_OK;
}

/* Predictions, and chunks of equal time. */
static status check_times(const options *o) {
    chunk_model m;
    link_speed link;
    status st = STATUS_OK;
    if (o->measured && o->chunk_model)
        return status_refuse("kvarve %s takes one of --measured and --chunk-model, not both",
                             options_command_name(o->command));
    const char *model = o->measured ? "--measured" : o->chunk_model ? "--chunk-model" : NULL;
    if (o->measure && model)
        return status_refuse("%s is not for --measure, which chooses the chunks by itself", model);
    if (o->chunk_model) st = chunk_model_parse("chunk-model", o->chunk_model, &m);
    if (o->command != COMMAND_PLAN || st != STATUS_OK) return st;
    if (o->predict && !model)
        return status_refuse("--predict needs --measured FILE, which kvarve bench --measure FILE writes, or "
                             "--chunk-model C,G,B,A");
    const char *only = model ? model : o->link ? "--link" : o->node_link ? "--node-link" : NULL;
    if (!o->predict && only) return status_refuse("%s is for --predict, which is not given", only);
    if (o->nodes > o->ranks)
        return status_refuse("--nodes %lld: are more than the %lld of --ranks", (long long)o->nodes,
                             (long long)o->ranks);
    if (o->link) st = link_speed_parse("link", o->link, &link);
    return st == STATUS_OK && o->node_link ? link_speed_parse("node-link", o->node_link, &link) : st;
}

static status check_together(const options *o) {
    if (o->command == COMMAND_SNAPSHOT) return check_snapshot(o);
    status st = check_model(o);
    if (st != STATUS_OK || o->command == COMMAND_SYNTH) return st;
    if (o->command == COMMAND_TOKENIZE) return check_generate(o);
    if (o->page_tokens % KV_PAGE_QUANTUM)
        return status_refuse("--page-tokens %lld: expected a multiple of %d", (long long)o->page_tokens,
                             KV_PAGE_QUANTUM);
    st = check_times(o);
    if (st != STATUS_OK) return st;
    if (o->top_p == 0) return status_refuse("--top-p 0: expected a number above 0, up to 1");
    if (o->min_p == 1) return status_refuse("--min-p 1: expected a number from 0 to below 1");
    if (o->repetition_penalty == 0) return status_refuse("--repetition-penalty 0: expected a number above 0");
    if (o->command == COMMAND_GENERATE) return check_generate(o);
    if (o->command == COMMAND_PERPLEXITY) return check_perplexity(o);
    if (o->command == COMMAND_CALIBRATE && o->samples.n == 0)
        return status_refuse("kvarve calibrate needs --sample TEXT");
    if (o->command == COMMAND_CALIBRATE && !o->output)
        return status_refuse("kvarve calibrate needs --output FILE");
    return STATUS_OK;
}

/* The words behind the command (and action), which stand in argv[1] and on. */
static status parse_words(options *o, int argc, char **argv) {
    struct option longs[OPTIONS_MAX + 1] = {{0}};
    for (int i = 0, n = 0; i < n_options; i++) {
        if (!options_have(o, &options_table[i])) continue;
        int takes = options_table[i].type == &option_flag ? no_argument : required_argument;
        longs[n++] = (struct option){options_table[i].name, takes, NULL, FIRST_CODE + i};
    }
    opterr = 0;
    optind = 0; /* from the beginning, also after an earlier call that refused */
    for (int at = 1, c; (c = getopt_long(argc, argv, "-:h", longs, NULL)) != -1; at = optind) {
        if (c == ':') return status_refuse("%s needs a value; see kvarve --help", argv[at]);
        if (c == '?') return unknown_option(o, argv[at]);
        if (c == 'h') {
            o->help = true;
            continue;
        }
        status st = c == 1
                        ? take_word(o, optarg)
                        : options_table[c - FIRST_CODE].type->set(o, &options_table[c - FIRST_CODE], optarg);
        if (st != STATUS_OK) return st;
    }
    status st = STATUS_OK;
    for (int i = optind; i < argc && st == STATUS_OK; i++) /* behind -- */
        st = take_word(o, argv[i]);
    return st;
}

static bool is_help(const char *word) {
    return !strcmp(word, "--help") || !strcmp(word, "-h");
}

status options_parse(int argc, char **argv, options *out) {
    options o;
    options_set_defaults(&o);
    if (argc < 2 || is_help(argv[1]) || !strcmp(argv[1], "help")) {
        o.command = N_COMMANDS;
        o.help = true;
        *out = o;
        return STATUS_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        o.command = N_COMMANDS;
        o.version = true;
        *out = o;
        return STATUS_OK;
    }
    int n_verbs = 1;
    status st = find_command(argv[1], &o.command);
    if (st == STATUS_OK && o.command == COMMAND_SNAPSHOT && !(argc > 2 && is_help(argv[2]))) {
        n_verbs = 2;
        st = find_action(argc > 2 ? argv[2] : NULL, &o.action);
    }
    if (st == STATUS_OK) st = parse_words(&o, argc - n_verbs, argv + n_verbs);
    if (st == STATUS_OK && !o.help) st = check_together(&o);
    if (st == STATUS_OK) st = check_kv(&o);
    if (st == STATUS_OK) st = check_evict(&o);
    if (st == STATUS_OK) st = join_precision(&o);
    if (st == STATUS_OK && o.evict_every != OPTION_UNSET) o.evict.every = o.evict_every;
    if (st == STATUS_OK) *out = o;
    return st;
}

char *options_effective(const options *o) {
    text_buffer text = {0};
    if (o->command == COMMAND_SNAPSHOT) {
        options_append_word(options_action_name(o->action), &text);
        options_append_word(o->dir, &text);
    }
    if (o->command == COMMAND_SYNTH) options_append_word(o->dir, &text);
    for (int i = 0; i < n_options; i++)
        if (options_have(o, &options_table[i])) options_table[i].type->append(o, &options_table[i], &text);
    text_append(&text, "", 0);
    return text.data;
}
