/* Chunks of the codec kvarve (io/codec/varve.h) into pages, with the bits that processors give them.
 *
 * What is sequential in a chunk is its stream, whose 32 lanes are those of a warp: one warp takes all symbols
 * and leaves components in the device's memory. From these each block rebuilds the numbers of a tile of 32
 * tokens in a block of heads: layer after layer where they are predicted, else every layer by itself. Sums of
 * products of 16-bit numbers are made of 8-bit products on the tensor cores, which add up exactly, and wrap
 * around as they should: (256 a + b) (256 c + d), with a and c signed. This file is compiled without fused
 * multiplications and additions, which would give other bits. */
#include "kernels/cuda/device/cuda_ops.h"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/varve_code.h"

namespace {

enum { WARPS = 8, THREADS = WARPS * WARP, ROW_TILES = VARVE_TILE / 8, PAD = 16 };

template <typename T> __device__ __forceinline__ const T *at(const char *bytes, int64_t offset) {
    return reinterpret_cast<const T *>(bytes + offset);
}

__device__ __forceinline__ const varve_device_layer *layer_of(const varve_image &image, const varve_job &job,
                                                              int layer) {
    return at<varve_device_layer>(image.bytes, image.layers) + job.first_layer + layer - image.first_layer;
}

__device__ __forceinline__ const varve_device_basis *bases_of(const varve_image &image, const varve_job &job,
                                                              int layer) {
    return at<varve_device_basis>(image.bytes, layer_of(image, job, layer)->bases[layer > 0]);
}

/* The token whose components this one copies in a layer; -1: it has its own. */
__device__ __forceinline__ int source_of(const varve_job &job, int layer, int token) {
    if (layer > 0 || !job.sources || token >= job.n_tokens) return -1;
    return at<int32_t>(job.bytes, job.sources)[token];
}

/* ---- the turns of keys ---- */

/* A thread for each pair of a token in a layer; blockIdx.y: the job. */
__global__ void fill_turns(const varve_job *jobs) {
    const varve_job &job = jobs[blockIdx.y];
    const varve_image &image = job.image;
    const int half = image.width / 2;
    const int64_t number = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t row = number / half, i = number % half;
    if (row >= static_cast<int64_t>(job.n_layers) * job.n_tokens) return;
    const int layer = static_cast<int>(row / job.n_tokens);
    const int64_t pos = at<int64_t>(job.bytes, job.positions)[row % job.n_tokens];
    const float frequency = at<float>(image.bytes, layer_of(image, job, layer)->frequencies)[i];
    double sine, cosine;
    key_angle(
        static_cast<double>(static_cast<float>(static_cast<double>(pos) * static_cast<double>(frequency))),
        &sine, &cosine);
    job.turns[row * 2 * half + i] = static_cast<float>(cosine);
    job.turns[row * 2 * half + half + i] = static_cast<float>(sine);
}

/* ---- the streams ---- */

/* A lane of a stream. */
struct stream_lane {
    uint32_t state;
    const uint16_t *words;
    int64_t next, n; /* words, of all lanes: what is taken behind the last is 0 */
};

__device__ __forceinline__ stream_lane stream_begin(const varve_job &job, int plane) {
    stream_lane s = {};
    s.state = at<uint32_t>(job.bytes, job.streams[plane])[threadIdx.x];
    s.words = at<uint16_t>(job.bytes, job.streams[plane] + RANS_HEAD_BYTES);
    s.n = job.stream_words[plane];
    return s;
}

/* Lanes below this one. */
__device__ __forceinline__ int count_before(unsigned lanes) {
    return __popc(lanes & ((1u << threadIdx.x) - 1));
}

/* The lane's symbol, where it has one, is that of these numbers; all lanes together. */
__device__ __forceinline__ void stream_advance(stream_lane &s, bool has_one, uint32_t start, uint32_t size) {
    uint32_t x = s.state;
    if (has_one) x = size * (x >> RANS_BITS) + (x & (RANS_TOTAL - 1)) - start;
    const unsigned wanting = __ballot_sync(0xffffffffu, has_one && x < 1u << 16);
    if (wanting >> threadIdx.x & 1) {
        const int64_t word = s.next + count_before(wanting);
        x = x << 16 | (word < s.n ? s.words[word] : 0u);
    }
    s.next += __popc(wanting);
    s.state = x;
}

/* Of a component, in a lane that is coded: its number in steps, in units. Escapes come in the order of the
 * lanes, from *n_escaped on. */
__device__ __forceinline__ int take_component(const varve_image &image, const varve_job &job, int at_class,
                                              bool is_coded, stream_lane s[VARVE_PLANES],
                                              int64_t *n_escaped) {
    const bool has_base = job.n_planes_coded > 1;
    const varve_device_class *all = at<varve_device_class>(image.bytes, image.classes);
    const varve_device_class *taken = all + has_base * VARVE_CLASSES + at_class;
    const varve_device_class *whole = job.n_planes > 1 ? all + at_class : taken;
    if (taken->is_silent) return 0;
    const uint32_t slot = at<uint32_t>(
        image.bytes, image.slots)[(has_base * VARVE_CLASSES + at_class) * static_cast<int64_t>(RANS_TOTAL) +
                                  (s[0].state & (RANS_TOTAL - 1))];
    int symbol = is_coded ? static_cast<int8_t>(slot) : 0, digit = 0;
    stream_advance(s[0], is_coded, slot >> 8 & 0xfff, slot >> 20);
    if (job.n_planes > 1) {
        const uint16_t *starts = whole->digits[varve_digits_row(symbol)];
        const uint32_t number = s[1].state & (RANS_TOTAL - 1);
        digit = (number >= starts[0]) + (number >= starts[1]) - 1;
        const uint32_t begin = digit < 0 ? 0 : starts[digit],
                       end = digit > 0 ? static_cast<uint32_t>(RANS_TOTAL) : starts[digit + 1];
        stream_advance(s[1], is_coded, begin, end - begin);
        if (symbol < 0) digit = -digit;
        if (!is_coded) digit = 0;
    }
    const bool escapes = symbol == taken->most + 1;
    const unsigned escaping = __ballot_sync(0xffffffffu, escapes);
    if (escapes) {
        const int64_t number = *n_escaped + count_before(escaping);
        symbol = number < job.n_escapes ? at<int16_t>(job.bytes, job.escapes)[number] : 0;
    }
    *n_escaped += __popc(escaping);
    if (job.n_planes > 1) symbol = VARVE_PLANE_RATIO * symbol + digit;
    if (symbol > VARVE_LARGEST_SYMBOL || symbol < -VARVE_LARGEST_SYMBOL) symbol = 0;
    return varve_component(whole->shifts, symbol);
}

/* Components of a basis in a layer of a tile: [n, TILE]. */
__device__ __forceinline__ void take_basis(const varve_image &image, const varve_job &job,
                                           const varve_device_basis &b, int layer, int grade, bool is_coded,
                                           stream_lane s[VARVE_PLANES], int64_t *n_escaped,
                                           int16_t *components) {
    const int lane = static_cast<int>(threadIdx.x);
    for (int c0 = 0; c0 < b.n; c0 += WARP) {
        int own_class = 0;
        if (c0 + lane < b.n) {
            int level = at<int16_t>(image.bytes, b.levels)[c0 + lane] + grade * VARVE_OCTAVE;
            if (job.own)
                level += at<int8_t>(
                    job.bytes, job.own)[static_cast<int64_t>(layer) * image.n_numbers + b.first + c0 + lane];
            own_class = varve_class_of(level, job.step_level);
        }
        for (int c = c0; c < b.n && c < c0 + WARP; c++) {
            const int at_class = __shfl_sync(0xffffffffu, own_class, c - c0);
            components[c * VARVE_TILE + lane] =
                static_cast<int16_t>(take_component(image, job, at_class, is_coded, s, n_escaped));
        }
    }
}

/* A warp for each job, of which it has a copy: what it stores could change one in memory, for all that a
 * compiler knows, so that it would read everything again for every symbol. */
__global__ void take_components(const varve_job *jobs) {
    const varve_job job = jobs[blockIdx.x];
    const varve_image &image = job.image;
    const int n_bases = image.n_blocks * image.block_bases;
    stream_lane s[VARVE_PLANES] = {};
    int64_t n_escaped = 0;
#pragma unroll
    for (int plane = 0; plane < VARVE_PLANES; plane++)
        if (plane < job.n_planes) s[plane] = stream_begin(job, plane);
    for (int tile = 0; tile < varve_job_tiles(&job); tile++)
        for (int layer = 0; layer < job.n_layers; layer++) {
            const int row = tile * job.n_layers + layer, grade = at<uint8_t>(job.bytes, job.grades)[tile];
            const int token = tile * VARVE_TILE + static_cast<int>(threadIdx.x);
            const bool is_coded = (at<uint32_t>(job.bytes, job.coded)[row] >> threadIdx.x & 1) &&
                                  source_of(job, layer, token) < 0;
            int16_t *to = job.components + static_cast<int64_t>(row) * image.n_numbers * VARVE_TILE;
            for (int i = 0; i < n_bases; i++) {
                const varve_device_basis b = bases_of(image, job, layer)[i];
                take_basis(image, job, b, layer, grade, is_coded, s, &n_escaped,
                           to + static_cast<int64_t>(b.first) * VARVE_TILE);
            }
        }
    bool is_bad = n_escaped != job.n_escapes;
#pragma unroll
    for (int plane = 0; plane < VARVE_PLANES; plane++)
        is_bad |= plane < job.n_planes && (s[plane].next != s[plane].n || s[plane].state != 1u << 16);
    const unsigned bad = __ballot_sync(0xffffffffu, is_bad);
    if (threadIdx.x == 0) *job.is_bad = bad;
}

/* ---- a tile of a block of heads ---- */

/* 16-bit numbers of a tile's tokens, a row each: upper bytes and lower ones. */
struct tile_rows {
    uint8_t *highs, *lows;
    int stride;

