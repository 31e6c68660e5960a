/* tests/command/test_options.c: the command line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/comm.h"
#include "src/command/options.h"
#include "tests/fixtures/harness.h"

enum { MAX_ARGS = 64 };

/* The words of a command line, which live until the next call. */
static status parse_words(const char *line, options *out) {
    static char text[8192];
    char *argv[MAX_ARGS + 1] = {"kvarve"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word && argc < MAX_ARGS; word = strtok(NULL, " "))
        argv[argc++] = word;
    return options_parse(argc, argv, out);
}

/* The line with one option and its value behind what its command needs. */
static const char *with(const char *verb, const char *name, const char *value) {
    static char line[1024];
    const char *needs = !strcmp(verb, "generate")     ? "--model m --prompt p"
                        : !strcmp(verb, "perplexity") ? "--model m --file f"
                                                      : "--model m";
    snprintf(line, sizeof line, "%s %s --%s %s", verb, needs, name, value);
    return line;
}

/* ---- values ---- */

static void defaults(void) {
    options o;
    CHECK_OK(parse_words("generate --model m --prompt p", &o));
    CU_ASSERT(o.command == COMMAND_GENERATE && !o.help && !strcmp(o.model, "m") && !strcmp(o.prompt, "p"));
    CU_ASSERT(!o.prompt_file && !o.input && !o.output && !o.file && !o.report && !o.layers_per_rank &&
              o.stops.n == 0);
    CU_ASSERT(o.max_tokens == OPTION_UNSET && o.top_k == OPTION_UNSET && o.seed == OPTION_UNSET);
    CU_ASSERT(o.logprobs == OPTION_UNSET && o.context == OPTION_UNSET && o.stride == OPTION_UNSET);
    CU_ASSERT(isnan(o.temperature) && isnan(o.top_p) && isnan(o.min_p) && isnan(o.repetition_penalty));
    CU_ASSERT(!o.ignore_eos && !o.echo && o.kv_memory == 0 && o.memory_per_rank == 0);
    CU_ASSERT(o.chunk_tokens == 512 && o.page_tokens == 64 && o.sequences == 16 && o.threads == 0);
    CU_ASSERT(o.peer_timeout == COMM_DEADLINE_SECONDS && o.precision == PRECISION_BF16 &&
              o.transport == TRANSPORT_AUTO);
    CU_ASSERT(o.weights == WEIGHTS_OF_PRECISION);
    CU_ASSERT(!o.save && !o.resume && !o.stop_file && !o.fail_at && o.codec.codec == KV_CODEC_LOSSLESS);
    CU_ASSERT(isnan(o.save_every_seconds) && o.save_every_tokens == OPTION_UNSET &&
              isnan(o.max_time_seconds));
    CHECK_OK(parse_words("plan --model m", &o));
    CU_ASSERT(o.command == COMMAND_PLAN && o.ranks == 1);
    CHECK_OK(parse_words("bench --model m", &o));
    CU_ASSERT(o.command == COMMAND_BENCH && o.repeats == 3 && !strcmp(o.depths, "0,1024,4096") &&
              !strcmp(o.prefill, "512") && !strcmp(o.batch_depths, "0"));
    CHECK_OK(parse_words("perplexity --model m --file f", &o));
    CU_ASSERT(o.command == COMMAND_PERPLEXITY && !strcmp(o.file, "f"));
}

static void given_values(void) {
    options o;
    CHECK_OK(parse_words(
        "generate --model=dir --input=a=b --output out --max-tokens=7 --temperature 0.25 --top-k 3 "
        "--top-p=.5 --min-p 0.125 --repetition-penalty 1.5 --seed 9 --stop x --stop=yy --ignore-eos "
        "--echo --logprobs 20 --context 100 --sequences 2 --chunk-tokens 33 --page-tokens 32 "
        "--kv-memory 1.5G --memory-per-rank=2T --layers-per-rank 1,2 --threads 4 --precision f32 "
        "--peer-timeout 2.5 --transport nccl --report r.json",
        &o));
    CU_ASSERT(!strcmp(o.model, "dir") && !strcmp(o.input, "a=b") && !strcmp(o.output, "out") &&
              o.max_tokens == 7);
    CU_ASSERT(o.temperature == 0.25 && o.top_k == 3 && o.top_p == 0.5 && o.min_p == 0.125);
    CU_ASSERT(o.repetition_penalty == 1.5 && o.seed == 9 && o.stops.n == 2);
    CU_ASSERT(!strcmp(o.stops.items[0], "x") && !strcmp(o.stops.items[1], "yy") && o.ignore_eos && o.echo &&
              o.logprobs == 20);
    CU_ASSERT(o.context == 100 && o.sequences == 2 && o.chunk_tokens == 33 && o.page_tokens == 32);
    CU_ASSERT(o.kv_memory == (int64_t)3 << 29 && o.memory_per_rank == (int64_t)2 << 40);
    CU_ASSERT(!strcmp(o.layers_per_rank, "1,2") && o.threads == 4 && o.precision == PRECISION_F32);
    CU_ASSERT(o.peer_timeout == 2.5 && o.transport == TRANSPORT_NCCL && !strcmp(o.report, "r.json"));
    CHECK_OK(
        parse_words("generate --model m --prompt p --save a.kvs/ --resume b.kvs --stop-file /s --codec none "
                    "--save-every 1.5m --max-time 23:50:00",
                    &o));
    CU_ASSERT(!strcmp(o.save, "a.kvs/") && !strcmp(o.resume, "b.kvs") && !strcmp(o.stop_file, "/s"));
    CU_ASSERT(o.codec.codec == KV_CODEC_NONE && o.save_every_seconds == 90 && o.max_time_seconds == 85800);
    CHECK_OK(parse_words("plan --model a --ranks 2 --model b --ranks 3", &o)); /* the last one counts */
    CU_ASSERT(!strcmp(o.model, "b") && o.ranks == 3);
}

