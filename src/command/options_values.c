#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/command/options_private.h"

static void *field(options *o, const option_spec *spec) {
    return (char *)o + spec->offset;
}

static const void *value_of(const options *o, const option_spec *spec) {
    return (const char *)o + spec->offset;
}

static status bad_value(const option_spec *spec, const char *text, const char *takes) {
    return status_refuse("--%s %s: expected %s; see kvarve --help", spec->name, text, takes);
}

/* ---- as words ---- */

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

/* ---- flags, texts ---- */

static status set_flag(options *o, const option_spec *spec, const char *text) {
    (void)text;
    *(bool *)field(o, spec) = true;
    return STATUS_OK;
}

static void append_flag(const options *o, const option_spec *spec, text_buffer *out) {
    if (*(const bool *)value_of(o, spec)) append_value(out, spec, NULL);
}

const option_type option_flag = {.takes = "", .set = set_flag, .append = append_flag};

static status set_text(options *o, const option_spec *spec, const char *text) {
    *(const char **)field(o, spec) = text;
    return STATUS_OK;
}

static void append_text(const options *o, const option_spec *spec, text_buffer *out) {
    const char *text = *(const char *const *)value_of(o, spec);
    if (text) append_value(out, spec, text);
}

const option_type option_text = {.takes = "TEXT", .set = set_text, .append = append_text};

static status set_path(options *o, const option_spec *spec, const char *text) {
    return *text ? set_text(o, spec, text) : bad_value(spec, "''", "a path");
}

const option_type option_path = {.takes = "PATH", .set = set_path, .append = append_text};
const option_type option_input = {.takes = "FILE", .set = set_path, .append = append_text};
const option_type option_output = {.takes = "FILE", .set = set_path, .append = append_text};

static status add_text(options *o, const option_spec *spec, const char *text) {
    option_text_list *list = field(o, spec);
    if (list->n == OPTIONS_MAX_TEXTS) return bad_value(spec, text, "at most 16 of these");
    if (!*text) return bad_value(spec, "''", "a text that is not empty");
    if (utf8_count_valid(text, strlen(text)) < strlen(text)) return bad_value(spec, text, "a text in UTF-8");
    list->items[list->n++] = text;
    return STATUS_OK;
}

static void append_texts(const options *o, const option_spec *spec, text_buffer *out) {
    const option_text_list *list = value_of(o, spec);
    for (int64_t k = 0; k < list->n; k++)
        append_value(out, spec, list->items[k]);
}

const option_type option_texts = {.takes = "TEXT", .set = add_text, .append = append_texts};

/* ---- numbers ---- */

static const char *range_text(const option_spec *spec, char *text, size_t n) {
    const char *kind = spec->type == &option_integer ? "a whole number" : "a number";
    snprintf(text, n, "%s from %.15g to %.15g", kind, spec->min, spec->max);
    return text;
}

static status set_integer(options *o, const option_spec *spec, const char *text) {
    char *end, takes[96];
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)value < spec->min || (double)value > spec->max)
        return bad_value(spec, text, range_text(spec, takes, sizeof takes));
    *(int64_t *)field(o, spec) = value;
    return STATUS_OK;
}

static void append_number(const options *o, const option_spec *spec, text_buffer *out) {
    append_integer(out, spec, *(const int64_t *)value_of(o, spec), OPTION_UNSET);
}

const option_type option_integer = {
    .takes = "N", .unset = UNSET_INTEGER, .set = set_integer, .append = append_number};

static status set_real(options *o, const option_spec *spec, const char *text) {
    char *end, takes[96];
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= spec->min && value <= spec->max))
        return bad_value(spec, text, range_text(spec, takes, sizeof takes));
    *(double *)field(o, spec) = value;
    return STATUS_OK;
}

static void append_decimal(const options *o, const option_spec *spec, text_buffer *out) {
    append_real(out, spec, *(const double *)value_of(o, spec), "");
}

const option_type option_real = {
    .takes = "X", .unset = UNSET_REAL, .set = set_real, .append = append_decimal};

/* Of a text that is none: NaN. */
static double read_bytes(const char *text) {
    char *end;
    double value = strtod(text, &end);
    const char *units = "KMGT", *unit = *end ? strchr(units, *end) : NULL;
    for (const char *u = units; unit && u <= unit; u++)
        value *= 1024;
    if (unit) end++;
    return end == text || *end ? NAN : value;
}

