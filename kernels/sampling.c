#include "kernels/sampling.h"

#define AT(field) offsetof(sampling_options, field)

const sampling_field sampling_fields[N_SAMPLING_FIELDS] = {
    {"temperature", SAMPLING_REAL, AT(temperature), 0, 100, false, false},
    {"top_p", SAMPLING_REAL, AT(top_p), 0, 1, true, false},
    {"min_p", SAMPLING_REAL, AT(min_p), 0, 1, false, true},
    {"repetition_penalty", SAMPLING_REAL, AT(repetition_penalty), 0, 100, true, false},
    {"top_k", SAMPLING_INTEGER, AT(top_k), 0, INT32_MAX, false, false},
    {"seed", SAMPLING_INTEGER, AT(seed), 0, 0x1p53, false,
     false}, /* what JSON readers agree on (RFC 8259, 6) */
    {"max_tokens", SAMPLING_INTEGER, AT(max_tokens), 0, INT32_MAX, false, false},
    {"logprobs", SAMPLING_INTEGER, AT(n_logprobs), 0, SAMPLING_MAX_LOGPROBS, false, false},
    {"ignore_eos", SAMPLING_FLAG, AT(ignore_eos), 0, 1, false, false},
};

sampling_options sampling_defaults(void) {
    return (sampling_options){.temperature = 0, .top_p = 1, .repetition_penalty = 1};
}

/* Conditions are written so that NaN fails them. */
static status check_real(const sampling_field *f, double x) {
    if ((f->is_above ? x > f->least : x >= f->least) && (f->is_below ? x < f->most : x <= f->most))
        return STATUS_OK;
    return status_refuse("%s must be %s %g %s %g, got %.9g", f->name,
                         f->is_above   ? "above"
                         : f->is_below ? "at least"
                                       : "from",
                         f->least,
                         f->is_above   ? "and at most"
                         : f->is_below ? "and below"
                                       : "to",
                         f->most, x);
}

static status check_integer(const sampling_field *f, int64_t x) {
    if (x >= (int64_t)f->least && x <= (int64_t)f->most) return STATUS_OK;
    return status_refuse("%s must be from %lld to %lld, got %lld", f->name, (long long)f->least,
                         (long long)f->most, (long long)x);
}

status sampling_check(const sampling_options *options) {
    sampling_options o = *options;
    status st = STATUS_OK;
    for (const sampling_field *f = sampling_fields;
         st == STATUS_OK && f < sampling_fields + N_SAMPLING_FIELDS; f++) {
        if (f->kind == SAMPLING_REAL) st = check_real(f, *(double *)sampling_value(&o, f));
        if (f->kind == SAMPLING_INTEGER) st = check_integer(f, *(int64_t *)sampling_value(&o, f));
    }
    return st;
}
