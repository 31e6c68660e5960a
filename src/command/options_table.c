#include <stdlib.h>
#include <string.h>

#include "src/command/options_private.h"

#define GENERATE   (1u << COMMAND_GENERATE)
#define PERPLEXITY (1u << COMMAND_PERPLEXITY)
#define TOKENIZE   (1u << COMMAND_TOKENIZE)
#define PLAN       (1u << COMMAND_PLAN)
#define BENCH      (1u << COMMAND_BENCH)
#define CALIBRATE  (1u << COMMAND_CALIBRATE)
#define RUNS       (GENERATE | PERPLEXITY | BENCH | CALIBRATE)
#define MODEL      (RUNS | PLAN) /* the commands on a model */
#define SYNTH      (1u << COMMAND_SYNTH)
#define ACTION(a)  (1u << (N_COMMANDS + (a)))
#define REWRITES   (ACTION(SNAPSHOT_COMPACT) | ACTION(SNAPSHOT_RECODE))
#define SNAPSHOT   (ACTION(SNAPSHOT_INFO) | ACTION(SNAPSHOT_VERIFY) | ACTION(SNAPSHOT_TEXT) | REWRITES)
#define AT(field)  offsetof(options, field)

static const double most = 9007199254740992.0; /* 2^53 */

const option_spec options_table[] = {
    {"model", &option_path, MODEL | TOKENIZE, AT(model), NULL, "or --shape", 0, 0,
     "model directory, as downloaded from Hugging Face"},
    {"shape", &option_text, MODEL | TOKENIZE | SYNTH, AT(shape), NULL, "or --model", 0, 0,
     "random weights: tiny, llama-100m, llama-1b, llama-8b, llama-70b"},
    {"vocab", &option_integer, MODEL | TOKENIZE | SYNTH, AT(vocab), NULL, "shape's", 258, 524288,
     "tokens that --shape knows"},
    {"prompt", &option_text, GENERATE | TOKENIZE, AT(prompt), NULL, "", 0, 0, "text to continue"},
    {"prompt-file", &option_input, GENERATE | TOKENIZE, AT(prompt_file), NULL, "", 0, 0,
     "file whose text is continued; - is stdin"},
    {"text", &option_output, GENERATE, AT(text), NULL, "stdout", 0, 0,
     "file for the text of one prompt, which is in it as it comes"},
    {"input", &option_input, GENERATE, AT(input), NULL, "", 0, 0,
     "prompts, one JSON object a line; - is stdin"},
    {"output", &option_output, GENERATE | CALIBRATE, AT(output), NULL, "stdout", 0, 0,
     "results of --input, a JSON object a line; or the tables"},
    {"save", &option_path, GENERATE | PLAN, AT(save), NULL, "", 0, 0, "NAME.kvs to keep the KV cache in"},
    {"resume", &option_path, GENERATE, AT(resume), NULL, "", 0, 0,
     "snapshot to go on from; one that does not exist yet starts afresh"},
    {"load", &option_load, GENERATE, AT(load), "full", NULL, 0, 0,
     "auto: computed where faster; base: coarse first"},
    {"io-bandwidth", &option_bytes, GENERATE, AT(io_bandwidth), NULL, "no limit", 1, most,
     "bytes a second that a rank reads of --resume, such as 100M"},
    {"max-distortion", &option_real, GENERATE, AT(max_distortion), NULL, "no limit", 1e-9, 1,
     "that codecs may have left in what is loaded; 0.01 is little"},
    {"deadline", &option_time, GENERATE, AT(deadline_seconds), NULL, "", 0.001, 1e9,
     "of the first token of --resume, as 2s; auto: bases, if needed"},
    {"load-log", &option_output, GENERATE, AT(load_log), NULL, "", 0, 0,
     "write how each chunk of --resume came, and when, as CSV"},
    {"save-every", &option_every, GENERATE, AT(save_every_seconds), NULL, "at the end", 0.001, 1e9,
     "15m, 90s, 2h: a time; a plain number: new tokens; needs --save"},
    {"max-time", &option_time, GENERATE, AT(max_time_seconds), NULL, "", 0.001, 1e9,
     "save and end then: [D-]HH:MM:SS, 90s, 30m or 12h; needs --save"},
    {"stop-file", &option_path, GENERATE, AT(stop_file), NULL, "", 0, 0,
     "save and end when this file appears; needs --save"},
    {"codec", &option_codec, GENERATE, AT(codec), "lossless", NULL, 0, 0,
     "of what is saved: lossless, none, or smaller: kvarve:small:3 ..."},
    {"codec", &option_text, REWRITES, AT(recode), NULL, "as it is", 0, 0,
     "of what is written: lossless, none, kvarve:small:3 ..."},
    {"id", &option_text, ACTION(SNAPSHOT_TEXT), AT(id), NULL, "all", 0, 0,
     "only the sequence of the prompt of this id"},
    {"file", &option_input, PERPLEXITY, AT(file), NULL, "required", 0, 0, "text to score"},
    {"context-codec", &option_text, PERPLEXITY, AT(context_codec), NULL, "", 0, 0,
     "score behind contexts that went through it"},
    {"scored", &option_integer, PERPLEXITY, AT(scored), "256", NULL, 1, 1048576,
     "tokens to score behind each context of a changed cache"},
    {"keys", &option_integer, PERPLEXITY, AT(keys), "0", NULL, 0, 16,
     "pass keys in each context, which is read again to ask for one"},
    {"key-depths", &option_text, PERPLEXITY, AT(key_depths), NULL, "--keys", 0, 0,
     "instead: percent of a context before each key, as 10,50,90"},
    {"tables", &option_input, PERPLEXITY, AT(tables), NULL, "", 0, 0,
     "what kvarve calibrate wrote, for codecs that are not exact"},
    {"tables", &option_input, GENERATE | REWRITES, AT(tables), NULL, "snapshot's", 0, 0,
     "of kvarve calibrate, or generic; or of what is saved"},
    {"sample", &option_texts, CALIBRATE, AT(samples), NULL, "required", 0, 0,
     "text like those to come; may be given 16 times"},
    {"windows", &option_integer, PERPLEXITY | CALIBRATE, AT(windows), NULL, "all; 8", 1, 1048576,
     "of the text at most, spread over it"},
    {"max-tokens", &option_integer, GENERATE | PLAN, AT(max_tokens), NULL, "256", 0, 2147483647,
     "tokens to generate at most; 0 only reads the prompt"},
    {"temperature", &option_real, GENERATE, AT(temperature), NULL, "model's", 0, 100,
     "0 takes the likeliest token"},
    {"top-k", &option_integer, GENERATE, AT(top_k), NULL, "model's", -1, 2147483647,
     "draw among the k likeliest; 0 or -1 is all"},
    {"top-p", &option_real, GENERATE, AT(top_p), NULL, "model's", 0, 1,
     "draw among the likeliest that sum to p"},
    {"min-p", &option_real, GENERATE, AT(min_p), NULL, "model's", 0, 1,
     "draw among those at least p times the likeliest"},
    {"repetition-penalty", &option_real, GENERATE, AT(repetition_penalty), NULL, "model's", 0, 100,
     "above 1 makes tokens seen before less likely"},
    {"seed", &option_integer, GENERATE | SYNTH, AT(seed), NULL, "0", 0, 9007199254740992.0,
     "of the draws; synth: of the weights"},
    {"stop", &option_texts, GENERATE, AT(stops), NULL, "", 0, 0,
     "end before this text; may be given 16 times"},
    {"ignore-eos", &option_flag, GENERATE, AT(ignore_eos), NULL, "", 0, 0,
     "go on behind the model's end token"},
    {"echo", &option_flag, GENERATE, AT(echo), NULL, "", 0, 0, "print the prompt before what is generated"},
    {"logprobs", &option_integer, GENERATE, AT(logprobs), NULL, "0", 0, 20,
     "likeliest tokens to tell with each token"},
    {"context", &option_integer, GENERATE | PERPLEXITY | PLAN | CALIBRATE, AT(context), NULL, "model's", 1,
     1099511627776.0, "tokens of a sequence, prompt and generated; perplexity: 2048"},
    {"stride", &option_integer, PERPLEXITY, AT(stride), NULL, "context", 1, 1099511627776.0,
     "tokens from one window to the next; only new ones are scored"},
    {"add-bos", &option_flag, PERPLEXITY, AT(add_bos), NULL, "", 0, 0,
     "begin each window, or context, with the model's begin token"},
    {"sequences", &option_integer, MODEL, AT(sequences), "16", NULL, 1, 65536, "sequences at once at most"},
    {"chunk-tokens", &option_integer, MODEL, AT(chunk_tokens), "512", NULL, 1, 65536,
     "rows of a step through the pipeline"},
    {"page-tokens", &option_integer, MODEL, AT(page_tokens), "64", NULL, KV_PAGE_QUANTUM, 65536,
     "positions of a KV page, a multiple of 32"},
    {"kv-memory", &option_bytes, GENERATE | PERPLEXITY | PLAN | CALIBRATE, AT(kv_memory), NULL, "as needed",
     1, most, "KV cache of a rank, such as 8G"},
    {"kv-host", &option_bytes, GENERATE | PERPLEXITY | PLAN, AT(kv_host), NULL, "", 1, most,
     "of a GPU's host, for KV pages beyond its memory; of each rank"},
    {"kv-disk", &option_disk, GENERATE | PERPLEXITY | PLAN, AT(kv_disk), NULL, "", 1, most,
     "of a node, for KV pages beyond memory; bytes of each rank"},
    {"memory-per-rank", &option_bytes, MODEL, AT(memory_per_rank), NULL, "90% of free", 1, most,
     "all that a rank may take of its host or GPU"},
    {"layers-per-rank", &option_text, MODEL, AT(layers_per_rank), NULL, "best", 0, 0,
     "layers of each rank, such as 10,12,10"},
    {"ranks", &option_integer, PLAN, AT(ranks), "1", NULL, 1, 65536, "ranks to plan for"},
    {"predict", &option_flag, PLAN, AT(predict), NULL, "", 0, 0,
     "how fast it will be over 1, 2, 4 ... --ranks"},
    {"measured", &option_input, MODEL, AT(measured), NULL, "", 0, 0,
     "file of bench --measure: predict from it; run chunks of equal time"},
    {"chunk-model", &option_text, MODEL, AT(chunk_model), NULL, "", 0, 0,
     "the same from C,G,B,A, the seconds of src/timing/chunk_model.h"},
    {"nodes", &option_integer, PLAN, AT(nodes), NULL, "1", 1, 65536,
     "that --ranks are on, shared out evenly"},
    {"link", &option_text, PLAN, AT(link), NULL, "25GB/s,2us", 0, 0,
     "bandwidth and latency between nodes, with --predict"},
    {"node-link", &option_text, PLAN, AT(node_link), NULL, "10GB/s,20us", 0, 0, "the same within a node"},
    {"threads", &option_integer, RUNS | SNAPSHOT | SYNTH, AT(threads), "0", NULL, 0, 1024,
     "of a rank; 0 shares this host's processors"},
    {"device", &option_device, MODEL, AT(device), "auto", NULL, 0, 0,
     "what computes; auto takes GPUs where every rank sees one"},
    {"precision", &option_precision, MODEL, AT(precision), "bf16", NULL, 0, 0,
     "of matrices and KV cache: bf16, or f32 to check"},
    {"kv", &option_kv, GENERATE | PERPLEXITY | PLAN | BENCH, AT(kv), NULL, "precision's", 0, 0,
     "int8, int4 (the CPU only): 53% or 28% of the KV cache's memory"},
    {"evict", &option_evict, GENERATE | PERPLEXITY | PLAN | BENCH, AT(evict), NULL, "", 0, 0,
     "keep part of a prompt's KV, such as expected:0.5; the CPU only"},
    {"evict-every", &option_integer, GENERATE | PERPLEXITY | PLAN, AT(evict_every), NULL, "once",
     EVICT_QUERIES, most, "evict again behind so many new tokens; needs --evict"},
    {"prefill", &option_text, BENCH, AT(prefill), "512", NULL, 0, 0,
     "lengths of prompts to measure, or none"},
    {"weights", &option_weights, MODEL, AT(weights), NULL, "precision's", 0, 0,
     "int8: decodes one text nearly twice as fast; the CPU only"},
    {"depths", &option_text, BENCH, AT(depths), "0,1024,4096", NULL, 0, 0, "contexts at which to measure"},
    {"decode-depths", &option_text, BENCH, AT(decode_depths), NULL, "depths", 0, 0,
     "contexts of one sequence's decode, or none"},
    {"batch-depths", &option_text, BENCH, AT(batch_depths), "0", NULL, 0, 0,
     "contexts at which to measure --sequences at once"},
    {"repeats", &option_integer, BENCH, AT(repeats), "3", NULL, 1, 100,
     "measurements of each, of which the median counts"},
    {"measure", &option_output, BENCH, AT(measure), NULL, "", 0, 0,
     "time steps at --depths into this file, for --measured"},
    {"peer-timeout", &option_real, RUNS | SYNTH | ACTION(SNAPSHOT_VERIFY) | REWRITES, AT(peer_timeout), "600",
     NULL, 1, 1e9, "seconds to wait for ranks of which nothing is heard"},
    {"transport", &option_transport, RUNS, AT(transport), "auto", NULL, 0, 0,
     "of activations between ranks: nccl between GPUs, or mpi"},
    {"report", &option_output, RUNS, AT(report), NULL, "", 0, 0,
     "write figures of the run to this file, as JSON"},
#ifdef KVARVE_FAULTS
    {"fail-at", &option_text, GENERATE | SNAPSHOT, AT(fail_at), NULL, "", 0, 0,
     "for tests: SITE[:RANK[:WHAT]] where to fail on purpose"},
#endif
    {"help", &option_flag, MODEL | TOKENIZE | SNAPSHOT | SYNTH, AT(help), NULL, "", 0, 0, "print this table"},
};