static void ends_of_the_ranges(void) {
    static const struct {
        const char *command, *name, *least, *most, *below, *above;
    } rows[] = {
        {"generate", "max-tokens", "0", "2147483647", "-1", "2147483648"},
        {"generate", "temperature", "0", "100", "-0.001", "100.001"},
        {"generate", "top-k", "-1", "2147483647", "-2", "2147483648"},
        {"generate", "top-p", "1e-9", "1", "0", "1.0000001"},
        {"generate", "min-p", "0", "0.999999", "-1e-9", "1"},
        {"generate", "repetition-penalty", "1e-9", "100", "0", "100.1"},
        {"generate", "seed", "0", "9007199254740992", "-1", "9007199254740994"},
        {"generate", "logprobs", "0", "20", "-1", "21"},
        {"generate", "context", "1", "1099511627776", "0", "1099511627777"},
        {"perplexity", "stride", "1", "1099511627776", "0", "1099511627777"},
        {"generate", "sequences", "1", "65536", "0", "65537"},
        {"generate", "chunk-tokens", "1", "65536", "0", "65537"},
        {"generate", "page-tokens", "32", "65536", "0", "65568"},
        {"generate", "kv-memory", "1", "9007199254740992", "0", "9007199254740994"},
        {"plan", "memory-per-rank", "1K", "8192T", "0.9", "8193T"},
        {"plan", "ranks", "1", "65536", "0", "65537"},
        {"bench", "threads", "0", "1024", "-1", "1025"},
        {"bench", "repeats", "1", "100", "0", "101"},
        {"bench", "peer-timeout", "1", "1e9", "0.999", "1.1e9"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        options o;
        char told[64];
        snprintf(told, sizeof told, "--%s", rows[i].name);
        CHECK_OK(parse_words(with(rows[i].command, rows[i].name, rows[i].least), &o));
        CHECK_OK(parse_words(with(rows[i].command, rows[i].name, rows[i].most), &o));
        CHECK_REFUSED(parse_words(with(rows[i].command, rows[i].name, rows[i].below), &o), told);
        CU_ASSERT(strstr(status_text(), rows[i].below) != NULL);
        CHECK_REFUSED(parse_words(with(rows[i].command, rows[i].name, rows[i].above), &o), told);
        CU_ASSERT(strstr(status_text(), rows[i].above) != NULL);
    }
}

static void bad_values(void) {
    static const char *const rows[][2] = {
        {"max-tokens", "5x"},    {"max-tokens", "1e3"},  {"max-tokens", "0x10"},
        {"max-tokens", "ten"},   {"max-tokens", "1.5"},  {"max-tokens", "99999999999999999999"},
        {"temperature", "hot"},  {"temperature", "nan"}, {"temperature", "inf"},
        {"temperature", "1,5"},  {"top-p", "-nan"},      {"kv-memory", "8GB"},
        {"kv-memory", "8g"},     {"kv-memory", "G"},     {"kv-memory", "-1G"},
        {"kv-memory", "infT"},   {"kv-memory", "nan"},   {"kv-memory", "8GG"},
        {"page-tokens", "33"},   {"page-tokens", "48"},  {"precision", "f16"},
        {"precision", "BF16"},   {"precision", "f320"},  {"memory-per-rank", "80%"},
        {"sequences", "--echo"}, {"transport", "ucx"},   {"transport", "NCCL"},
        {"weights", "INT8"},     {"weights", "f32"},     {"weights", "int4"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        options o;
        char told[64];
        snprintf(told, sizeof told, "--%s %s", rows[i][0], rows[i][1]);
        CHECK_REFUSED(parse_words(with("generate", rows[i][0], rows[i][1]), &o), told);
    }
    static const char *const empty[] = {"max-tokens", "temperature", "kv-memory", "precision",  "stop",
                                        "save",       "resume",      "stop-file", "save-every", "max-time",
                                        "codec",      "transport",   "weights"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        options o;
        char given[64], told[64];
        snprintf(given, sizeof given, "--%s=", empty[i]);
        snprintf(told, sizeof told, "--%s", empty[i]);
        char *argv[] = {"kvarve", "generate", "--model", "m", "--prompt", "p", given, NULL};
        CHECK_REFUSED(options_parse(7, argv, &o), told);
    }
}

static void times(void) {
    static const struct {
        const char *text;
        double seconds;
    } rows[] = {
        {"90s", 90},           {"30m", 1800},          {"12h", 43200},      {"0.5s", 0.5},
        {"1.25h", 4500},       {"00:00:01", 1},        {"23:50:00", 85800}, {"100:00:59", 360059},
        {"1-00:00:00", 86400}, {"2-23:59:59", 259199}, {"0-1:2:3", 3723},   {"0.001s", 0.001},
        {".5m", 30},           {"1000000000s", 1e9},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        options o;
        CHECK_OK(parse_words(with("generate", "save d --max-time", rows[i].text), &o));
        CU_ASSERT_EQUAL(o.max_time_seconds, rows[i].seconds);
    }
    static const char *const bad[] = {"90",
                                      "1000",
                                      "90S",
                                      "90 s",
                                      "s",
                                      ".s",
                                      "-5s",
                                      "+5s",
                                      "1e3s",
                                      "0x10s",
                                      "infs",
                                      "nans",
                                      "5d",
                                      "5min",
                                      "1.2.3s",
                                      "0s",
                                      "00:00:00",
                                      "1:60:00",
                                      "1:00:60",
                                      "1-24:00:00",
                                      "1-",
                                      "-1:2:3",
                                      "1--1:00:00",
                                      "1:2:3:4",
                                      "1-2-3:4:5",
                                      "1:2:",
                                      ":2:3",
                                      "1::3",
                                      "a:b:c",
                                      "1:2:3s",
                                      "1:-2:3",
                                      "1-2:3",
                                      "1-2",
                                      "1:2:3.5",
                                      "1000000001s",
                                      "0.0009s",
                                      "9999999999:00:00",
                                      "11574-01:46:41",
                                      "1: 2:3",
                                      "later"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char option[64], told[128];
        snprintf(option, sizeof option, "--max-time=%s", bad[i]);
        snprintf(told, sizeof told, "--max-time %s: expected a time above 0 such as 23:50:00", bad[i]);
        char *argv[] = {"kvarve", "generate", "--model", "m", "--prompt", "p", "--save", "d", option, NULL};
        options o;
        CHECK_REFUSED(options_parse(9, argv, &o), told);
    }
    options o;
    CHECK_REFUSED(parse_words(with("generate", "save d --max-time", "30:00"), &o),
                  "--max-time 30:00: expected hours, minutes and seconds as HH:MM:SS, as two numbers may be");
}

static void save_every(void) {
    options o;
    CHECK_OK(parse_words(with("generate", "save d --save-every", "15m"), &o));
    CU_ASSERT(o.save_every_seconds == 900 && o.save_every_tokens == OPTION_UNSET);
    CHECK_OK(parse_words(with("generate", "save d --save-every", "1"), &o));
    CU_ASSERT(isnan(o.save_every_seconds) && o.save_every_tokens == 1);
    CHECK_OK(parse_words(with("generate", "save d --save-every", "1000000000"), &o));
    CU_ASSERT(o.save_every_tokens == 1000000000);
    CHECK_OK(parse_words(with("generate", "save d --save-every 5 --save-every", "2h"), &o));
    CU_ASSERT(o.save_every_seconds == 7200 && o.save_every_tokens == OPTION_UNSET);
    CHECK_OK(parse_words(with("generate", "save d --save-every 2h --save-every", "5"), &o));
    CU_ASSERT(isnan(o.save_every_seconds) && o.save_every_tokens == 5);
    static const char *const bad[] = {
        "0", "-1", "1.5", "00:15:00", "0s", "1000000001", "99999999999999999999", "5t", "often", "1e3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_REFUSED(parse_words(with("generate", "save d --save-every", bad[i]), &o),
                      "expected a time such as 90s, 15m or 2h, or a number of new tokens above 0");
        CU_ASSERT(strstr(status_text(), bad[i]) != NULL);
    }
}

static void failures_on_demand(void) {
    options o;
    CHECK_OK(parse_words(with("generate", "fail-at", "lock:0:kill"), &o));
    CU_ASSERT(!strcmp(o.fail_at, "lock:0:kill"));
    CHECK_OK(parse_words("snapshot verify d --fail-at load", &o));
    CU_ASSERT(!strcmp(o.fail_at, "load"));
}

static void codecs(void) {
    options o;
    CHECK_OK(parse_words(with("generate", "codec", "lossless"), &o));
    CU_ASSERT(o.codec.codec == KV_CODEC_LOSSLESS);
    CHECK_OK(parse_words("generate --model m --prompt p --codec kvarve:small:1 --tables t --save s", &o));
    CU_ASSERT(o.codec.codec == KV_CODEC_SMALL && o.codec.level == -7 && o.codec.bits == 0);
    CHECK_OK(parse_words("generate --model m --prompt p --codec kvarve:fast:2.1b --tables t --save s", &o));
    CU_ASSERT(o.codec.codec == KV_CODEC_FAST && o.codec.bits == 2.1);
    CHECK_OK(parse_words("generate --model m --prompt p --codec cachegen:4 --tables t --save s", &o));
    CU_ASSERT(o.codec.codec == KV_CODEC_CACHEGEN && o.codec.level == 4);
    CHECK_OK(parse_words("generate --model m --prompt p --codec cachegen:4 --save s", &o));
    CHECK_REFUSED(parse_words(with("generate", "codec", "cachegen:4"), &o), "--codec needs --save");
    CHECK_OK(parse_words("snapshot compact d --codec none", &o));
    CU_ASSERT_STRING_EQUAL(o.recode, "none");
    CHECK_REFUSED(parse_words(with("generate", "codec", "gzip"), &o),
                  "--codec gzip: expected none, lossless, cachegen:1 to cachegen:4");
    CHECK_REFUSED(parse_words("snapshot compact d --codec None", &o),
                  "--codec None: expected none, lossless");
    CHECK_REFUSED(parse_words("snapshot compact d --tables t", &o), "--tables is for --codec");
    CHECK_REFUSED(parse_words("snapshot recode d", &o), "kvarve snapshot recode needs --codec");
}

static void stops(void) {
    char line[1024] = "generate --model m --prompt p";
    options o;
    for (int i = 0; i < OPTIONS_MAX_TEXTS; i++)
        strcat(line, " --stop s");
    CHECK_OK(parse_words(line, &o));
    CU_ASSERT(o.stops.n == OPTIONS_MAX_TEXTS && !strcmp(o.stops.items[OPTIONS_MAX_TEXTS - 1], "s"));
    strcat(line, " --stop toomany");
    CHECK_REFUSED(parse_words(line, &o), "--stop toomany: expected at most 16");
}

/* ---- what is not there ---- */

static void misspelt_options(void) {
    static const char *const rows[][2] = {
        {"--tempratur 1", "--temperature"},
        {"--temprature=1", "--temperature"},
        {"--max_tokens 5", "--max-tokens"},
        {"--maxtokens 5", "--max-tokens"},
        {"--topk 4", "--top-k"},
        {"--pormpt x", "--prompt"},
        {"--promp x", "--prompt"},
        {"--kv-memroy 1G", "--kv-memory"},
        {"-model x", "--model"},
        {"-temperature 1", "--temperature"},
        {"--Model x", "--model"},
        {"--precison f32", "--precision"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        options o;
        char line[256], told[256];
        int n_given = (int)strcspn(rows[i][0], " ");
        snprintf(line, sizeof line, "generate --model m --prompt p %s", rows[i][0]);
        snprintf(told, sizeof told, "has no option %.*s; did you mean %s?", n_given, rows[i][0], rows[i][1]);
        CHECK_REFUSED(parse_words(line, &o), told);
    }
    options o;
    CHECK_REFUSED(parse_words("generate --model m --something-else", &o),
                  "no option --something-else; see kvarve --help");
    CHECK_REFUSED(parse_words("generate --model m -x", &o), "kvarve generate has no option -x; see");
    CHECK_REFUSED(parse_words("generate -xyzabc --model m", &o),
                  "kvarve generate has no option -xyzabc; see");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --echo=1", &o), "--echo takes no value");
    CHECK_OK(
        parse_words("generate --model m --prompt p --temp 0.5", &o)); /* understood: only one begins so */
    CU_ASSERT(o.temperature == 0.5);
    CHECK_REFUSED(parse_words("generate --model m --prompt p --t 1", &o), "has no option --t");
}

/* --precision and --weights together, in either order. */
static void weights_with_precision(void) {
    static const struct {
        const char *words;
        precision precision;
    } good[] = {
        {"plan --model m --weights int8", PRECISION_INT8},
        {"plan --model m --weights bf16", PRECISION_BF16},
        {"plan --model m --weights int8 --precision bf16", PRECISION_INT8},
        {"plan --model m --precision bf16 --weights int8", PRECISION_INT8},
        {"plan --model m --weights int8 --weights bf16", PRECISION_BF16},
        {"plan --model m --precision f32", PRECISION_F32},
    };
    options o;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK_OK(parse_words(good[i].words, &o));
        CU_ASSERT(o.precision == good[i].precision);
    }
    CHECK_REFUSED(parse_words("plan --model m --precision f32 --weights int8", &o),
                  "--weights int8: not with");
    CHECK_REFUSED(parse_words("plan --model m --weights bf16 --precision f32", &o),
                  "--weights bf16: not with");
}

/* One edit away from its name, every option is found again. */
static void one_edit_away(void) {
    static const char *const names[] = {
        "model",      "prompt",   "temperature",     "top-k",       "repetition-penalty",
        "max-tokens", "logprobs", "chunk-tokens",    "page-tokens", "memory-per-rank",
        "precision",  "report",   "layers-per-rank", "threads",     "peer-timeout",
        "transport",  "weights"};
    uint64_t state = 1;
    int n_tried = 0;
    for (int round = 0; round < 2000; round++) {
        const char *name = names[harness_random(&state) % (sizeof names / sizeof *names)];
        size_t n = strlen(name), at = harness_random(&state) % n;
        char edited[64], letter = (char)('a' + harness_random(&state) % 26), told[128], line[256];
        switch (harness_random(&state) % 3) {
        case 0:
            snprintf(edited, sizeof edited, "%.*s%c%s", (int)at, name, letter, name + at);
            break;
        case 1:
            snprintf(edited, sizeof edited, "%.*s%s", (int)at, name, name + at + 1);
            break;
        default:
            snprintf(edited, sizeof edited, "%s", name);
            edited[at] = letter;
        }
        if (!strncmp(edited, name, strlen(edited)) || !strcmp(edited, "top-p"))
            continue; /* a prefix is understood, and so is another option */
        options o;
        snprintf(line, sizeof line, "generate --%s 1", edited);
        snprintf(told, sizeof told, "has no option --%s; did you mean --%s?", edited, name);
        CHECK_REFUSED(parse_words(line, &o), told);
        n_tried++;
    }
    CU_ASSERT(n_tried > 1500);
}

static void commands(void) {
    options o;
    CHECK_REFUSED(parse_words("genrate --model m", &o),
                  "kvarve has no command genrate; did you mean generate?");
    CHECK_REFUSED(parse_words("perplexty --model m", &o), "did you mean perplexity?");
    CHECK_REFUSED(parse_words("nothing-like-it", &o),
                  "generate, perplexity, tokenize, plan, bench, calibrate, synth and snapshot");
    CHECK_REFUSED(parse_words("--model m generate", &o), "--model");
    CHECK_REFUSED(parse_words("generate m", &o), "takes options only, not m");
    CHECK_REFUSED(parse_words("generate --model m --prompt p rest", &o), "takes options only, not rest");
    CHECK_REFUSED(parse_words("generate --model m --prompt p -- rest", &o), "takes options only, not rest");
    for (command c = 0; c < N_COMMANDS; c++)
        CU_ASSERT(strlen(options_command_name(c)) > 3);
}

static void snapshot_actions(void) {
    options o;
    CHECK_OK(parse_words("snapshot info d.kvs", &o));
    CU_ASSERT(o.command == COMMAND_SNAPSHOT && o.action == SNAPSHOT_INFO && !strcmp(o.dir, "d.kvs"));
    CU_ASSERT(o.threads == 0 && o.codec.codec == KV_CODEC_LOSSLESS && !o.id && !o.help);
    CHECK_OK(parse_words("snapshot verify --threads 3 d", &o));
    CU_ASSERT(o.action == SNAPSHOT_VERIFY && !strcmp(o.dir, "d") && o.threads == 3);
    CHECK_OK(parse_words("snapshot compact d --codec=none", &o));
    CU_ASSERT(o.action == SNAPSHOT_COMPACT && !strcmp(o.recode, "none"));
    CHECK_OK(parse_words("snapshot text -- d", &o));
    CU_ASSERT(o.action == SNAPSHOT_TEXT && !strcmp(o.dir, "d"));
    CHECK_OK(parse_words("snapshot text d --id 7", &o));
    CU_ASSERT(!strcmp(o.id, "7"));
    CHECK_OK(parse_words("generate --model m --prompt p", &o));
    CU_ASSERT(o.action == N_SNAPSHOT_ACTIONS && !o.dir);

    CHECK_REFUSED(parse_words("snapshto info d", &o), "no command snapshto; did you mean snapshot?");
    CHECK_REFUSED(parse_words("snapshot", &o),
                  "needs an action first: info, verify, compact, recode or text");
    CHECK_REFUSED(parse_words("snapshot --threads 2 info d", &o), "needs an action first");
    CHECK_REFUSED(parse_words("snapshot inof d", &o),
                  "kvarve snapshot has no action inof; did you mean info?");
    CHECK_REFUSED(parse_words("snapshot verfy d", &o), "no action verfy; did you mean verify?");
    CHECK_REFUSED(parse_words("snapshot compat d", &o), "did you mean compact?");
    CHECK_REFUSED(parse_words("snapshot txet d", &o), "did you mean text?");
    CHECK_REFUSED(parse_words("snapshot my-run.kvs", &o),
                  "no action my-run.kvs; there are info, verify, compact, recode and text");
    CHECK_REFUSED(parse_words("snapshot info", &o), "kvarve snapshot info needs the directory of a snapshot");
    CHECK_REFUSED(parse_words("snapshot info a b", &o), "snapshot info takes one directory, not b as well");
    CHECK_REFUSED(parse_words("snapshot info a -- b", &o), "not b as well");
    CHECK_REFUSED(parse_words("snapshot info d --codec none", &o), "snapshot info has no option --codec");
    CHECK_REFUSED(parse_words("snapshot verify d --id 5", &o), "snapshot verify has no option --id");
    CHECK_REFUSED(parse_words("snapshot info d --model m", &o), "snapshot info has no option --model");
    CHECK_REFUSED(parse_words("snapshot verify d --thread", &o), "--thread needs a value");
    CHECK_REFUSED(parse_words("snapshot verify d --thraeds 3", &o), "did you mean --threads?");
    char *empty[] = {"kvarve", "snapshot", "info", "", NULL};
    CHECK_REFUSED(options_parse(4, empty, &o), "needs the directory");
}

static void predictions(void) {
    options o;
    CHECK_OK(
        parse_words("plan --model m --predict --measured f --ranks 64 --nodes 16 --link 25GB/s,2us", &o));
    CU_ASSERT(o.predict && !strcmp(o.measured, "f") && !o.chunk_model && o.nodes == 16 && !o.node_link);
    CHECK_OK(parse_words("plan --model m --predict --chunk-model 1,2,3,4 --node-link 1TB/s,100ns", &o));
    CU_ASSERT(!o.measured && !strcmp(o.chunk_model, "1,2,3,4") && o.nodes == OPTION_UNSET && !o.link);
    CHECK_OK(parse_words("bench --model m --measure f", &o));
    CU_ASSERT(!strcmp(o.measure, "f") && !o.measured);
    CHECK_OK(parse_words("bench --model m --measured f", &o));
    CHECK_OK(parse_words("generate --model m --prompt p --measured f", &o));
    CHECK_OK(parse_words("perplexity --model m --file t --chunk-model 0,0,1e-6,0", &o));

    static const char *const rows[][2] = {
        {"plan --predict", "--predict needs --measured FILE, which kvarve bench --measure FILE writes"},
        {"plan --measured f", "--measured is for --predict, which is not given"},
        {"plan --chunk-model 1,1,1,1", "--chunk-model is for --predict"},
        {"plan --link 1GB/s,2us", "--link is for --predict"},
        {"plan --node-link 1GB/s,2us", "--node-link is for --predict"},
        {"plan --predict --measured f --chunk-model 1,1,1,1", "takes one of --measured and --chunk-model"},
        {"plan --predict --chunk-model 1,1,1", "--chunk-model 1,1,1: expected C,G,B,A"},
        {"plan --predict --measured f --nodes 3 --ranks 2", "--nodes 3: are more than the 2 of --ranks"},
        {"plan --predict --measured f --nodes 0", "--nodes 0: expected a whole number"},
        {"plan --predict --measured f --link 25", "--link 25: expected a bandwidth and a latency"},
        {"plan --predict --measured f --node-link 2us", "--node-link 2us: expected a bandwidth"},
        {"bench --measure a --measured b", "--measured is not for --measure"},
        {"bench --measure a --chunk-model 1,1,1,1", "--chunk-model is not for --measure"},
        {"bench --chunk-model x", "--chunk-model x: expected C,G,B,A"},
        {"generate --prompt p --measured f --chunk-model 1,1,1,1", "kvarve generate takes one of --measured"},
        {"generate --prompt p --predict", "kvarve generate has no option --predict"},
        {"bench --nodes 2", "kvarve bench has no option --nodes"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char line[256];
        snprintf(line, sizeof line, "%s --model m", rows[i][0]);
        CHECK_REFUSED(parse_words(line, &o), rows[i][1]);
    }
    char *empty[] = {"kvarve", "bench", "--model", "m", "--measured=", NULL};
    CHECK_REFUSED(options_parse(5, empty, &o), "--measured");
}

static void shapes(void) {
    options o;
    CHECK_OK(parse_words("bench --shape llama-8b", &o));
    CU_ASSERT(!strcmp(o.shape, "llama-8b") && !o.model && o.vocab == OPTION_UNSET);
    CHECK_OK(parse_words("plan --shape llama-70b --vocab 258", &o));
    CU_ASSERT(o.vocab == 258);
    CHECK_OK(parse_words("generate --shape tiny --prompt p", &o));
    CHECK_OK(parse_words("perplexity --shape llama-1b --file f", &o));
    CHECK_OK(parse_words("synth --shape tiny d", &o));
    CU_ASSERT(o.command == COMMAND_SYNTH && !strcmp(o.dir, "d") && o.seed == OPTION_UNSET && o.threads == 0);
    CHECK_OK(parse_words("synth d --seed 5 --shape=tiny --vocab 524288 --threads 2", &o));
    CU_ASSERT(!strcmp(o.dir, "d") && o.seed == 5 && o.vocab == 524288 && o.threads == 2);

    static const char *const commands_on_models[] = {"generate --prompt p", "perplexity --file f", "plan",
                                                     "bench"};
    for (size_t i = 0; i < 4; i++) {
        char line[128];
        snprintf(line, sizeof line, "%s --model m --shape tiny", commands_on_models[i]);
        CHECK_REFUSED(parse_words(line, &o), "takes one of --model and --shape, not both");
        CHECK_REFUSED(parse_words(commands_on_models[i], &o), "needs --model DIR, or --shape NAME");
        snprintf(line, sizeof line, "%s --model m --vocab 300", commands_on_models[i]);
        CHECK_REFUSED(parse_words(line, &o), "--vocab is for --shape, which is not given");
    }
    CHECK_REFUSED(parse_words("bench --shape llama-9b", &o),
                  "--shape llama-9b: there is no such shape; there are tiny, llama-100m, llama-1b, llama-8b, "
                  "llama-70b");
    CHECK_REFUSED(parse_words("synth --shape huge d", &o), "--shape huge: there is no such shape");
    CHECK_REFUSED(parse_words("synth d", &o), "kvarve synth needs --shape NAME");
    CHECK_REFUSED(parse_words("synth --shape tiny", &o), "kvarve synth needs the directory to write to");
    CHECK_REFUSED(parse_words("synth --shape tiny d e", &o), "synth takes one directory, not e as well");
    CHECK_REFUSED(parse_words("synth --shape tiny d --model m", &o), "kvarve synth has no option --model");
    CHECK_REFUSED(parse_words("synth --shape tiny d --vocab 257", &o), "--vocab 257");
    CHECK_REFUSED(parse_words("synth --shape tiny d --vocab 524289", &o), "--vocab 524289");
    CHECK_REFUSED(parse_words("sytnh --shape tiny d", &o), "did you mean synth?");
}

static void missing_values(void) {
    options o;
    CHECK_REFUSED(parse_words("generate --prompt p --model", &o), "--model needs a value");
    CHECK_REFUSED(parse_words("generate --model m --prompt", &o), "--prompt needs a value");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --top-k", &o), "--top-k needs a value");
    CHECK_OK(parse_words("generate --model m --prompt --top-k",
                         &o)); /* the next word is the value, whatever it is */
    CU_ASSERT(!strcmp(o.prompt, "--top-k") && o.top_k == OPTION_UNSET);
}

static void options_of_other_commands(void) {
    static const char *const rows[][2] = {
        {"plan", "prompt x"},           {"plan", "threads 2"},       {"plan", "report x"},
        {"generate", "ranks 2"},        {"generate", "stride 5"},    {"generate", "file f"},
        {"generate", "depths 0"},       {"plan", "prefill 5"},       {"perplexity", "batch-depths 0"},
        {"perplexity", "max-tokens 5"}, {"perplexity", "seed 1"},    {"bench", "context 5"},
        {"bench", "prompt x"},          {"perplexity", "repeats 3"}, {"plan", "resume d"},
        {"perplexity", "resume d"},     {"bench", "max-time 5m"},    {"generate", "id x"},
        {"bench", "codec none"},        {"plan", "stop-file x"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        options o;
        char line[256], told[64];
        snprintf(line, sizeof line, "%s --model m --%s", rows[i][0], rows[i][1]);
        snprintf(told, sizeof told, "kvarve %s has no option --%.*s", rows[i][0],
                 (int)strcspn(rows[i][1], " "), rows[i][1]);
        CHECK_REFUSED(parse_words(line, &o), told);
    }
}

static void what_belongs_together(void) {
    options o;
    CHECK_REFUSED(parse_words("generate --prompt p", &o), "kvarve generate needs --model DIR");
    CHECK_REFUSED(parse_words("plan", &o), "kvarve plan needs --model DIR");
    CHECK_REFUSED(parse_words("generate --model m", &o),
                  "one of --prompt, --prompt-file and --input, and has 0");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --input i", &o), "and has 2");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --input i --prompt-file f", &o), "and has 3");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --output o", &o), "--output is for");
    CHECK_REFUSED(parse_words("perplexity --model m", &o), "kvarve perplexity needs --file TEXT");
    CHECK_REFUSED(parse_words("perplexity --model m --file f --keys 2", &o),
                  "--keys is for a changed cache: give");
    CHECK_REFUSED(parse_words("perplexity --model m --file f --windows 2", &o), "--windows is for a changed");
    CHECK_REFUSED(parse_words("perplexity --model m --file f --tables t", &o), "--tables is for --context");
    CHECK_OK(parse_words("perplexity --model m --file f --context-codec c --keys 2 --windows 2", &o));
    CU_ASSERT(o.keys == 2 && o.windows == 2);
    CHECK_OK(parse_words("perplexity --model m --file f --kv int8 --key-depths 10", &o));
    CHECK_REFUSED(parse_words("perplexity --model m --file f --kv bf16 --keys 2", &o),
                  "--keys is for a changed");
    CHECK_REFUSED(parse_words("perplexity --model m --file f --kv int8 --stride 2", &o),
                  "--stride is not for");
    CHECK_REFUSED(parse_words("perplexity --model m --file f --context-codec c --stride 2", &o),
                  "--stride is not for a changed cache");
    CHECK_REFUSED(parse_words("perplexity --model m --file f --key-depths 10", &o),
                  "--key-depths is for a changed cache");
    CHECK_REFUSED(parse_words("perplexity --model m --file f --context-codec c --keys 1 --key-depths 10", &o),
                  "takes one of --keys and --key-depths");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --save-every 5", &o),
                  "--save-every needs --save NAME.kvs");
    CHECK_REFUSED(parse_words("generate --model m --resume r --save-every 5m", &o),
                  "--save-every needs --save NAME.kvs");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --max-time 5m", &o),
                  "--max-time needs --save NAME.kvs");
    CHECK_REFUSED(parse_words("generate --model m --prompt p --stop-file f", &o),
                  "--stop-file needs --save NAME.kvs");
    CHECK_OK(parse_words("generate --model m --resume r", &o)); /* goes on with what the snapshot holds */
    CU_ASSERT(!strcmp(o.resume, "r") && !o.prompt);
    CHECK_OK(parse_words("generate --model m --resume r --input i --output o", &o));
    CHECK_REFUSED(parse_words("generate --model m --resume r --output o", &o), "--output is for");
    CHECK_REFUSED(parse_words("generate --model m --resume r --prompt p --input i", &o), "and has 2");
    CHECK_REFUSED(parse_words("generate --model m --save d", &o), "and has 0");
    CHECK_OK(parse_words("generate --model m --prompt-file -", &o));
    CU_ASSERT(!strcmp(o.prompt_file, "-"));
}