    __device__ void put(int token, int i, int x) {
        highs[token * stride + i] = static_cast<uint8_t>(x >> 8);
        lows[token * stride + i] = static_cast<uint8_t>(x);
    }
    __device__ int get(int token, int i) const {
        return static_cast<int16_t>(highs[token * stride + i] << 8 | lows[token * stride + i]);
    }
};

__device__ __forceinline__ uint32_t word_at(const uint8_t *bytes) {
    return *reinterpret_cast<const uint32_t *>(bytes);
}

/* Of a matrix with rows of n bytes: what warp_mma_bytes takes of rows [row0, row0 + 16) and columns from k
 * on.
 */
__device__ __forceinline__ void load_matrix(uint32_t a[4], const uint8_t *matrix, int n, int row0, int k) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    for (int i = 0; i < 4; i++)
        a[i] = word_at(matrix + static_cast<int64_t>(row0 + lane / 4 + i % 2 * 8) * n + k + lane % 4 * 4 +
                       i / 2 * 16);
}

/* sums: rows [row0, row0 + 16) of a matrix times the rows of each token from `first` on, as warp_mma_bytes
 * lays them out, 8 tokens each. lows: NULL where the matrix is of 8 bits. */
__device__ void multiply(const uint8_t *highs, const uint8_t *lows, int n, int row0, const tile_rows &x,
                         int first, int sums[ROW_TILES][4]) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    int upper[ROW_TILES][4] = {}, middle[ROW_TILES][4] = {}, lower[ROW_TILES][4] = {};
    for (int k = 0; k < n; k += 32) {
        uint32_t a[4], a_low[4];
        load_matrix(a, highs, n, row0, k);
        if (lows) load_matrix(a_low, lows, n, row0, k);
        for (int i = 0; i < ROW_TILES; i++) {
            const int from = (i * 8 + lane / 4) * x.stride + first + k + lane % 4 * 4;
            const uint32_t b[2] = {word_at(x.highs + from), word_at(x.highs + from + 16)};
            const uint32_t b_low[2] = {word_at(x.lows + from), word_at(x.lows + from + 16)};
            if (lows) {
                warp_mma_bytes<true, true>(upper[i], a, b);
                warp_mma_bytes<true, false>(middle[i], a, b_low);
                warp_mma_bytes<false, true>(middle[i], a_low, b);
                warp_mma_bytes<false, false>(lower[i], a_low, b_low);
            } else {
                warp_mma_bytes<true, true>(middle[i], a, b);
                warp_mma_bytes<true, false>(lower[i], a, b_low);
            }
        }
    }
    for (int i = 0; i < ROW_TILES; i++)
        for (int c = 0; c < 4; c++)
            sums[i][c] = static_cast<int>((static_cast<uint32_t>(upper[i][c]) << 16) +
                                          (static_cast<uint32_t>(middle[i][c]) << 8) +
                                          static_cast<uint32_t>(lower[i][c]));
}