const int n_options = sizeof options_table / sizeof *options_table;
_Static_assert(sizeof options_table / sizeof *options_table <= OPTIONS_MAX, "raise OPTIONS_MAX");

static const struct {
    const char *name, *help, *example;
} commands[N_COMMANDS] =
    {
        [COMMAND_GENERATE] = {"generate", "continue one prompt, or a file of prompts",
                              "mpirun -n 2 kvarve generate --model DIR --prompt-file page.txt --max-tokens "
                              "100 --save page.kvs"},
        [COMMAND_PERPLEXITY] = {"perplexity", "score a text: negative log-likelihood per token",
                                "mpirun -n 2 kvarve perplexity --model DIR --file book.txt --context 4096"},
        [COMMAND_TOKENIZE] = {"tokenize", "ids and pieces of a prompt; needs no weights",
                              "kvarve tokenize --model DIR --prompt-file page.txt"},
        [COMMAND_PLAN] =
            {"plan", "what each rank would own, and whether it fits; loads nothing",
             "kvarve plan --model DIR --ranks 8 --context 131072 --sequences 4 --memory-per-rank 64G"},
        [COMMAND_BENCH] =
            {"bench", "prefill and decode speed beside what this machine can do",
             "mpirun -n 2 kvarve bench --model DIR --prefill 512 --depths 0,4096 --sequences 4"},
        [COMMAND_CALIBRATE] =
            {"calibrate", "read sample texts once, for codecs that must know a model's KV cache",
             "mpirun -n 2 kvarve calibrate --model DIR --sample novel.txt --sample code.py --output DIR.kvt"},
        [COMMAND_SYNTH] = {"synth", "write a model of random weights to directory DIR, to measure with",
                           "kvarve synth --shape llama-1b llama-1b.random"},
        [COMMAND_SNAPSHOT] = {"snapshot", "look into the snapshot in directory DIR, or tidy it:",
                              "kvarve snapshot info page.kvs"},
},
  actions[N_SNAPSHOT_ACTIONS] = {
      [SNAPSHOT_INFO] = {"info", "model, sequences, tokens, sizes, and where it came from",
                         "kvarve snapshot info page.kvs"},
      [SNAPSHOT_VERIFY] = {"verify", "read all of it and check every checksum",
                           "mpirun -n 4 kvarve snapshot verify page.kvs"},
      [SNAPSHOT_COMPACT] = {"compact", "merge its files into few, and drop what no sequence needs",
                            "kvarve snapshot compact page.kvs --codec lossless"},
      [SNAPSHOT_RECODE] = {"recode", "the same, by another codec",
                           "kvarve snapshot recode page.kvs --codec kvarve:small:3 --tables DIR.kvt"},
      [SNAPSHOT_TEXT] = {"text", "prompts and generated texts", "kvarve snapshot text page.kvs --id 7"},
};

