/* src/study/context_codec.h: `kvarve perplexity --context-codec`: what a lossy codec of the KV cache does to
 * the tokens behind a context. */
#pragma once

#include "mpi/comm.h"
#include "src/command/options.h"

/* Windows of --context tokens and --scored more of --file: the latter are scored twice, behind the context as
 * it was computed, and behind the same that was encoded and decoded; prints the differences, paired, with
 * intervals over windows. So are the digits of --keys that stand in each context, each asked for behind it in
 * a session of its own, which reads it again. Collective; the exit code. */
int context_codec_run(comm *c, const options *o);
