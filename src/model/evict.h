/* src/model/evict.h: which tokens a sequence's layers without a window keep when its prompt is in the cache
 * (--evict), and again each time so many more are (--evict-every): policies, how many places stay, and which.
 * Pure. Local.
 *
 * A share is one of the prompt's places: what it comes to stays the budget of what is generated behind.
 *
 * Each kv head keeps places of its own, as many as the others of its layer: heads that compete for places
 * (AdaKV) find fewer of the facts that a question asks for. The first SINKS places always stay, and the last
 * ones; of those between, the ones with the highest scores. Equal scores: the later place stays.
 *
 * window    no scores: the first and the last places (StreamingLLM, arXiv 2309.17453)
 * h2o       attention that all rows pay to a place, summed; half of what stays is the last (arXiv 2306.14048)
 * snapkv    the same of the last QUERIES rows, averaged over 5 places (arXiv 2404.14469)
 * pyramid   the same with more places in the first layers and fewer in the last ones (arXiv 2406.02069)
 * expected  attention that rows to come are expected to pay, times the value's norm (arXiv 2510.00636):
 *           (p + 0.3 / places) |v|, p = softmax over all places of k.m / sqrt(K) + k'Sk / (2 K), the mean
 * over the heads that share k; m and S: mean and covariance of what queries were before rope, but those of
 * the first places, turned by the rope of the next 512 positions on average */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

typedef enum evict_kind {
    EVICT_NOTHING,
    EVICT_WINDOW,
    EVICT_H2O,
    EVICT_SNAPKV,
    EVICT_PYRAMID,
    EVICT_EXPECTED,
    N_EVICT_KINDS
} evict_kind;

enum {
    EVICT_SINKS = 4,
    EVICT_QUERIES = 64,
    EVICT_AHEAD = 512,         /* positions that are expected to look back */
    EVICT_LEAST_PLACES = 128,  /* that scores choose of: fewer are never kept */
    EVICT_LEAST_QUERIES = 512, /* whose mean and covariance are as good as those of all */
    EVICT_TEXT_BYTES = 64,
};

typedef struct evict_policy {
    evict_kind kind;
    double share;    /* of a layer's places; 0: not a share but */
    int64_t n;       /* so many of them; of a window the last ones, */
    int64_t n_sinks; /* and the first ones */
    int64_t every;   /* tokens, at least QUERIES, behind which it is time again; 0: never */
} evict_policy;

/* "expected:0.5", "h2o:50%", "snapkv:4096", "window:4,4096". Refuses what is none. */
status evict_parse(const char *text, evict_policy *out);
void evict_text(const evict_policy *p, char text[EVICT_TEXT_BYTES]); /* what parses to it, once */

/* Places that stay, where there are more, in the layer number `layer` of the model's n_layers without a
 * window, when n_tokens of a sequence whose prompt had n_prompt are in the cache. */
int64_t evict_places(const evict_policy *p, int64_t n_prompt, int64_t n_tokens, int layer, int n_layers);

/* Those of the prompt in the layer where most stay. */
int64_t evict_most_places(const evict_policy *p, int64_t n_prompt);

/* Does any go anywhere when so many are there: the prompt, or later, when it is time again? */
bool evict_removes(const evict_policy *p, int64_t n_prompt, int64_t n_tokens);

/* The most places that the layer has from there on until there are n_tokens. */
int64_t evict_places_behind(const evict_policy *p, int64_t n_prompt, int64_t n_tokens, int layer,
                            int n_layers);

/* Rows of the end of a prompt whose queries a policy needs at least: what is loaded has none. */
int64_t evict_least_rows(const evict_policy *p);

/* Every score becomes the mean over 5 places around it. */
void evict_smooth(double *scores, int64_t n_places);

/* kept[n_kept]: the places of a head that stay, which rise. scores[n_places]; NULL: of a window. A NaN is
 * less than all numbers. */
void evict_choose(const evict_policy *p, const double *scores, int64_t n_places, int64_t n_kept,
                  int32_t *kept);