/* ---- help ---- */

static char *print_help(const options *o) {
    char path[128];
    size_t n;
    snprintf(path, sizeof path, "%s/help", harness_temp_dir());
    FILE *f = fopen(path, "w");
    options_print_help(o, f);
    fclose(f);
    return harness_read_file(path, &n);
}

static void help(void) {
    static const char *const lines[] = {"", "--help", "-h", "help"};
    options o;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        CHECK_OK(parse_words(lines[i], &o));
        CU_ASSERT(o.help && o.command == N_COMMANDS);
    }
    char *all = print_help(&o);
    CU_ASSERT(strstr(all, "--prompt TEXT") && strstr(all, "--ranks N") && strstr(all, "--stride N"));
    CU_ASSERT(strstr(all, "continue one prompt") && strstr(all, "bench ") &&
              strstr(all, "--precision bf16|f32") && strstr(all, "--weights bf16|int8"));
    CU_ASSERT(strstr(all, "--save-every TIME|N") && strstr(all, "--codec CODEC") &&
              strstr(all, "--transport auto|mpi|nccl") && strstr(all, "75 stopped early and saved"));
    for (char *line = strtok(all, "\n"); line; line = strtok(NULL, "\n"))
        CU_ASSERT(strlen(line) <= 120);
    free(all);
    CHECK_OK(parse_words("plan --help", &o)); /* nothing else is needed */
    CU_ASSERT(o.help && o.command == COMMAND_PLAN);
    char *plan = print_help(&o);
    CU_ASSERT(strstr(plan, "--ranks N") && !strstr(plan, "--prompt TEXT") &&
              !strstr(plan, "continue one prompt"));
    free(plan);
    CHECK_OK(parse_words("snapshot --help", &o));
    CU_ASSERT(o.help && o.command == COMMAND_SNAPSHOT && o.action == N_SNAPSHOT_ACTIONS);
    char *snapshot = print_help(&o);
    CU_ASSERT(strstr(snapshot, "--codec") && strstr(snapshot, "--id TEXT") && strstr(snapshot, "compact ") &&
              !strstr(snapshot, "--model"));
    free(snapshot);
    CHECK_OK(parse_words("snapshot text --help", &o)); /* the directory is not needed */
    char *text = print_help(&o);
    CU_ASSERT(o.help && strstr(text, "--id TEXT") && !strstr(text, "--codec"));
    free(text);
}

