/* src/study/changed_cache.h: `kvarve perplexity --context-codec` and `--kv`: what a cache that is not exact
 * does to the tokens behind a context. */
#pragma once

#include "mpi/comm.h"
#include "src/command/options.h"

/* Windows of --context tokens and --scored more of --file: the latter are scored twice, in the exact cache
 * and in the changed one; prints the differences, paired, with intervals over windows. So are the digits of
 * --keys that stand in each context, each asked for behind it in a session of its own, which reads it again.
 *
 * A codec changes the context when all of it is there, so that one engine has both caches. Where options
 * change the pages themselves (options_change_pages), what is computed of the context is changed too: then
 * the same ranks run an engine with exact pages, and when that is closed another, which loads the weights
 * again, with those that are asked for. Between them the last rank keeps the distributions of all scored
 * tokens, which the plan counts. Collective; the exit code. */
int changed_cache_run(comm *c, const options *o);
