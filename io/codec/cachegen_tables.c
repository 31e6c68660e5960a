/* The tables of the codec of CacheGen: from samples, to bytes, and back. */
#include <math.h>
#include <stdlib.h>

#include "io/codec/byte_reader.h"
#include "io/codec/cachegen.h"

enum {
    MOST_SYMBOLS = 256,   /* of a channel, with the escape */
    ANCHOR_NUMBERS = 127, /* 8 bits: from -127 to 127 */
    LARGEST_NUMBER = 1 << 14,
};

typedef struct tables_head {
    uint32_t n_channels;
    float bin, unit;
} tables_head;

/* ---- from samples ---- */

/* How often each number came; what is further from 0 escapes. */
typedef struct histogram {
    int32_t counts[MOST_SYMBOLS - 1]; /* of number i - MIDDLE */
    int64_t n;                        /* escapes too */
} histogram;
enum { MIDDLE = (MOST_SYMBOLS - 1) / 2 };

static void histogram_add(histogram *h, float number) {
    const float at = nearbyintf(number) + MIDDLE;
    if (at >= 0 && at < (float)(MOST_SYMBOLS - 1)) h->counts[(int)at]++;
    h->n++;
}

/* The numbers between the first and the last that came, and one more on each side; then the escape. */
static void append_table(const histogram *h, text_buffer *out) {
    int first = MIDDLE, last = MIDDLE;
    for (int i = 0; i < MOST_SYMBOLS - 1; i++) {
        if (h->counts[i] && i < first) first = i;
        if (h->counts[i] && i > last) last = i;
    }
    if (first > 0) first--;
    if (last < MOST_SYMBOLS - 2) last++;
    int64_t counts[MOST_SYMBOLS], inside = 0;
    uint16_t sizes[MOST_SYMBOLS];
    const int n = last - first + 2;
    for (int i = first; i <= last; i++)
        inside += counts[i - first] = h->counts[i];
    counts[n - 1] = h->n - inside;
    rans_share_out(counts, n, sizes);
    const int16_t head[2] = {(int16_t)(first - MIDDLE), (int16_t)n};
    text_append(out, (const char *)head, sizeof head);
    text_append(out, (const char *)sizes, (size_t)n * sizeof *sizes);
}

/* One channel of the samples. */
typedef struct channel {
    const float *samples; /* every stride-th */
    int64_t n_tokens, window_tokens;
    size_t stride;
    float anchor_unit;
} channel;

static bool is_anchor(const channel *c, int64_t token) {
    return token % c->window_tokens % CACHEGEN_GROUP == 0;
}

static float sample(const channel *c, int64_t token) {
    return c->samples[(size_t)token * c->stride];
}

/* The anchor before a token, as it is decoded. */
static float anchor_of(const channel *c, int64_t token) {
    const float x = sample(c, token - token % c->window_tokens % CACHEGEN_GROUP);
    return nearbyintf(x / c->anchor_unit) * c->anchor_unit;
}

static void find_anchor_unit(channel *c) {
    float largest = 0;
    for (int64_t t = 0; t < c->n_tokens; t++)
        if (is_anchor(c, t)) largest = fmaxf(largest, fabsf(sample(c, t)));
    c->anchor_unit = largest > 0 ? largest / ANCHOR_NUMBERS : 1;
}

static float find_unit(const channel *channels, int n_channels) {
    double sum = 0;
    int64_t n = 0;
    for (const channel *c = channels; c < channels + n_channels; c++)
        for (int64_t t = 0; t < c->n_tokens; t++) {
            if (is_anchor(c, t)) continue;
            const double difference = (double)(sample(c, t) - anchor_of(c, t));
            sum += difference * difference;
            n++;
        }
    return sum > 0 ? (float)sqrt(sum / (double)n) : 1;
}

/* size: of the kind's numbers. */
static void count_numbers(const channel *c, bool anchors, float size, histogram *h) {
    for (int64_t t = 0; t < c->n_tokens; t++)
        if (is_anchor(c, t) == anchors)
            histogram_add(h, (anchors ? sample(c, t) : sample(c, t) - anchor_of(c, t)) / size);
}