/* ---- the effective options ---- */

/* The words that a shell would make of the text: single quotes and \' only. */
static int split_as_shell(char *text, char **argv) {
    int argc = 0;
    for (char *from = text, *to = text; *from;) {
        argv[argc++] = to;
        for (bool quoted = false; *from && (quoted || *from != ' ');) {
            if (*from == '\'')
                quoted = !quoted, from++;
            else if (!quoted && *from == '\\')
                *to++ = from[1], from += 2;
            else
                *to++ = *from++;
        }
        bool more = *from == ' ';
        *to++ = '\0';
        from += more;
    }
    return argc;
}

static bool same(const char *a, const char *b) {
    return a && b ? !strcmp(a, b) : a == b;
}

/* Parsed again, the text gives the same text and the same values. */
static void check_round_trip(int argc, char **argv) {
    options first, second;
    CHECK_OK(options_parse(argc, argv, &first));
    char *text = options_effective(&first), *copy = strdup(text), *again[MAX_ARGS] = {argv[0], argv[1]};
    int n = 2 + split_as_shell(copy, again + 2);
    CHECK_OK(options_parse(n, again, &second));
    char *text2 = options_effective(&second);
    CU_ASSERT(!strcmp(text, text2));
    CU_ASSERT(memcmp(&first.max_tokens, &second.max_tokens, sizeof first - offsetof(options, max_tokens)) ==
              0);
    CU_ASSERT(first.stops.n == second.stops.n && same(first.model, second.model) &&
              same(first.shape, second.shape) && first.action == second.action);
    CU_ASSERT(same(first.save, second.save) && same(first.resume, second.resume) &&
              same(first.stop_file, second.stop_file) && same(first.dir, second.dir) &&
              same(first.id, second.id));
    for (int64_t i = 0; i < first.stops.n; i++)
        CU_ASSERT(!strcmp(first.stops.items[i], second.stops.items[i]));
    CU_ASSERT(same(first.prompt, second.prompt));
    free(text);
    free(text2);
    free(copy);
}

