/* kernels/cuda/attend/attend_map.h: which block of a grid attends to what. Pure arithmetic, for kernels, for
 * the host that sizes grids, and for host tests.
 *
 * A query is one head of one row. The queries of a kv head in a span are numbered row by row: query = row *
 * group + head within the group, so that those which see the same keys lie together. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/attend_blocks.h"
#include "kernels/kv_page.h"

/* ---- prompt rows: tiles ---- */

/* A tile is up to tile_queries queries of one span. The tiles of all spans are numbered one span behind the
 * other; the first of a span that begins at row0 is a function of row0 and the span's number alone, so that
 * no table is needed. Every span has at least the tiles that it needs, and may have one too many, which is
 * empty: floor(a + n) - floor(a) + 1 >= ceil(n). */
ATTEND_FUNCTION int attend_first_tile(int number, int row0, int group, int tile_queries) {
    return number + (int)((int64_t)row0 * group / tile_queries);
}

typedef struct attend_tile {
    int span, query0; /* beyond the queries of the span in an empty tile */
} attend_tile;

/* Number `tile` counts from the first tile of first_span; span_row0 as in step_tables. */
ATTEND_FUNCTION attend_tile attend_find_tile(int tile, const int32_t *span_row0, int first_span,
                                             int last_span, int group, int tile_queries) {
    int low = first_span, high = last_span; /* it is in [low, high) */
    tile += attend_first_tile(first_span, span_row0[first_span], group, tile_queries);
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (attend_first_tile(middle, span_row0[middle], group, tile_queries) <= tile)
            low = middle;
        else
            high = middle;
    }
    int first = attend_first_tile(low, span_row0[low], group, tile_queries);
    attend_tile found = {low, (tile - first) * tile_queries};
    return found;
}

/* ---- generated rows: units ---- */

/* The level of the units of n_tasks rows and kv heads with up to n_blocks each (a power of two), so that
 * about n_wanted thread blocks have work; at most max_level. */
ATTEND_FUNCTION int attend_level_of(int64_t n_blocks, int64_t n_tasks, int64_t n_wanted, int max_level) {
    int64_t n_units = (n_wanted + n_tasks - 1) / n_tasks;
    int level = attend_unit_level(n_blocks, n_units > 1 ? n_units : 1);
    return level < max_level ? level : max_level;
}

/* The blocks of a unit that the row at pos sees. */
ATTEND_FUNCTION attend_nodes attend_blocks_of(int64_t pos, int64_t window, int64_t unit, int level) {
    attend_nodes all = {unit << level, (unit + 1) << level};
    return attend_nodes_common(attend_nodes_seen(pos, pos, window, 0), all);
}

/* ---- pages ---- */

/* Sixteen positions from a multiple of sixteen on, a quantum, lie in one page, in int8 side by side. */
enum { ATTEND_QUANTUM = 16 };

static_assert((int)KV_PAGE_QUANTUM % (int)ATTEND_QUANTUM == 0, "a page has whole quanta");
static_assert((int)KV_INT8_ROWS_PLACES == (int)ATTEND_QUANTUM, "a quantum of codes lies together");

/* Bytes of a quantum's scales, which its codes lie behind. */
enum { ATTEND_SCALE_BYTES = ATTEND_QUANTUM * KV_WORD_BYTES };

typedef struct attend_place {
    int page, slot; /* which of the sequence's pages, and the position in it */
} attend_place;

ATTEND_FUNCTION attend_place attend_place_of(int64_t quantum, int quanta_per_page) {
    unsigned page = (unsigned)quantum / (unsigned)quanta_per_page; /* 2^31 quanta are positions enough */
    attend_place place = {(int)page,
                          (int)((unsigned)quantum - page * (unsigned)quanta_per_page) * ATTEND_QUANTUM};
    return place;
}

/* The unit of the pool (kv_page.h) where a quantum's keys for a kv head begin; in int8, the scales of those.
 */
ATTEND_FUNCTION size_t attend_element(const kv_format *format, const int32_t *table, attend_place at,
                                      int kv_head) {
    const size_t page = (size_t)table[at.page] * kv_page_elements(format);
    return page + (format->layout == KV_INT8_ROWS ? kv_row_scale(format, KV_PART_K, kv_head, at.slot)
                                                  : kv_element(format, KV_PART_K, kv_head, at.slot));
}

/* ---- shared memory ---- */

/* Keys, values and queries lie in rows with 16 bytes behind each: then a row is an odd number of 16-byte
 * pieces, and the eight that a matrix load takes at once lie in different banks. */
ATTEND_FUNCTION int attend_stride(int width) {
    return width + 8;
}

/* What a lane gives the address of when a warp loads matrices (warp.cuh), as an element of a tile: of 16
 * queries, or 16 positions of values, by 16 elements. */
ATTEND_FUNCTION int attend_lane_element(int width, int lane) {
    return lane % 16 * attend_stride(width) + lane / 16 * 8;
}

/* Of 16 positions of keys, which come as columns. */
ATTEND_FUNCTION int attend_lane_key(int width, int lane) {
    return (lane % 8 + lane / 16 * 8) * attend_stride(width) + lane / 8 % 2 * 8;
}

/* Of a CTA (a block of threads): warps, the positions of one of its tiles of keys and values, and the queries
 * of a warp in steps of 16. */