static status set_bytes(options *o, const option_spec *spec, const char *text) {
    const double bytes = read_bytes(text);
    if (!(bytes >= spec->min && bytes <= spec->max))
        return bad_value(spec, text, "bytes above 0, with K, M, G or T for powers of 1024, such as 8G");
    *(int64_t *)field(o, spec) = (int64_t)bytes;
    return STATUS_OK;
}

static void append_bytes(const options *o, const option_spec *spec, text_buffer *out) {
    append_integer(out, spec, *(const int64_t *)value_of(o, spec), 0);
}

const option_type option_bytes = {.takes = "BYTES", .set = set_bytes, .append = append_bytes};

static status set_disk(options *o, const option_spec *spec, const char *text) {
    const char *colon = strrchr(text, ':');
    const double bytes = colon ? read_bytes(colon + 1) : NAN;
    kv_disk *disk = field(o, spec);
    if (!(bytes >= spec->min && bytes <= spec->max) || colon == text ||
        (size_t)(colon - text) >= sizeof disk->dir)
        return bad_value(spec, text, "a directory and bytes, such as /scratch:200G");
    *disk = (kv_disk){.bytes = (uint64_t)bytes};
    memcpy(disk->dir, text, (size_t)(colon - text));
    return STATUS_OK;
}

static void append_disk(const options *o, const option_spec *spec, text_buffer *out) {
    const kv_disk *disk = value_of(o, spec);
    char text[sizeof disk->dir + 32];
    if (disk->bytes == 0) return;
    snprintf(text, sizeof text, "%s:%llu", disk->dir, (unsigned long long)disk->bytes);
    append_value(out, spec, text);
}

const option_type option_disk = {.takes = "DIR:BYTES", .set = set_disk, .append = append_disk};

/* ---- times ---- */

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

static status set_time(options *o, const option_spec *spec, const char *text) {
    double seconds;
    const char *colon = strchr(text, ':');
    if (colon && colon == strrchr(text, ':') && !strchr(text, '-'))
        return bad_value(spec, text,
                         "hours, minutes and seconds as HH:MM:SS, as two numbers may be MM:SS or HH:MM");
    bool good = read_clock(text, &seconds) || read_time_with_unit(text, &seconds);
    if (!good || !(seconds >= spec->min && seconds <= spec->max))
        return bad_value(spec, text, "a time above 0 such as 23:50:00, 2-12:00:00, 90s, 30m or 12h");
    *(double *)field(o, spec) = seconds;
    return STATUS_OK;
}

static void append_time(const options *o, const option_spec *spec, text_buffer *out) {
    append_real(out, spec, *(const double *)value_of(o, spec), "s");
}

const option_type option_time = {
    .takes = "TIME", .unset = UNSET_REAL, .set = set_time, .append = append_time};