static void effective_options(void) {
    char *generate[] = {"kvarve",
                        "generate",
                        "--model",
                        "a dir/with 'quotes' \\ and \"more\"",
                        "--prompt",
                        "Tab\t, line\nand $x `y` caf\xC3\xA9 '",
                        "--temperature",
                        "0.1",
                        "--top-p",
                        "0.30000000000000004",
                        "--stop",
                        "",
                        "--stop",
                        "''",
                        "--stop",
                        "-",
                        "--max-tokens",
                        "0",
                        "--seed",
                        "9007199254740992",
                        "--echo",
                        "--kv-memory",
                        "1.5G",
                        "--precision",
                        "f32",
                        "--peer-timeout",
                        "3.3333333333333335",
                        "--transport",
                        "mpi"};
    generate[11] = " ";
    check_round_trip(sizeof generate / sizeof *generate, generate);
    char *weights[] = {"kvarve", "bench", "--model", "m", "--weights", "int8"};
    check_round_trip(6, weights);
    weights[5] = "bf16";
    check_round_trip(6, weights);
    char *plan[] = {"kvarve", "plan", "--model", "m", "--ranks", "7", "--layers-per-rank", "1,2,3"};
    check_round_trip(8, plan);
    char *predict[] = {"kvarve",     "plan",   "--model",   "m",           "--predict",
                       "--measured", "a b",    "--ranks",   "64",          "--nodes",
                       "16",         "--link", "1GB/s,2us", "--node-link", "5GB/s,1us"};
    check_round_trip(15, predict);
    char *perplexity[] = {"kvarve", "perplexity", "--model", "m",         "--file",
                          "-x",     "--stride",   "3",       "--context", "5"};
    check_round_trip(10, perplexity);
    char *bench[] = {"kvarve", "bench", "--model=m", "--depths", "", "--repeats=1"};
    check_round_trip(6, bench);

    char *save[] = {"kvarve",       "generate", "--model",    "m",         "--resume",    "a b.kvs",
                    "--save",       "'.kvs",    "--codec",    "none",      "--stop-file", "$HOME/x",
                    "--save-every", "0.1h",     "--max-time", "1-02:03:04"};
    check_round_trip(16, save);
    save[13] = "77";
    save[15] = "0.0033333333333333335h";
    check_round_trip(16, save);
    char *snapshot[] = {"kvarve", "snapshot", "text", "it's here", "--id", "a b", "--threads", "2"};
    check_round_trip(8, snapshot);
    char *synth[] = {"kvarve", "synth", "it's here", "--shape", "tiny", "--seed", "3", "--vocab", "300"};
    check_round_trip(9, synth);

    options o;
    CHECK_OK(parse_words("snapshot compact d --threads 2 --codec none", &o));
    char *compact = options_effective(&o);
    CU_ASSERT(!strcmp(compact, "compact d --codec none --threads 2 --peer-timeout 600"));
    free(compact);
    CHECK_OK(parse_words("plan --model m --memory-per-rank 2K", &o));
    char *text = options_effective(&o);
    CU_ASSERT(!strcmp(text,
                      "--model m --sequences 16 --chunk-tokens 512 --page-tokens 64 --memory-per-rank 2048 "
                      "--ranks 1 --device auto --precision bf16"));
    free(text);
}

