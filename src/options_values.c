#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/options_private.h"

static void *field(options *o, const option_spec *spec) {
    return (char *)o + spec->offset;
}

static status bad_value(const option_spec *spec, const char *text, const char *takes) {
    return status_refuse("--%s %s: expected %s; see kvarve --help", spec->name, text, takes);
}

static const char *range_text(const option_spec *spec, char *text, size_t n) {
    const char *kind = spec->type == OPTION_INTEGER ? "a whole number" : "a number";
    snprintf(text, n, "%s from %.15g to %.15g", kind, spec->min, spec->max);
    return text;
}

static status parse_integer(const option_spec *spec, const char *text, int64_t *out) {
    char *end, takes[96];
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)value < spec->min || (double)value > spec->max)
        return bad_value(spec, text, range_text(spec, takes, sizeof takes));
    *out = value;
    return STATUS_OK;
}

static status parse_real(const option_spec *spec, const char *text, double *out) {
    char *end, takes[96];
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= spec->min && value <= spec->max))
        return bad_value(spec, text, range_text(spec, takes, sizeof takes));
    *out = value;
    return STATUS_OK;
}

static status parse_bytes(const option_spec *spec, const char *text, int64_t *out) {
    char *end;
    double value = strtod(text, &end);
    const char *units = "KMGT", *unit = *end ? strchr(units, *end) : NULL;
    double scale = 1;
    for (const char *u = units; unit && u <= unit; u++)
        scale *= 1024;
    if (unit) end++;
    if (end == text || *end || !(value * scale >= spec->min && value * scale <= spec->max))
        return bad_value(spec, text, "bytes above 0, with K, M, G or T for powers of 1024, such as 8G");
    *out = (int64_t)(value * scale);
    return STATUS_OK;
}

/* The digits at *text, as a number up to `most` (1e9 at most); moves behind them. */
static bool read_digits(const char **text, double most, double *out) {
    size_t n = strspn(*text, "0123456789");
    if (n == 0) return false;
    *out = (double)strtol(*text, NULL, 10);
    *text += n;
    return *out <= most;
}

/* [D-]HH:MM:SS, as Slurm writes it. */
static bool read_clock(const char *text, double *out) {
    double days = 0, hours, minutes, seconds;
    bool has_days = strchr(text, '-') != NULL;
    if (has_days && !(read_digits(&text, 1e6, &days) && *text++ == '-')) return false;
    if (!(read_digits(&text, has_days ? 23 : 1e6, &hours) && *text++ == ':')) return false;
    if (!(read_digits(&text, 59, &minutes) && *text++ == ':')) return false;
    if (!(read_digits(&text, 59, &seconds) && !*text)) return false;
    *out = 86400 * days + 3600 * hours + 60 * minutes + seconds;
    return true;
}

/* 90s, 1.5m or 12h. */
static bool read_time_with_unit(const char *text, double *out) {
    char *end;
    double number = strtod(text, &end);
    if (end == text || end != text + strspn(text, "0123456789.")) return false;
    double unit = !strcmp(end, "s") ? 1 : !strcmp(end, "m") ? 60 : !strcmp(end, "h") ? 3600 : 0;
    *out = number * unit;
    return unit > 0;
}

static status parse_time(const option_spec *spec, const char *text, double *out) {
    double seconds;
    const char *colon = strchr(text, ':');
    if (colon && colon == strrchr(text, ':') && !strchr(text, '-'))
        return bad_value(spec, text,
                         "hours, minutes and seconds as HH:MM:SS, as two numbers may be MM:SS or HH:MM");
    bool good = read_clock(text, &seconds) || read_time_with_unit(text, &seconds);
    if (!good || !(seconds >= spec->min && seconds <= spec->max))
        return bad_value(spec, text, "a time above 0 such as 23:50:00, 2-12:00:00, 90s, 30m or 12h");
    *out = seconds;
    return STATUS_OK;
}