void cachegen_build(const float *samples, int64_t n_tokens, int64_t window_tokens, int n_channels, float bin,
                    text_buffer *out) {
    channel *channels = mem_new((size_t)n_channels, sizeof *channels);
    for (int i = 0; i < n_channels; i++) {
        channels[i] = (channel){samples + i, n_tokens, window_tokens, (size_t)n_channels, 0};
        find_anchor_unit(&channels[i]);
    }
    const tables_head head = {(uint32_t)n_channels, bin, find_unit(channels, n_channels)};
    text_append(out, (const char *)&head, sizeof head);
    for (int i = 0; i < n_channels; i++)
        text_append(out, (const char *)&channels[i].anchor_unit, sizeof(float));
    for (int kind = 0; kind < CACHEGEN_KINDS; kind++)
        for (int i = 0; i < n_channels; i++) {
            const bool anchors = kind == CACHEGEN_LEVELS;
            histogram h = {{0}, 0};
            count_numbers(&channels[i], anchors,
                          anchors ? channels[i].anchor_unit : head.unit * head.bin * cachegen_factors[kind],
                          &h);
            append_table(&h, out);
        }
    free(channels);
}

/* ---- from bytes ---- */

static bool read_units(byte_reader *r, float *units, int n) {
    bool good = true;
    for (int i = 0; i < n; i++) {
        byte_reader_take(r, &units[i], sizeof *units);
        good &= units[i] > 0 && isfinite(units[i]);
    }
    return good;
}

/* A table, whose starts are put where *room is. */
static bool read_table(byte_reader *r, cachegen_table *table, uint16_t **room) {
    int16_t head[2];
    uint32_t start = 0;
    byte_reader_take(r, head, sizeof head);
    if (head[1] < 1 || head[1] > MOST_SYMBOLS || abs(head[0]) > LARGEST_NUMBER) return false;
    *table = (cachegen_table){head[0], (uint16_t)head[1], *room};
    for (int i = 0; i < head[1]; i++) {
        uint16_t size;
        byte_reader_take(r, &size, sizeof size);
        if (size == 0) return false;
        *(*room)++ = (uint16_t)start;
        start += size;
        if (start > RANS_TOTAL) return false;
    }
    *(*room)++ = (uint16_t)start;
    return start == RANS_TOTAL;
}

status cachegen_tables_read(byte_reader *r, cachegen_tables *out) {
    enum { MOST_CHANNELS = 1 << 16 };
    const size_t n_bytes = r->n;
    tables_head head;
    byte_reader_take(r, &head, sizeof head);
    if (r->is_short || head.n_channels < 1 || head.n_channels > MOST_CHANNELS || !(head.bin > 0) ||
        !isfinite(head.bin) || !(head.unit > 0) || !isfinite(head.unit) ||
        n_bytes / sizeof(float) < head.n_channels)
        return status_refuse("tables of cachegen with %u channels in %zu bytes", head.n_channels, n_bytes);
    const size_t n = head.n_channels, n_tables = n * CACHEGEN_KINDS;
    float *units = mem_new(n, sizeof *units);
    cachegen_table *tables = mem_new(n_tables, sizeof *tables);
    /* A start takes as many bytes there as here, and the one behind each table as many as half of its head;
     * but much else may follow there. */
    const size_t most = n_tables * (MOST_SYMBOLS + 1), left = r->n / sizeof(uint16_t) + MOST_SYMBOLS + 1;
    uint16_t *starts = mem_new(left < most ? left : most, sizeof *starts), *room = starts;
    *out = (cachegen_tables){(int)n, head.bin, head.unit, units, tables, starts};
    bool good = read_units(r, units, (int)n);
    for (size_t i = 0; good && i < n_tables; i++)
        good = read_table(r, &tables[i], &room);
    if (good && !r->is_short) return STATUS_OK;
    cachegen_tables_free(out);
    return status_refuse("tables of cachegen that are cut off, or do not add up");
}

void cachegen_tables_free(cachegen_tables *t) {
    free((void *)t->anchor_units);
    free((void *)t->tables);
    free(t->starts);
    *t = (cachegen_tables){0};
}