const char *options_example(const options *o) {
    bool has_action = o->command == COMMAND_SNAPSHOT && o->action != N_SNAPSHOT_ACTIONS;
    return has_action ? actions[o->action].example : commands[o->command].example;
}

const char *options_command_name(command c) {
    return commands[c].name;
}

const char *options_action_name(snapshot_action a) {
    return actions[a].name;
}

bool options_have(const options *o, const option_spec *spec) {
    if (o->command == N_COMMANDS) return true;
    unsigned mask = 1u << o->command;
    if (o->command == COMMAND_SNAPSHOT) mask = o->action == N_SNAPSHOT_ACTIONS ? SNAPSHOT : ACTION(o->action);
    return spec->commands & mask;
}

static void print_row(const option_spec *spec, FILE *to) {
    char name[64], range[48] = "";
    bool numeric = spec->type == &option_integer || spec->type == &option_real;
    text_buffer takes = {0};
    option_type_append_names(spec->type, "|", "|", &takes);
    snprintf(name, sizeof name, "--%s %s", spec->name, spec->type->name ? takes.data : spec->type->takes);
    free(takes.data);
    if (numeric && spec->max >= 1e9)
        snprintf(range, sizeof range, "%.6g ..", spec->min);
    else if (numeric)
        snprintf(range, sizeof range, "%.6g .. %.6g", spec->min, spec->max);
    fprintf(to, "  %-25s %-12s %-12s %s\n", name, spec->fallback ? spec->fallback : spec->unset, range,
            spec->help);
}

