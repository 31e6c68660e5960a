#include "kernels/sampling.h"

static const int64_t max_exact_integer = (int64_t)1 << 53; /* what JSON readers agree on (RFC 8259, 6) */

sampling_options sampling_defaults(void) {
    return (sampling_options){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
}

static status refuse_number(const char *name, const char *range, double got) {
    return status_refuse("%s must be %s, got %.9g", name, range, got);
}

static status check_integer(const char *name, int64_t max, int64_t got) {
    if (got >= 0 && got <= max) return STATUS_OK;
    return status_refuse("%s must be from 0 to %lld, got %lld", name, (long long)max, (long long)got);
}

/* Conditions are written so that NaN fails them. */
status sampling_check(const sampling_options *o) {
    if (!(o->temperature >= 0 && o->temperature <= 100))
        return refuse_number("temperature", "from 0 to 100", o->temperature);
    if (!(o->top_p > 0 && o->top_p <= 1)) return refuse_number("top_p", "above 0 and at most 1", o->top_p);
    if (!(o->min_p >= 0 && o->min_p < 1)) return refuse_number("min_p", "at least 0 and below 1", o->min_p);
    if (!(o->repetition_penalty > 0 && o->repetition_penalty <= 100))
        return refuse_number("repetition_penalty", "above 0 and at most 100", o->repetition_penalty);
    status st = check_integer("top_k", INT32_MAX, o->top_k);
    if (st == STATUS_OK) st = check_integer("seed", max_exact_integer, o->seed);
    if (st == STATUS_OK) st = check_integer("max_tokens", INT32_MAX, o->max_tokens);
    if (st == STATUS_OK) st = check_integer("logprobs", SAMPLING_MAX_LOGPROBS, o->n_logprobs);
    return st;
}