/* Any words: a refusal or a result, and nothing else. */
static void random_words(void) {
    static const char *const words[] = {"generate",
                                        "plan",
                                        "snapshot",
                                        "info",
                                        "--id",
                                        "--save",
                                        "--max-time=5m",
                                        "--save-every",
                                        "--model",
                                        "m",
                                        "--prompt",
                                        "p",
                                        "--",
                                        "-",
                                        "---",
                                        "--=",
                                        "=",
                                        "--model=",
                                        "-=",
                                        "--stop",
                                        "\xFF\xFE",
                                        "--help",
                                        "-h",
                                        "--top-k",
                                        "5",
                                        "--echo",
                                        "%s%n",
                                        "--p",
                                        "--t=1",
                                        "-abc",
                                        "--%s%n=4",
                                        "--layers-per-rank",
                                        "''",
                                        "--context=9"};
    uint64_t state = 3;
    for (int round = 0; round < 20000; round++) {
        char line[1024] = "";
        for (uint64_t n = harness_random(&state) % 9; n > 0; n--) {
            strcat(line, " ");
            strcat(line, words[harness_random(&state) % (sizeof words / sizeof *words)]);
        }
        options o;
        status st = parse_words(line, &o);
        CU_ASSERT(st == STATUS_OK || (st == STATUS_REFUSED && *status_text()));
        if (st == STATUS_OK && !o.help) free(options_effective(&o));
    }
}

