#include "src/model/evict.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

static const char *const names[N_EVICT_KINDS] = {[EVICT_WINDOW] = "window",
                                                 [EVICT_H2O] = "h2o",
                                                 [EVICT_SNAPKV] = "snapkv",
                                                 [EVICT_PYRAMID] = "pyramid",
                                                 [EVICT_EXPECTED] = "expected"};

/* ---- texts ---- */

/* A whole number from `least` on, which ends with this character; moves behind it. */
static bool read_count(const char **text, int64_t least, char ends_with, int64_t *out) {
    static const int64_t most = (int64_t)1 << 40;
    char *end;
    errno = 0;
    const long long n = strtoll(*text, &end, 10);
    if (end == *text || *end != ends_with || errno || n < least || n > most) return false;
    *out = n;
    *text = end + (ends_with != '\0');
    return true;
}

/* 0.5 or 50%. */
static bool read_share(const char *text, double *out) {
    char *end;
    double share = strtod(text, &end);
    if (end == text || !strpbrk(text, ".%")) return false;
    if (*end == '%') {
        share /= 100;
        end++;
    }
    if (*end || !(share > 0 && share <= 1)) return false;
    *out = share;
    return true;
}

static status parse_budget(const char *budget, evict_policy *p) {
    const char *at = budget;
    if (p->kind == EVICT_WINDOW) {
        if (read_count(&at, 0, ',', &p->n_sinks) && read_count(&at, 1, '\0', &p->n)) return STATUS_OK;
        return status_refuse(
            "expected window:FIRST,LAST, the places that stay at the begin and at the end, such "
            "as window:4,1024");
    }
    if (read_share(budget, &p->share) || read_count(&at, EVICT_LEAST_PLACES, '\0', &p->n)) return STATUS_OK;
    return status_refuse(
        "expected behind the colon what stays: a share above 0 up to 1, such as 0.5 or 50%%, or "
        "places of each layer, at least %d",
        EVICT_LEAST_PLACES);
}

status evict_parse(const char *text, evict_policy *out) {
    const size_t n = strcspn(text, ":");
    evict_policy p = {0};
    for (int kind = EVICT_NOTHING + 1; kind < N_EVICT_KINDS; kind++)
        if (strlen(names[kind]) == n && !strncmp(text, names[kind], n)) p.kind = (evict_kind)kind;
    if (p.kind == EVICT_NOTHING || text[n] == '\0')
        return status_refuse(
            "expected window:FIRST,LAST, or h2o, snapkv, pyramid or expected with what stays, such "
            "as expected:0.5");
    const status st = parse_budget(text + n + 1, &p);
    if (st == STATUS_OK) *out = p;
    return st;
}

void evict_text(const evict_policy *p, char text[EVICT_TEXT_BYTES]) {
    if (p->kind == EVICT_WINDOW)
        snprintf(text, EVICT_TEXT_BYTES, "%s:%lld,%lld", names[p->kind], (long long)p->n_sinks,
                 (long long)p->n);
    else if (p->share > 0)
        snprintf(text, EVICT_TEXT_BYTES, "%s:%.10g%%", names[p->kind], 100 * p->share);
    else
        snprintf(text, EVICT_TEXT_BYTES, "%s:%lld", names[p->kind], (long long)p->n);
}

/* ---- how many ---- */

/* Of n_all, what counts for every layer alike. */
static int64_t budget_of(const evict_policy *p, int64_t n_all) {
    if (p->kind == EVICT_WINDOW) return p->n_sinks + p->n;
    return p->share > 0 ? (int64_t)(p->share * (double)n_all + 0.5) : p->n;
}

/* PyramidKV: the last layer keeps a 20th of what would stay beside the last QUERIES, the first as much more
 * as makes up for it, and it falls in equal steps from one to the other. */
static double pyramid_places(double budget, int layer, int n_layers) {
    static const double beta = 20;
    const double beside = budget - EVICT_QUERIES, least = beside / beta, most = 2 * beside - least;
    if (n_layers == 1) return budget;
    return EVICT_QUERIES + most + (least - most) * layer / (n_layers - 1);
}

int64_t evict_places(const evict_policy *p, int64_t n_prompt, int64_t n_tokens, int layer, int n_layers) {
    int64_t n = p->kind == EVICT_NOTHING ? n_tokens : budget_of(p, n_prompt);
    if (p->kind == EVICT_PYRAMID && (n < n_tokens || p->every > 0))
        n = (int64_t)(pyramid_places((double)n, layer, n_layers) + 0.5);
    if (p->kind != EVICT_WINDOW && n < EVICT_LEAST_PLACES) n = EVICT_LEAST_PLACES;
    return n < n_tokens ? n : n_tokens;
}

