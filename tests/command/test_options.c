/* tests/command/test_options.c: values of options: as they are read, and as they are written again. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/comm.h"
#include "src/command/options.h"
#include "tests/fixtures/command_words.h"
#include "tests/fixtures/harness.h"

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
        {"effective options", effective_options},
        {"random words", random_words},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "options", tests);
}