/* What a block works on: a tile of a block of heads, in a strand of layers. */
struct block_part {
    int tile, n_tokens, strand;
    int first_basis, first_head, n_heads, first; /* first: of all numbers */
};

__device__ __forceinline__ block_part part_of(const varve_image &image, const varve_job &job) {
    block_part p = {};
    const int block = static_cast<int>(blockIdx.y) % image.n_blocks;
    p.tile = static_cast<int>(blockIdx.x);
    p.n_tokens = min(static_cast<int>(VARVE_TILE), job.n_tokens - p.tile * VARVE_TILE);
    p.strand = static_cast<int>(blockIdx.y) / image.n_blocks;
    p.first_basis = block * image.block_bases;
    p.first_head = block * image.block_heads;
    p.n_heads = min(image.block_heads, image.n_heads - p.first_head);
    p.first = N_KV_PARTS * p.first_head * image.width;
    return p;
}

/* Where the components of a basis of the block begin in their rows, so that words of them lie at multiples of
 * 4. */
__device__ __forceinline__ int components_at(int basis, int n_padded) {
    return basis * n_padded;
}

__device__ void load_components(const varve_image &image, const varve_job &job, const block_part &p,
                                int layer, tile_rows to) {
    const int lane = static_cast<int>(threadIdx.x) % WARP, own = p.tile * VARVE_TILE + lane;
    const int copied = source_of(job, layer, own), source = copied < 0 ? own : copied;
    const int64_t row = static_cast<int64_t>(source / VARVE_TILE) * job.n_layers + layer;
    const int16_t *from = job.components + row * image.n_numbers * VARVE_TILE + source % VARVE_TILE;
    for (int i = 0; i < image.block_bases; i++) {
        const varve_device_basis b = bases_of(image, job, layer)[p.first_basis + i];
        for (int c = static_cast<int>(threadIdx.x) / WARP; c < b.n_padded; c += WARPS)
            to.put(lane, components_at(i, b.n_padded) + c,
                   c < b.n ? from[static_cast<int64_t>(b.first + c) * VARVE_TILE] : 0);
    }
}