void options_print_help(const options *o, FILE *to) {
    fprintf(to, "kvarve: long-context generation from language models over MPI ranks\n\n"
                "usage: [mpirun -n RANKS] kvarve COMMAND [options]\n"
                "       kvarve COMMAND --help      its options, and an example\n"
                "       kvarve --version           and what it was built with\n"
                "       kvarve snapshot info|verify|compact|recode|text DIR [options]\n"
                "       [mpirun -n RANKS] kvarve synth --shape NAME DIR [options]\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (o->command == N_COMMANDS || o->command == (command)i)
            fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].help);
    for (int i = 0; i < N_SNAPSHOT_ACTIONS; i++)
        if (o->command == N_COMMANDS || o->command == COMMAND_SNAPSHOT)
            fprintf(to, "    %-10s %s\n", actions[i].name, actions[i].help);
    fprintf(to, "\n  %-25s %-12s %-12s %s\n", "option", "default", "range", "what it does");
    for (int i = 0; i < n_options; i++)
        if (options_have(o, &options_table[i])) print_row(&options_table[i], to);
    if (o->command != N_COMMANDS) fprintf(to, "\nexample: %s\n", options_example(o));
    fprintf(to,
            "\nText goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the machine failed,\n"
            "2 the input was refused, 3 some lines of --input were refused,\n"
            "75 stopped early and saved: more to do.\n");
}
