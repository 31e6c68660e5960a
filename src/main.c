/* kvarve: long-context generation from language models over MPI ranks. */
#include <stdio.h>

#include "mpi/comm.h"
#include "mpi/placement/launcher.h"
#include "src/base/fault.h"
#include "src/base/notice.h"
#include "src/command/options.h"
#include "src/command/paths.h"
#include "src/command/run.h"
#include "src/command/version.h"

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
    case COMMAND_CALIBRATE:
        return command_calibrate(c, o);
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

/* What is computed is shared out over ranks, and so is some work on files where a launcher started several
 * processes. Nothing else starts MPI. */
static bool uses_ranks(const options *o) {
    if (o->help || o->version) return false;
    switch (o->command) {
    case COMMAND_GENERATE:
    case COMMAND_PERPLEXITY:
    case COMMAND_BENCH:
    case COMMAND_CALIBRATE:
        return true;
    case COMMAND_SYNTH:
        return launcher_rank() >= 0;
    case COMMAND_SNAPSHOT:
        return o->action != SNAPSHOT_INFO && o->action != SNAPSHOT_TEXT && launcher_rank() >= 0;
    case COMMAND_TOKENIZE:
    case COMMAND_PLAN:
    case N_COMMANDS:
        break;
    }
    return false;
}

/* All that follows the command line; the exit code. */
static int run_options(comm *c, const options *o) {
    status st = paths_check_stdin(c, o);
    if (st == STATUS_OK && o->fail_at) st = fault_arm(o->fail_at, comm_rank(c));
    if (st != STATUS_OK) return run_say_failure(c, st);
    if (!o->help && !o->version) {
        if (comm_rank(c) == 0) st = paths_check_written(o);
        if (st == STATUS_OK) st = fault_at("begin");
        int code = comm_any_failed(c, &st) ? run_say_failure(c, st) : run_command(c, o);
        st = fault_at("end");
        return st == STATUS_OK ? code : run_say_failure(c, st);
    }
    if (o->help)
        options_print_help(o, stdout);
    else
        version_print(stdout);
    return EXIT_CODE_OK;
}

int main(int argc, char **argv) {
    comm *c;
    options o;
    status parsed = options_parse(argc, argv, &o), st = STATUS_OK;
    /* What is refused is agreed on where there are others: they all end with one code. */
    bool with_mpi = parsed == STATUS_OK ? uses_ranks(&o) : launcher_rank() >= 0;
    if (!with_mpi && launcher_rank() > 0) return EXIT_CODE_OK; /* process 0 does it, and has the exit code */
    if (with_mpi)
        st = comm_open(&argc, &argv, &c);
    else
        c = comm_open_alone();
    if (st != STATUS_OK) {
        fprintf(stderr, "kvarve: error: %s\n", status_text());
        return status_exit_code(st);
    }
    if (parsed == STATUS_OK) comm_set_deadline(c, o.peer_timeout);
    int code = parsed == STATUS_OK ? run_options(c, &o) : run_say_failure(c, parsed);
    if (comm_rank(c) == 0) notice_print_new(stderr); /* of a run that did not come to its table */
    if (code == EXIT_CODE_OK)
        code = check_stdout(c);
    else
        fflush(stdout); /* where one has failed, a launcher may kill the others before they come to that */
    code = agree_on_code(c, code);
    comm_close(c);
    return code;
}