enum {
    ATTEND_WARPS = 4,
    ATTEND_THREADS = 32 * ATTEND_WARPS,
    ATTEND_HEADS = 16,
    ATTEND_PLACE_BYTES = 160,
    ATTEND_PARTS = 4
};

ATTEND_FUNCTION int attend_prompt_positions(int width) {
    return width > 128 ? 32 : 64;
}

ATTEND_FUNCTION int attend_prompt_queries(int sixteens) {
    return 16 * sixteens * ATTEND_WARPS;
}

/* Scales of a tile of codes, of keys and of values. */
ATTEND_FUNCTION int attend_tile_scales(int width) {
    return 2 * attend_prompt_positions(width);
}

/* What a CTA works on, the queries, and two tiles of keys and of values, and of their scales. */
ATTEND_FUNCTION size_t attend_prompt_bytes(int width, int sixteens) {
    size_t rows = (size_t)(attend_prompt_queries(sixteens) + 4 * attend_prompt_positions(width));
    return ATTEND_PLACE_BYTES + rows * (size_t)attend_stride(width) * sizeof(uint16_t) +
           2 * (size_t)attend_tile_scales(width) * sizeof(float);
}

/* Hopper's products read tiles of 64 elements a row, 128 bytes, of which row r has its 16-byte chunk c in
 * place c ^ r % 8 (PTX ISA, "128-byte swizzling"); wider keys and values lie in several such tiles. */
enum { ATTEND_SWIZZLED_ROWS = 64, ATTEND_SWIZZLED_WIDTH = 64, ATTEND_SWIZZLED_ALIGNMENT = 1024 };

ATTEND_FUNCTION int attend_swizzled_element(int row, int chunk) {
    const int chunks = ATTEND_SWIZZLED_WIDTH / 8;
    return (chunk / chunks * ATTEND_SWIZZLED_ROWS + row) * ATTEND_SWIZZLED_WIDTH +
           8 * ((chunk ^ row) % chunks);
}

/* Head widths that attend_hopper.cu was compiled for. */
ATTEND_FUNCTION bool attend_has_hopper(int width) {
    return width == 64 || width == 128;
}

/* Tiles of keys and values that are under way, or are being worked on; the copies of so many are under way at
 * most. */
enum { ATTEND_STAGES = 4, ATTEND_COPIES = 2 };

/* The place, the stages' barriers and scales; the stages, wherever the next alignment is. */
ATTEND_FUNCTION size_t attend_hopper_bytes(int width) {
    size_t stage = 2 * ATTEND_SWIZZLED_ROWS * (size_t)width * sizeof(uint16_t);
    return 2 * ATTEND_SWIZZLED_ALIGNMENT +
           ATTEND_STAGES * (stage + (size_t)attend_tile_scales(width) * sizeof(float));
}

/* Generated rows: quanta of keys or values that are on their way to one warp. A divisor of 8. */
ATTEND_FUNCTION int attend_slots(int width) {
    return width <= 64 ? 8 : width <= 128 ? 4 : 2;
}

/* Rows of codes of a quantum on its way lie so many bytes apart: an odd number of 16-byte pieces. */
ATTEND_FUNCTION int attend_code_stride(int width) {
    return width + (width / 16 % 2 ? 0 : 16);
}

/* Numbers that a lane holds of the values of one query. */
ATTEND_FUNCTION int attend_per_lane(int width) {
    return (width + 31) / 32;
}

/* Of one query at one level of the tree: the values, maximum and sum of each lane, which holds per_lane of
 * the values. */
ATTEND_FUNCTION int attend_level_floats(int per_lane) {
    return (per_lane + 2) * 32;
}

/* From one partial result to the next where a warp puts four queries' at once: in different banks. */
ATTEND_FUNCTION int attend_staged_floats(int width) {
    return (int)attend_partial_floats(width) + 8;
}

/* The queries, what is on its way, a partial result of n_queries from each warp, and the tree's levels. */
ATTEND_FUNCTION size_t attend_generated_bytes(int width, int n_queries, int n_levels) {
    size_t rows = (size_t)(ATTEND_HEADS + ATTEND_WARPS * attend_slots(width) * ATTEND_QUANTUM);
    size_t partials = (size_t)(ATTEND_WARPS * n_queries * attend_staged_floats(width));
    size_t levels = (size_t)(n_queries * n_levels * attend_level_floats(attend_per_lane(width)));
    return rows * (size_t)attend_stride(width) * sizeof(uint16_t) + (partials + levels) * sizeof(float);
}

/* The tree's levels, at most `most`, that leave place for two CTAs in a multiprocessor, of which the larger
 * part of the memory is max_bytes; or else for one; -1: not even without any. */
ATTEND_FUNCTION int attend_levels_that_fit(int width, int n_queries, size_t max_bytes, int most) {
    const size_t reserved = 1024; /* by the system, of each CTA */
    const size_t half = (max_bytes + reserved) / 2 - reserved;
    int levels = most;
    while (levels > 0 && attend_generated_bytes(width, n_queries, levels) > half)
        levels--;
    if (levels > 0) return levels;
    for (levels = most; levels >= 0 && attend_generated_bytes(width, n_queries, levels) > max_bytes;)
        levels--;
    return levels;
}