/* Numbers of a layer from components and the numbers before. */
__device__ void rebuild_layer(const varve_image &image, const varve_job &job, const block_part &p, int layer,
                              float scale, const tile_rows &components, const tile_rows &before,
                              tile_rows numbers) {
    const int warp = static_cast<int>(threadIdx.x) / WARP, lane = static_cast<int>(threadIdx.x) % WARP;
    for (int i = 0; i < image.block_bases; i++) {
        const varve_device_basis b = bases_of(image, job, layer)[p.first_basis + i];
        for (int row0 = warp * 16; row0 < b.n_padded; row0 += WARPS * 16) {
            int said[ROW_TILES][4] = {}, sums[ROW_TILES][4];
            if (b.shares)
                multiply(at<uint8_t>(image.bytes, b.shares), nullptr, b.n_padded, row0, before, 0, said);
            multiply(at<uint8_t>(image.bytes, b.highs), at<uint8_t>(image.bytes, b.lows), b.n_padded, row0,
                     components, components_at(i, b.n_padded), sums);
            for (int k = 0; k < ROW_TILES * 4; k++) {
                const int j = row0 + lane / 4 + k % 4 / 2 * 8, token = k / 4 * 8 + lane % 4 * 2 + k % 2;
                const float unit = b.shares ? at<float>(image.bytes, b.units)[j] : 0;
                const float predicted = static_cast<float>(said[k / 4][k % 4]) * unit;
                if (j < b.n)
                    numbers.put(
                        token, b.first - p.first + j,
                        varve_round_number(static_cast<float>(sums[k / 4][k % 4]) * scale + predicted));
            }
        }
    }
}

__device__ __forceinline__ float as_float(float x) {
    return x;
}
__device__ __forceinline__ float as_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

/* A thread's pair of neighbours in RoPE's sense: numbers i and i + width / 2 of a part of a head. */
struct key_pair {
    int part, head, i; /* head: of the block's */
};

__device__ __forceinline__ key_pair pair_of(const varve_image &image, const block_part &p, int number) {
    const int half = image.width / 2;
    key_pair pair = {};
    pair.i = number % half;
    pair.head = number / half % p.n_heads;
    pair.part = number / half / p.n_heads;
    return pair;
}