/* ---- what is asked about the program ---- */

/* What a command's help shows as an example is a command line of it. */
static void examples(void) {
    for (int i = 0; i < N_COMMANDS + N_SNAPSHOT_ACTIONS; i++) {
        options asked = {.command = i < N_COMMANDS ? (command)i : COMMAND_SNAPSHOT,
                         .action = i < N_COMMANDS ? N_SNAPSHOT_ACTIONS : (snapshot_action)(i - N_COMMANDS)},
                parsed;
        const char *example = options_example(&asked), *line = strstr(example, "kvarve ");
        CU_ASSERT_PTR_NOT_NULL(line);
        if (!line) continue;
        CHECK_OK(parse_words(line + strlen("kvarve "), &parsed));
        CU_ASSERT(parsed.command == asked.command && strlen(example) <= 110);
        if (i >= N_COMMANDS) CU_ASSERT(parsed.action == asked.action);
        char help[16384] = "", shown[256];
        FILE *f = fmemopen(help, sizeof help, "w");
        options_print_help(&asked, f);
        fclose(f);
        snprintf(shown, sizeof shown, "\nexample: %s\n", example);
        CU_ASSERT_PTR_NOT_NULL(strstr(help, shown));
    }
}

static void version(void) {
    options o;
    CHECK_OK(parse_words("--version", &o));
    CU_ASSERT(o.version && !o.help && o.command == N_COMMANDS);
    CHECK_OK(parse_words("generate --help", &o));
    CU_ASSERT(!o.version && o.help);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"defaults", defaults},
        {"given values", given_values},
        {"ends of the ranges", ends_of_the_ranges},
        {"bad values", bad_values},
        {"times", times},
        {"save every", save_every},
        {"codecs", codecs},
        {"failures on demand", failures_on_demand},
        {"stops", stops},
        {"misspelt options", misspelt_options},
        {"weights with precision", weights_with_precision},
        {"one edit away", one_edit_away},
        {"commands", commands},
        {"snapshot actions", snapshot_actions},
        {"predictions", predictions},
        {"shapes", shapes},
        {"missing values", missing_values},
        {"options of other commands", options_of_other_commands},
        {"what belongs together", what_belongs_together},
        {"help", help},
        {"examples", examples},
        {"version", version},
        {"effective options", effective_options},
        {"random words", random_words},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "options", tests);
}
