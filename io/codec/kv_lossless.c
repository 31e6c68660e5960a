#include "io/codec/kv_lossless.h"

#include <string.h>

/* ---- the layout of a payload ---- */

/* u16 nodes, u16 root, u8 whether there are bases, 3 bytes zero; bases; nodes; ... */
enum { HEAD_BYTES = 8, NODE_BYTES = 8, WORD_BYTES = 8 };

static size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

static size_t n_elements_of(const kv_chunk_shape *shape) {
    return kv_chunk_bytes(shape) / dtype_bytes(shape->type);
}

static size_t nodes_offset(const kv_parts *parts) {
    return HEAD_BYTES + (parts->bases ? round_up(parts->n_channels, WORD_BYTES) : 0);
}

/* Set the offsets that depend on the tree; the bytes of the payload. */
static size_t lay_out(kv_parts *parts) {
    size_t at = nodes_offset(parts) + (size_t)parts->tree.n_nodes * NODE_BYTES;
    for (int i = 0; i < parts->tree.n_nodes; i++) {
        parts->bits[i] = at;
        at += ((size_t)parts->tree.nodes[i].n_bits / 64 + 1) * WORD_BYTES;
    }
    parts->signs = at + WORD_BYTES;
    parts->lows = parts->signs + (parts->type == DTYPE_U8 ? 0 : parts->n_elements);
    return parts->lows + (parts->type == DTYPE_F32 ? 2 * parts->n_elements : 0);
}

/* ---- statistics ---- */

/* Tokens that are looked at to learn what the chunk is like, one in so many of them that is also counted, and
 * channels that are looked at together. */
enum { SAMPLE_TOKENS = 64, SAMPLE_COUNTED = 8, SAMPLE_CHANNELS = 64 };

/* What the sample shows: counts of exponents, and of symbols if the channels had bases. */
typedef struct sample {
    size_t n_tokens, n_counted;
    uint32_t plain[KV_SYMBOLS], based[KV_SYMBOLS];
} sample;

/* The most common symbols; how many there are. */
static int find_common(const uint32_t counts[KV_SYMBOLS], uint8_t common[KV_MAX_COMMON]) {
    int n = 0;
    for (int i = 0; i < KV_SYMBOLS; i++) {
        if (!counts[i] || (n == KV_MAX_COMMON && counts[i] <= counts[common[n - 1]])) continue;
        if (n < KV_MAX_COMMON) n++;
        int at = n - 1;
        for (; at > 0 && counts[common[at - 1]] < counts[i]; at--)
            common[at] = common[at - 1];
        common[at] = (uint8_t)i;
    }
    return n;
}

/* Exponents of n elements, whose upper halves lie so many bytes apart. */
static inline void take_exponents(const uint8_t *upper, size_t apart, size_t n, uint8_t *exponents) {
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, upper + i * apart, sizeof half);
        exponents[i] = (uint8_t)(half >> 7);
    }
}

/* Add channels [first, first + n) of every `step`th token; their bases are their mean exponents. */
static void sample_channels(const kv_parts *parts, const void *elements, size_t step, size_t first, size_t n,
                            sample *s, uint8_t *bases) {
    uint8_t exponents[SAMPLE_TOKENS][SAMPLE_CHANNELS];
    uint32_t sums[SAMPLE_CHANNELS] = {0};
    for (size_t t = 0; t < s->n_tokens; t++) {
        size_t i = t * step * parts->n_channels + first;
        if (parts->type == DTYPE_U8)
            memcpy(exponents[t], (const uint8_t *)elements + i, n);
        else if (parts->type == DTYPE_BF16)
            take_exponents((const uint8_t *)elements + 2 * i, 2, n, exponents[t]);
        else
            take_exponents((const uint8_t *)elements + 4 * i + 2, 4, n, exponents[t]);
        for (size_t c = 0; c < n; c++)
            sums[c] += exponents[t][c];
    }
    for (size_t c = 0; c < n; c++)
        bases[c] = (uint8_t)((sums[c] + s->n_tokens / 2) / s->n_tokens);
    for (size_t t = 0; t < s->n_tokens; t += SAMPLE_COUNTED)
        for (size_t c = 0; c < n; c++) {
            s->plain[exponents[t][c]]++;
            s->based[(uint8_t)(exponents[t][c] - bases[c])]++;
        }
}

/* Do bases make the chunk smaller by more than themselves? */
static bool bases_pay(const kv_parts *parts, const sample *s, kv_tree *tree) {
    size_t n_tokens = parts->n_elements / parts->n_channels;
    kv_tree_build(s->plain, tree);
    uint64_t bits = kv_tree_bits(tree);
    kv_tree_build(s->based, tree);
    uint64_t bits_with = kv_tree_bits(tree);
    return bits_with < bits && (bits - bits_with) / s->n_counted * n_tokens > 8 * parts->n_channels;
}

/* Let parts have bases if they pay: keys of some models lie far apart from channel to channel. The most
 * common symbols; how many. */
