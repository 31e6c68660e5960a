/* src/study/predict.h: `kvarve plan --predict`: tables of how fast a model would be over 1, 2, 4 ... ranks.
 * Rank 0. Local. */
#pragma once

#include "src/command/options.h"
#include "src/model/plan.h"

/* Simulate (src/study/simulate.h) one prompt of --context tokens, and decode behind as many, over each number
 * of ranks up to --ranks, and print what comes of it. A number of ranks that has no plan is told instead.
 * Refuses --measured files and models that do not fit together. */
status predict_print(const options *o, const model_config *config, const sizing *s);
