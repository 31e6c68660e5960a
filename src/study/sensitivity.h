/* src/study/sensitivity.h: how much errors of K or of V of a layer bend what comes behind them: a context is
 * read once for each of them, with noise in its pages, and the next-token distributions behind it are
 * compared with those behind the context as it is. (Gradients would say it at once, and kvarve has none.) */
#pragma once

#include "mpi/comm.h"
#include "src/engine/engine.h"
#include "src/study/windows.h"

typedef struct sensitivity sensitivity;

/* Of contexts of n_context tokens and n_scored tokens behind each; the sessions' sequence ids begin at
 * first_id. Local. */
sensitivity *sensitivity_open(const model_config *config, dtype type, int64_t n_windows, int64_t n_context,
                              int64_t n_scored, int64_t first_id);
void sensitivity_close(sensitivity *s); /* NULL is fine */

/* Read the beginnings of the first windows, while the other ranks serve. Rank 0. */
void sensitivity_run(sensitivity *s, engine *e, const window_list *w);

/* What a probe (src/engine/probe.h) calls for sessions of these ids. Local. */
bool sensitivity_has(const sensitivity *s, int64_t sequence_id);
status sensitivity_bend(sensitivity *s, kv_cache *kv, slice own, int slot, int64_t n, int64_t sequence_id);
void sensitivity_take(sensitivity *s, int64_t sequence_id, int64_t pos, const float *logits);

/* importance[n_layers, N_KV_PARTS]: how much finer than their size says they should be coded: the fourth root
 * of what noise of their size did, around 1. (The square root would be best if the measurement were exact,
 * and errors alike; few tokens decide it, and half of it in logarithms serves others better.) Collective. */
void sensitivity_importance(const sensitivity *s, comm *c, double *importance);
