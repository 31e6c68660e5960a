/* tests/command/test_commands.c: commands: the options that they have, what belongs together, and what they
 * say of themselves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/command/options.h"
#include "tests/fixtures/command_words.h"
#include "tests/fixtures/harness.h"

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
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "commands", tests);
}