static status parse_every(options *o, const option_spec *spec, const char *text) {
    double seconds, tokens = 0;
    const char *rest = text;
    bool is_count = read_digits(&rest, spec->max, &tokens) && !*rest && tokens >= 1;
    bool is_time = read_time_with_unit(text, &seconds) && seconds >= spec->min && seconds <= spec->max;
    if (!is_count && !is_time)
        return bad_value(spec, text, "a time such as 90s, 15m or 2h, or a number of new tokens above 0");
    o->save_every_seconds = is_time ? seconds : NAN;
    o->save_every_tokens = is_count ? (int64_t)tokens : OPTION_UNSET;
    return STATUS_OK;
}

static status parse_device(const option_spec *spec, const char *text, device_kind *out) {
    for (int kind = 0; kind < N_DEVICE_KINDS; kind++)
        if (!strcmp(text, device_kind_name((device_kind)kind))) {
            *out = (device_kind)kind;
            return STATUS_OK;
        }
    return bad_value(spec, text, "auto, cpu or cuda");
}

static status parse_codec(const option_spec *spec, const char *text, kv_codec *out) {
    for (kv_codec codec = 0; codec < N_KV_CODECS; codec++) {
        if (strcmp(text, kv_codec_name((kv_codec)codec))) continue;
        *out = codec;
        return STATUS_OK;
    }
    return bad_value(spec, text, "lossless or none");
}

static status parse_transport(const option_spec *spec, const char *text, transport_kind *out) {
    for (int kind = 0; kind < N_TRANSPORT_KINDS; kind++) {
        if (strcmp(text, transport_kind_name((transport_kind)kind))) continue;
        *out = (transport_kind)kind;
        return STATUS_OK;
    }
    return bad_value(spec, text, "auto, mpi or nccl");
}

static status parse_weights(const option_spec *spec, const char *text, weights_kind *out) {
    bool is_int8 = !strcmp(text, "int8");
    if (!is_int8 && strcmp(text, "bf16")) return bad_value(spec, text, "bf16 or int8");
    *out = is_int8 ? WEIGHTS_INT8 : WEIGHTS_BF16;
    return STATUS_OK;
}

status options_set_value(options *o, const option_spec *spec, const char *text) {
    switch (spec->type) {
    case OPTION_FLAG:
        *(bool *)field(o, spec) = true;
        return STATUS_OK;
    case OPTION_TEXT:
        *(const char **)field(o, spec) = text;
        return STATUS_OK;
    case OPTION_TEXTS:
        if (o->n_stops == OPTIONS_MAX_STOPS) return bad_value(spec, text, "at most 16 of these");
        if (!*text) return bad_value(spec, "''", "a text that is not empty");
        o->stops[o->n_stops++] = text;
        return STATUS_OK;
    case OPTION_INTEGER:
        return parse_integer(spec, text, field(o, spec));
    case OPTION_REAL:
        return parse_real(spec, text, field(o, spec));
    case OPTION_BYTES:
        return parse_bytes(spec, text, field(o, spec));
    case OPTION_PATH:
        if (!*text) return bad_value(spec, "''", "a path");
        *(const char **)field(o, spec) = text;
        return STATUS_OK;
    case OPTION_TIME:
        return parse_time(spec, text, field(o, spec));
    case OPTION_EVERY:
        return parse_every(o, spec, text);
    case OPTION_CODEC:
        return parse_codec(spec, text, field(o, spec));
    case OPTION_DEVICE:
        return parse_device(spec, text, field(o, spec));
    case OPTION_TRANSPORT:
        return parse_transport(spec, text, field(o, spec));
    case OPTION_WEIGHTS:
        return parse_weights(spec, text, field(o, spec));
    case OPTION_PRECISION:
        break;
    }
    bool exact = !strcmp(text, "f32");
    if (!exact && strcmp(text, "bf16")) return bad_value(spec, text, "bf16 or f32");
    *(precision *)field(o, spec) = exact ? PRECISION_F32 : PRECISION_BF16;
    return STATUS_OK;
}