int64_t evict_most_places(const evict_policy *p, int64_t n_prompt) {
    return evict_places(p, n_prompt, n_prompt, 0, 2);
}

bool evict_removes(const evict_policy *p, int64_t n_prompt, int64_t n_tokens) {
    const int64_t at_prompt = evict_places(p, n_prompt, n_prompt, 1, 2),
                  there = n_tokens == n_prompt ? n_prompt : at_prompt + n_tokens - n_prompt;
    return evict_places(p, n_prompt, n_tokens, 1, 2) < there;
}

int64_t evict_places_behind(const evict_policy *p, int64_t n_prompt, int64_t n_tokens, int layer,
                            int n_layers) {
    const int64_t n = evict_places(p, n_prompt, n_prompt, layer, n_layers) + n_tokens - n_prompt,
                  budget = evict_places(p, n_prompt, INT64_MAX, layer, n_layers);
    return p->every == 0 || n <= budget || n - budget < p->every ? n : budget + p->every;
}

int64_t evict_least_rows(const evict_policy *p) {
    switch (p->kind) {
    case EVICT_SNAPKV:
    case EVICT_PYRAMID:
        return EVICT_QUERIES;
    case EVICT_H2O:
    case EVICT_EXPECTED:
        return EVICT_LEAST_QUERIES;
    default:
        return 0;
    }
}

/* ---- which ---- */

void evict_smooth(double *scores, int64_t n_places) {
    enum { WIDTH = 5 };
    double *given = mem_new((size_t)n_places, sizeof *given);
    memcpy(given, scores, (size_t)n_places * sizeof *given);
    for (int64_t i = 0; i < n_places; i++) {
        scores[i] = 0;
        for (int64_t k = i - WIDTH / 2; k <= i + WIDTH / 2; k++)
            if (k >= 0 && k < n_places) scores[i] += given[k] / WIDTH;
    }
    free(given);
}

/* Of the last places, those that stay whatever their scores. */
static int64_t last_places(const evict_policy *p, int64_t n_places, int64_t n_kept) {
    const int64_t most = n_kept / 2;
    if (p->kind == EVICT_WINDOW) return n_kept < p->n ? n_kept : p->n;
    if (p->kind == EVICT_H2O) return most;
    const int64_t eighth = p->kind == EVICT_EXPECTED ? n_places / 8 : 0,
                  wanted = eighth < most ? eighth : most;
    return wanted > EVICT_QUERIES ? wanted : EVICT_QUERIES;
}

typedef struct scored_place {
    double score;
    int32_t place;
} scored_place;

/* Highest first, of equal ones the latest, and what is no number behind all. */
static int by_score(const void *a, const void *b) {
    const scored_place *x = a, *y = b;
    if (isnan(x->score) != isnan(y->score)) return isnan(x->score) ? 1 : -1;
    if (x->score > y->score) return -1;
    if (x->score < y->score) return 1;
    return x->place > y->place ? -1 : 1;
}

static int by_place(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

void evict_choose(const evict_policy *p, const double *scores, int64_t n_places, int64_t n_kept,
                  int32_t *kept) {
    const int64_t n_last = n_kept < n_places ? last_places(p, n_places, n_kept) : n_places;
    const int64_t most = n_kept - n_last, n_first = scores && most > EVICT_SINKS ? EVICT_SINKS : most,
                  end = n_places - n_last;
    int64_t n = 0;
    for (int64_t place = 0; place < (scores ? n_first : most); place++)
        kept[n++] = (int32_t)place;
    if (scores && n_last < n_kept) {
        scored_place *between = mem_new((size_t)(end - n_first) + 1, sizeof *between);
        for (int64_t place = n_first; place < end; place++)
            between[place - n_first] = (scored_place){scores[place], (int32_t)place};
        qsort(between, (size_t)(end - n_first), sizeof *between, by_score);
        for (int64_t i = 0; n < n_kept - n_last; i++)
            kept[n++] = between[i].place;
        free(between);
        qsort(kept, (size_t)n, sizeof *kept, by_place);
    }
    for (int64_t place = end; place < n_places; place++)
        kept[n++] = (int32_t)place;
}