__device__ __forceinline__ int pair_number(const varve_image &image, const block_part &p,
                                           const key_pair &pair) {
    return (pair.part * p.n_heads + pair.head) * image.width + pair.i;
}

/* Where a token's row goes; NULL: nowhere. */
template <typename E>
__device__ E *row_at(const varve_job &job, const kv_format &format, const block_part &p, const key_pair &pair,
                     int layer, int token) {
    const varve_place *place = at<varve_place>(job.bytes, job.places) + layer;
    if (token < place->first_token || token >= place->last_token) return nullptr;
    const int64_t pos = token + place->shift, page = pos / format.page_tokens - place->first_page;
    E *pages =
        static_cast<E *>(place->pages) + static_cast<int64_t>(at<int32_t>(job.bytes, place->table)[page]) *
                                             static_cast<int64_t>(kv_page_elements(&format));
    return pages + kv_element(&format, static_cast<kv_part>(pair.part), p.first_head + pair.head,
                              static_cast<int>(pos % format.page_tokens));
}

/* Tokens that are kept otherwise: their rows as they are, and their numbers. */
template <typename E>
__device__ void place_kept(const varve_image &image, const varve_job &job, const kv_format &format,
                           const block_part &p, int layer, tile_rows numbers) {
    const int row = p.tile * job.n_layers + layer, half = image.width / 2,
              n_pairs = N_KV_PARTS * p.n_heads * half;
    const int32_t *first_kept = at<int32_t>(job.bytes, job.first_kept) + row;
    const varve_device_layer *l = layer_of(image, job, layer);
    const float *means = at<float>(image.bytes, l->means) + p.first;
    for (int k = first_kept[0]; k < first_kept[1]; k++)
        for (int n = static_cast<int>(threadIdx.x); n < n_pairs; n += THREADS) {
            const key_pair pair = pair_of(image, p, n);
            const int lane = at<uint8_t>(job.bytes, job.lanes_kept)[k], token = p.tile * VARVE_TILE + lane,
                      number = pair_number(image, p, pair);
            const E *from = at<E>(job.bytes, job.rows_kept) +
                            ((static_cast<int64_t>(k) * N_KV_PARTS + pair.part) * image.n_heads +
                             p.first_head + pair.head) *
                                image.width +
                            pair.i;
            E *to = row_at<E>(job, format, p, pair, layer, token);
            if (to) to[pair.i] = from[0], to[pair.i + half] = from[half];
            float x = as_float(from[0]), y = as_float(from[half]);
            if (pair.part == KV_PART_K) {
                const float *turns =
                    job.turns + (static_cast<int64_t>(layer) * job.n_tokens + token) * image.width + pair.i;
                const float a = x, b = y;
                x = a * turns[0] + b * turns[half];
                y = b * turns[0] - a * turns[half];
            }
            const float unit = l->units[pair.part];
            numbers.put(lane, number, varve_round_number((x - means[number]) / unit * VARVE_NUMBER_UNIT));
            numbers.put(lane, number + half,
                        varve_round_number((y - means[number + half]) / unit * VARVE_NUMBER_UNIT));
        }
}

/* Rows of the tokens that are coded. */
template <typename E>
__device__ void place_coded(const varve_image &image, const varve_job &job, const kv_format &format,
                            const block_part &p, int layer, const tile_rows &numbers) {
    const uint32_t coded = at<uint32_t>(job.bytes, job.coded)[p.tile * job.n_layers + layer];
    const int half = image.width / 2, n_pairs = N_KV_PARTS * p.n_heads * half;
    const varve_device_layer *l = layer_of(image, job, layer);
    const float *means = at<float>(image.bytes, l->means) + p.first;
    for (int n = static_cast<int>(threadIdx.x); n < n_pairs * p.n_tokens; n += THREADS) {
        const key_pair pair = pair_of(image, p, n % n_pairs);
        const int lane = n / n_pairs, token = p.tile * VARVE_TILE + lane,
                  number = pair_number(image, p, pair);
        E *to = coded >> lane & 1 ? row_at<E>(job, format, p, pair, layer, token) : nullptr;
        if (!to) continue;
        const float unit = l->units[pair.part] / VARVE_NUMBER_UNIT;
        float x = means[number] + static_cast<float>(numbers.get(lane, number)) * unit;
        float y = means[number + half] + static_cast<float>(numbers.get(lane, number + half)) * unit;
        if (pair.part == KV_PART_K) {
            const float *turns =
                job.turns + (static_cast<int64_t>(layer) * job.n_tokens + token) * image.width + pair.i;
            const float a = x, b = y;
            x = a * turns[0] - b * turns[half];
            y = b * turns[0] + a * turns[half];
        }
        to[pair.i] = static_cast<E>(x);
        to[pair.i + half] = static_cast<E>(y);
    }
}