static status set_every(options *o, const option_spec *spec, const char *text) {
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

static void append_every(const options *o, const option_spec *spec, text_buffer *out) {
    append_real(out, spec, o->save_every_seconds, "s");
    append_integer(out, spec, o->save_every_tokens, OPTION_UNSET);
}

const option_type option_every = {
    .takes = "TIME|N", .unset = UNSET_REAL, .set = set_every, .append = append_every};

/* ---- codecs ---- */

static status set_coding(options *o, const option_spec *spec, const char *text) {
    return status_at(kv_coding_parse(text, field(o, spec)), "--%s %.60s", spec->name, text);
}

static void append_coding(const options *o, const option_spec *spec, text_buffer *out) {
    char text[KV_CODING_TEXT_BYTES];
    kv_coding_text(value_of(o, spec), text);
    append_value(out, spec, text);
}

const option_type option_codec = {.takes = "CODEC", .set = set_coding, .append = append_coding};

/* ---- eviction ---- */

static status set_evict(options *o, const option_spec *spec, const char *text) {
    return status_at(evict_parse(text, field(o, spec)), "--%s %.60s", spec->name, text);
}

static void append_evict(const options *o, const option_spec *spec, text_buffer *out) {
    char text[EVICT_TEXT_BYTES];
    const evict_policy *policy = value_of(o, spec);
    if (policy->kind == EVICT_NOTHING) return;
    evict_text(policy, text);
    append_value(out, spec, text);
}

const option_type option_evict = {.takes = "POLICY:BUDGET", .set = set_evict, .append = append_evict};

/* ---- choices: the fields are enums ---- */

void option_type_append_names(const option_type *type, const char *between, const char *last,
                              text_buffer *out) {
    bool is_first = true;
    text_append(out, "", 0);
    for (unsigned value = 0; type->name && type->name(value); value++) {
        if (!*type->name(value)) continue;
        if (!is_first) append(out, type->name(value + 1) ? between : last);
        append(out, type->name(value));
        is_first = false;
    }
}

static status set_choice(options *o, const option_spec *spec, const char *text) {
    for (unsigned value = 0; spec->type->name(value); value++)
        if (*text && !strcmp(text, spec->type->name(value))) {
            *(unsigned *)field(o, spec) = value;
            return STATUS_OK;
        }
    text_buffer names = {0};
    option_type_append_names(spec->type, ", ", " or ", &names);
    status st = bad_value(spec, text, names.data);
    free(names.data);
    return st;
}

static void append_choice(const options *o, const option_spec *spec, text_buffer *out) {
    const char *name = spec->type->name(*(const unsigned *)value_of(o, spec));
    if (*name) append_value(out, spec, name);
}

static const char *precision_name(unsigned value) {
    static const char *const names[] = {[PRECISION_BF16] = "bf16", [PRECISION_F32] = "f32"};
    return value < sizeof names / sizeof *names ? names[value] : NULL;
}

static const char *weights_name(unsigned value) {
    static const char *const names[] = {
        [WEIGHTS_OF_PRECISION] = "", [WEIGHTS_BF16] = "bf16", [WEIGHTS_INT8] = "int8"};
    return value < sizeof names / sizeof *names ? names[value] : NULL;
}

static const char *kv_name(unsigned value) {
    static const char *const names[] = {[KV_CACHE_OF_PRECISION] = "",
                                        [KV_CACHE_BF16] = "bf16",
                                        [KV_CACHE_INT8] = "int8",
                                        [KV_CACHE_INT4] = "int4"};
    return value < sizeof names / sizeof *names ? names[value] : NULL;
}

const char *options_kv_name(kv_kind kind) {
    return kv_name(kind);
}

static const char *load_name(unsigned value) {
    static const char *const names[] = {
        [LOAD_FULL] = "full", [LOAD_AUTO] = "auto", [LOAD_BASE] = "base", [LOAD_RECOMPUTE] = "recompute"};
    return value < sizeof names / sizeof *names ? names[value] : NULL;
}

static const char *device_name(unsigned value) {
    return value < N_DEVICE_KINDS ? device_kind_name((device_kind)value) : NULL;
}

static const char *transport_name(unsigned value) {
    return value < N_TRANSPORT_KINDS ? transport_kind_name((transport_kind)value) : NULL;
}

/* With --weights int8 it is bf16 for all else (options.c joins the two). */
static void append_precision(const options *o, const option_spec *spec, text_buffer *out) {
    bool is_f32 = *(const precision *)value_of(o, spec) == PRECISION_F32;
    append_value(out, spec, precision_name(is_f32 ? PRECISION_F32 : PRECISION_BF16));
}

const option_type option_precision = {.set = set_choice, .append = append_precision, .name = precision_name};
const option_type option_weights = {.set = set_choice, .append = append_choice, .name = weights_name};
const option_type option_kv = {.set = set_choice, .append = append_choice, .name = kv_name};
const option_type option_load = {.set = set_choice, .append = append_choice, .name = load_name};
const option_type option_device = {.set = set_choice, .append = append_choice, .name = device_name};
const option_type option_transport = {.set = set_choice, .append = append_choice, .name = transport_name};

/* ---- of all ---- */

void options_set_defaults(options *o) {
    *o = (options){0};
    for (int i = 0; i < n_options; i++) {
        const option_spec *spec = &options_table[i];
        if (spec->fallback)
            spec->type->set(o, spec, spec->fallback);
        else if (spec->type->unset == UNSET_INTEGER)
            *(int64_t *)field(o, spec) = OPTION_UNSET;
        else if (spec->type->unset == UNSET_REAL)
            *(double *)field(o, spec) = NAN;
    }
    o->save_every_tokens = OPTION_UNSET;
    o->action = N_SNAPSHOT_ACTIONS;
}
