/* kvarve: long-context generation from language models over MPI ranks. */
#include <stdio.h>

#include "mpi/comm.h"
#include "src/base/fault.h"
#include "src/base/notice.h"
#include "src/options.h"
#include "src/run.h"

static int run_command(comm *c, const options *o) {
    switch (o->command) {
    case COMMAND_GENERATE:
        return command_generate(c, o);
    case COMMAND_PERPLEXITY:
        return command_perplexity(c, o);
    case COMMAND_TOKENIZE:
        return command_tokenize(c, o);
    case COMMAND_PLAN:
        return command_plan(c, o);
    case COMMAND_BENCH:
        return command_bench(c, o);
    case COMMAND_SYNTH:
        return command_synth(c, o);
    case COMMAND_SNAPSHOT:
        return command_snapshot(c, o);
    case N_COMMANDS:
        break;
    }
    return EXIT_CODE_REFUSED;
}

/* Text that did not reach stdout (a full disk) is no success. */
static int check_stdout(const comm *c) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_CODE_OK;
    return run_say_failure(c, status_fail("stdout: not all of the text could be written"));
}

/* The largest of the ranks' codes: of different ones, a launcher gives whichever it likes, or all of their
 * bits. Collective. */
static int agree_on_code(comm *c, int code) {
    return (int)-comm_min(c, -code);
}

int main(int argc, char **argv) {
    comm *c;
    options o;
    status st = comm_open(&argc, &argv, &c);
    if (st != STATUS_OK) {
        fprintf(stderr, "kvarve: error: %s\n", status_text());
        return status_exit_code(st);
    }
    int code = EXIT_CODE_OK;
    st = options_parse(argc, argv, &o);
    if (st == STATUS_OK) st = run_check_stdin(c, &o);
    if (st == STATUS_OK && o.fail_at) st = fault_arm(o.fail_at, comm_rank(c));
    if (st != STATUS_OK) {
        code = run_say_failure(c, st);
    } else if (o.help) {
        if (comm_rank(c) == 0) options_print_help(&o, stdout);
    } else {
        code = run_command(c, &o);
    }
    if (comm_rank(c) == 0) notice_print_new(stderr); /* of a run that did not come to its table */
    if (code == EXIT_CODE_OK) code = check_stdout(c);
    code = agree_on_code(c, code);
    comm_close(c);
    return code;
}