static int choose_bases(kv_parts *parts, const void *elements, uint8_t *bases,
                        uint8_t common[KV_MAX_COMMON]) {
    size_t n_tokens = parts->n_elements / parts->n_channels;
    sample s = {.n_tokens = n_tokens < SAMPLE_TOKENS ? n_tokens : SAMPLE_TOKENS};
    s.n_counted = (s.n_tokens + SAMPLE_COUNTED - 1) / SAMPLE_COUNTED;
    for (size_t c = 0; c < parts->n_channels; c += SAMPLE_CHANNELS) {
        size_t n = parts->n_channels - c < SAMPLE_CHANNELS ? parts->n_channels - c : SAMPLE_CHANNELS;
        sample_channels(parts, elements, n_tokens / s.n_tokens, c, n, &s, bases + c);
    }
    if (bases_pay(parts, &s, &parts->tree)) parts->bases = bases;
    return find_common(parts->bases ? s.based : s.plain, common);
}

/* ---- encode ---- */

static void write_tables(const kv_parts *parts, uint8_t *payload) {
    const uint16_t numbers[2] = {(uint16_t)parts->tree.n_nodes, (uint16_t)parts->tree.root};
    memset(payload, 0, HEAD_BYTES);
    memcpy(payload, numbers, sizeof numbers);
    payload[4] = parts->bases != NULL;
    size_t at = nodes_offset(parts);
    if (parts->bases)
        memset(payload + HEAD_BYTES + parts->n_channels, 0, at - HEAD_BYTES - parts->n_channels);
    memcpy(payload + at, parts->tree.nodes, (size_t)parts->tree.n_nodes * NODE_BYTES);
}

_Static_assert(sizeof(kv_node) == NODE_BYTES, "a node lies in memory as in a payload");

size_t kv_lossless_encode(const kv_blocks *blocks, const kv_chunk_shape *shape, const void *elements,
                          uint8_t *payload) {
    kv_parts parts = {.type = shape->type, .n_elements = n_elements_of(shape)};
    parts.n_channels = parts.n_elements / (size_t)shape->n_tokens;
    if (parts.n_elements > UINT32_MAX) return 0;
    uint8_t common[KV_MAX_COMMON];
    uint32_t counts[KV_SYMBOLS];
    int n_common = choose_bases(&parts, elements, payload + HEAD_BYTES, common);
    blocks->count(&parts, elements, n_common, common, counts);
    kv_tree_build(counts, &parts.tree);
    size_t n_bytes = lay_out(&parts);
    if (n_bytes >= kv_chunk_bytes(shape)) return 0;
    write_tables(&parts, payload);
    memset(payload + parts.signs - WORD_BYTES, 0, WORD_BYTES);
    blocks->encode(&parts, elements, payload);
    return n_bytes;
}

/* ---- decode ---- */

static status damaged(const char *what) {
    return status_refuse("the payload of the frame is damaged: %s", what);
}

/* Head, bases and nodes. */
static status read_tables(const uint8_t *payload, size_t n_bytes, kv_parts *parts) {
    static const uint8_t zeros[3];
    uint16_t numbers[2];
    if (n_bytes < HEAD_BYTES) return damaged("it is shorter than its head");
    memcpy(numbers, payload, sizeof numbers);
    if (numbers[0] > KV_MAX_NODES) return damaged("the tree has too many nodes");
    if (payload[4] > 1 || memcmp(payload + 5, zeros, sizeof zeros))
        return damaged("reserved bytes are not zero");
    parts->tree.n_nodes = numbers[0];
    parts->tree.root = numbers[1];
    if (payload[4]) parts->bases = payload + HEAD_BYTES;
    size_t at = nodes_offset(parts), nodes_bytes = (size_t)parts->tree.n_nodes * NODE_BYTES;
    if (n_bytes < at || n_bytes - at < nodes_bytes) return damaged("it is shorter than its tables");
    memcpy(parts->tree.nodes, payload + at, nodes_bytes);
    const char *flaw = kv_tree_flaw(&parts->tree);
    return flaw ? damaged(flaw) : STATUS_OK;
}

status kv_lossless_decode(const kv_blocks *blocks, const uint8_t *payload, size_t n_bytes,
                          const kv_chunk_shape *shape, void *elements) {
    kv_parts parts = {.type = shape->type, .n_elements = n_elements_of(shape)};
    parts.n_channels = parts.n_elements / (size_t)shape->n_tokens;
    status st = read_tables(payload, n_bytes, &parts);
    if (st == STATUS_OK && lay_out(&parts) != n_bytes) st = damaged("its parts do not add up to its bytes");
    if (st == STATUS_OK && parts.tree.n_nodes && parts.tree.nodes[0].n_bits != parts.n_elements)
        st = damaged("its tree is of another number of elements");
    /* Decoding takes a bit of a child for every zero or one of its parent: that there are as many is all that
     * must be sure for it to stay within the payload. */
    if (st == STATUS_OK && !blocks->check(&parts, payload))
        st = damaged("the bits of a node do not match those of its children");
    if (st == STATUS_OK) blocks->decode(&parts, payload, elements);
    return st;
}