/* A block for each tile, strand of layers and block of heads of a job, which is blockIdx.z. stride: bytes of
 * a row of tile_rows. */
template <typename E> __global__ void rebuild(const varve_job *jobs, const kv_format format, int stride) {
    const varve_job &job = jobs[blockIdx.z];
    const varve_image &image = job.image;
    const block_part p = part_of(image, job);
    if (p.n_tokens <= 0 || p.strand >= varve_job_strands(&job)) return; /* another job has as many */
    if (*job.is_bad) return;                                            /* no row changes */
    const int plane_bytes = VARVE_TILE * stride;
    uint8_t *shared = cuda_shared_memory();
    tile_rows components = {shared, shared + plane_bytes, stride}, before = components, numbers = components;
    numbers.highs = shared + 2 * plane_bytes, numbers.lows = shared + 3 * plane_bytes;
    before.highs = shared + 4 * plane_bytes, before.lows = shared + 5 * plane_bytes;
    const int first = p.strand, last = job.is_predicted ? job.n_layers : first + 1;
    const int grade = at<uint8_t>(job.bytes, job.grades)[p.tile];
    const float scale = varve_sum_unit(varve_grade_step(job.step, grade));
    for (int layer = first; layer < last; layer++) {
        load_components(image, job, p, layer, components);
        __syncthreads();
        rebuild_layer(image, job, p, layer, scale, components, before, numbers);
        __syncthreads();
        place_kept<E>(image, job, format, p, layer, numbers);
        __syncthreads();
        place_coded<E>(image, job, format, p, layer, numbers);
        if (!job.is_predicted) return;
        const tile_rows next = before;
        before = numbers;
        numbers = next;
        __syncthreads();
    }
}

} // namespace

status cuda_decode_chunks(device *base, device_copy *copy, const kv_format *format, const varve_job *jobs,
                          const varve_job *there, int n) {
    const varve_image *image = &jobs[0].image; /* all are of its shape */
    const int threads = 128;
    int64_t n_turns = 0;
    int tiles = 0, strands = 0;
    for (int i = 0; i < n; i++) {
        n_turns =
            max(n_turns, static_cast<int64_t>(jobs[i].n_layers) * jobs[i].n_tokens * (image->width / 2));
        tiles = max(tiles, varve_job_tiles(&jobs[i]));
        strands = max(strands, varve_job_strands(&jobs[i]));
    }
    const int block_numbers = N_KV_PARTS * min(image->block_heads, image->n_heads) * image->width;
    /* The same for both kinds: what a kernel may take is set by whichever thread comes. */
    const int stride =
        max(N_KV_PARTS * varve_padded(block_numbers / N_KV_PARTS), varve_padded(block_numbers)) + PAD;
    const size_t shared_bytes = static_cast<size_t>(6) * VARVE_TILE * stride;
    const unsigned n_jobs = static_cast<unsigned>(n);
    const dim3 turn_grid(static_cast<unsigned>((n_turns + threads - 1) / threads), n_jobs),
        grid(static_cast<unsigned>(tiles), static_cast<unsigned>(strands * image->n_blocks), n_jobs);
    auto kernel = format->type == DTYPE_F32 ? rebuild<float> : rebuild<__nv_bfloat16>;
    const cudaStream_t stream = cuda_copy_stream(base, copy);
    cudaError_t code = cuda_launch_on(stream, fill_turns, turn_grid, dim3(threads), 0, there);
    if (code == cudaSuccess)
        code = cuda_launch_on(stream, take_components, dim3(n_jobs), dim3(WARP), 0, there);
    if (code == cudaSuccess)
        code = cuda_launch_on(stream, kernel, grid, dim3(THREADS), shared_bytes, there, *format, stride);
    if (code != cudaSuccess) return status_fail("cuda: decoding of chunks: %s", cudaGetErrorString(code));
    return cuda_copy_begin(base, copy, nullptr, nullptr, 0);
}