void options_set_defaults(options *o) {
    *o = (options){0};
    for (int i = 0; i < n_options; i++) {
        const option_spec *spec = &options_table[i];
        if (spec->fallback)
            options_set_value(o, spec, spec->fallback);
        else if (spec->type == OPTION_INTEGER)
            *(int64_t *)field(o, spec) = OPTION_UNSET;
        else if (spec->type == OPTION_REAL || spec->type == OPTION_TIME || spec->type == OPTION_EVERY)
            *(double *)field(o, spec) = NAN;
    }
    o->save_every_tokens = OPTION_UNSET;
    o->action = N_SNAPSHOT_ACTIONS;
}

static void append(text_buffer *out, const char *text) {
    text_append(out, text, strlen(text));
}

void options_append_word(const char *word, text_buffer *out) {
    bool plain =
        *word && strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+.,/:=@%") ==
                     strlen(word);
    if (out->n) append(out, " ");
    if (!plain) append(out, "'");
    for (; *word; word++) {
        if (*word == '\'')
            append(out, "'\\''");
        else
            text_append(out, word, 1);
    }
    if (!plain) append(out, "'");
}

static void append_value(text_buffer *out, const option_spec *spec, const char *value) {
    append(out, out->n ? " --" : "--");
    append(out, spec->name);
    if (value) options_append_word(value, out);
}

/* The number, with the unit behind it, so that it reads back as the same double. */
static void append_real(text_buffer *out, const option_spec *spec, double value, const char *unit) {
    char number[40];
    if (isnan(value)) return;
    snprintf(number, sizeof number, "%.15g%s", value, unit);
    if (strtod(number, NULL) != value) snprintf(number, sizeof number, "%.17g%s", value, unit);
    append_value(out, spec, number);
}

static void append_integer(text_buffer *out, const option_spec *spec, int64_t value, int64_t unset) {
    char number[40];
    if (value == unset) return;
    snprintf(number, sizeof number, "%lld", (long long)value);
    append_value(out, spec, number);
}

void options_append_value(const options *o, const option_spec *spec, text_buffer *out) {
    const void *at = (const char *)o + spec->offset;
    switch (spec->type) {
    case OPTION_FLAG:
        if (*(const bool *)at) append_value(out, spec, NULL);
        break;
    case OPTION_TEXT:
    case OPTION_PATH:
        if (*(const char *const *)at) append_value(out, spec, *(const char *const *)at);
        break;
    case OPTION_TEXTS:
        for (int64_t k = 0; k < o->n_stops; k++)
            append_value(out, spec, o->stops[k]);
        break;
    case OPTION_INTEGER:
        append_integer(out, spec, *(const int64_t *)at, OPTION_UNSET);
        break;
    case OPTION_BYTES:
        append_integer(out, spec, *(const int64_t *)at, 0);
        break;
    case OPTION_REAL:
        append_real(out, spec, *(const double *)at, "");
        break;
    case OPTION_TIME:
        append_real(out, spec, *(const double *)at, "s");
        break;
    case OPTION_EVERY:
        append_real(out, spec, o->save_every_seconds, "s");
        append_integer(out, spec, o->save_every_tokens, OPTION_UNSET);
        break;
    case OPTION_PRECISION:
        append_value(out, spec, *(const precision *)at == PRECISION_F32 ? "f32" : "bf16");
        break;
    case OPTION_WEIGHTS:
        if (*(const weights_kind *)at != WEIGHTS_OF_PRECISION)
            append_value(out, spec, *(const weights_kind *)at == WEIGHTS_INT8 ? "int8" : "bf16");
        break;
    case OPTION_CODEC:
        append_value(out, spec, kv_codec_name(*(const kv_codec *)at));
        break;
    case OPTION_DEVICE:
        append_value(out, spec, device_kind_name(*(const device_kind *)at));
        break;
    case OPTION_TRANSPORT:
        append_value(out, spec, transport_kind_name(*(const transport_kind *)at));
        break;
    }
}
