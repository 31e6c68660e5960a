#include "io/codec/varve_device.h"

#include <stdlib.h>

#include "io/codec/varve_payload.h"
#include "io/codec/varve_private.h"

/* Appended where any type may begin; where that is. */
static int64_t append(text_buffer *to, const void *bytes, size_t n) {
    static const char zeros[16] = {0};
    text_append(to, zeros, (sizeof zeros - to->n % sizeof zeros) % sizeof zeros);
    const int64_t at = (int64_t)to->n;
    text_append(to, bytes, n);
    return at;
}

/* ---- tables ---- */

/* Of pairs (io/codec/varve_tables.h), what they say of number j and of component, or number before, c. */
static int16_t pair_at(const int16_t *pairs, int n, int j, int c) {
    if (!pairs) return j == c ? 1 << VARVE_BASIS_BITS : 0;
    return pairs[((size_t)(j / 2) * (size_t)n + (size_t)(c / 2 * 2 + j % 2)) * 2 + (size_t)c % 2];
}

/* Bytes of a matrix's numbers: from `shift` on. */
static int64_t append_matrix(const int16_t *pairs, int n, int shift, text_buffer *to) {
    const size_t side = (size_t)varve_padded(n);
    uint8_t *bytes = mem_new(side * side, 1);
    for (int j = 0; j < n; j++)
        for (int c = 0; c < n; c++)
            bytes[(size_t)j * side + (size_t)c] = (uint8_t)((uint16_t)pair_at(pairs, n, j, c) >> shift);
    const int64_t at = append(to, bytes, side * side);
    free(bytes);
    return at;
}

static int64_t append_bases(const varve_tables *t, const varve_basis *bases, varve_bases kind,
                            text_buffer *to) {
    const int n_bases = varve_n_bases(&t->shape, kind);
    varve_device_basis *all = mem_new((size_t)n_bases, sizeof *all);
    for (int i = 0; i < n_bases; i++) {
        const varve_basis *b = &bases[i];
        all[i] = (varve_device_basis){.first = b->first, .n = b->n, .n_padded = varve_padded(b->n)};
        all[i].levels = append(to, b->levels, (size_t)b->n * sizeof *b->levels);
        all[i].highs = append_matrix(b->pairs, b->n, 8, to);
        all[i].lows = append_matrix(b->pairs, b->n, 0, to);
        if (!b->shares) continue;
        float *units = mem_new((size_t)all[i].n_padded, sizeof *units);
        memcpy(units, b->predicted, (size_t)b->n * sizeof *units);
        all[i].shares = append_matrix(b->shares, b->n, 0, to);
        all[i].units = append(to, units, (size_t)all[i].n_padded * sizeof *units);
        free(units);
    }
    const int64_t at = append(to, all, (size_t)n_bases * sizeof *all);
    free(all);
    return at;
}

static varve_device_layer append_layer(const varve_tables *t, varve_kind kind, int layer, text_buffer *to) {
    const varve_layer *l = &t->layers[layer];
    const varve_bases first = varve_bases_of(kind, true), other = varve_bases_of(kind, false);
    varve_device_layer out = {.units = {l->units[KV_PART_K], l->units[KV_PART_V]}};
    out.means = append(to, l->means, (size_t)varve_n_numbers(&t->shape) * sizeof *l->means);
    out.frequencies = append(to, l->frequencies, (size_t)t->shape.width / 2 * sizeof *l->frequencies);
    out.bases[0] = out.bases[1] = append_bases(t, l->bases[first], first, to);
    if (other != first && layer > 0) out.bases[1] = append_bases(t, l->bases[other], other, to);
    return out;
}

/* Their slots are behind each other. */
static void append_classes(const varve_tables *t, text_buffer *to, varve_image *out) {
    varve_device_class all[VARVE_PLANES][VARVE_CLASSES] = {{{.most = 0}}};
    out->slots = append(to, NULL, 0);
    for (int plane = 0; plane < VARVE_PLANES; plane++)
        for (int i = 0; i < VARVE_CLASSES; i++) {
            const varve_class *c = plane == 0 ? &t->classes[i] : &t->coarse[i];
            varve_device_class *d = &all[plane][i];
            d->most = c->most;
            d->is_silent = c->is_silent;
            memcpy(d->shifts, c->shifts, sizeof d->shifts);
            memcpy(d->digits, t->digits[i].starts, sizeof d->digits);
            text_append(to, (const char *)c->slots, sizeof c->slots);
        }
    out->classes = append(to, all, sizeof all);
}

void varve_image_make(const varve_tables *t, varve_kind kind, int first_layer, int last_layer,
                      text_buffer *bytes, varve_image *out) {
    const varve_bases bases = varve_bases_of(kind, true);
    varve_device_layer *layers = mem_new((size_t)(last_layer - first_layer), sizeof *layers);
    *out = (varve_image){.n_heads = t->shape.n_heads,
                         .width = t->shape.width,
                         .n_numbers = varve_n_numbers(&t->shape),
                         .n_blocks = varve_n_blocks(&t->shape),
                         .block_heads = varve_block_heads(&t->shape),
                         .block_bases = varve_n_bases(&t->shape, bases) / varve_n_blocks(&t->shape),
                         .first_layer = first_layer,
                         .n_layers = last_layer - first_layer};
    for (int layer = first_layer; layer < last_layer; layer++)
        layers[layer - first_layer] = append_layer(t, kind, layer, bytes);
    out->layers = append(bytes, layers, (size_t)out->n_layers * sizeof *layers);
    append_classes(t, bytes, out);
    free(layers);
}

/* ---- chunks ---- */

/* What the marks say, tile by tile. */
typedef struct walk {
    text_buffer grades, coded, first_kept, lanes, rows;
    int32_t n_kept;
} walk;

static void walk_free(walk *w) {
    free(w->grades.data);
    free(w->coded.data);
    free(w->first_kept.data);
    free(w->lanes.data);
    free(w->rows.data);
}

static bool walk_layer(walk *w, varve_payload *p, const varve_tables *t, const varve_chunk *chunk, int tile,
                       int grade, int layer, char *room) {
    const int left = chunk->n_tokens - tile * VARVE_TILE, n = left < VARVE_TILE ? left : VARVE_TILE;
    uint32_t coded, copies;
    if (!varve_payload_coded(p, tile, layer, n, &coded)) return false;
    if (layer == 0 && !varve_payload_copies(p, tile, grade, coded, &copies)) return false;
    text_append(&w->coded, (const char *)&coded, sizeof coded);
    text_append(&w->first_kept, (const char *)&w->n_kept, sizeof w->n_kept);
    for (; varve_payload_is_at(p, tile, layer); w->n_kept++) {
        const char lane = (char)varve_payload_take_kept(p, &t->shape, chunk->type, room);
        text_append(&w->lanes, &lane, 1);
        text_append(&w->rows, room, N_KV_PARTS * varve_token_bytes(&t->shape, chunk->type));
    }
    return true;
}

static bool walk_tiles(walk *w, varve_payload *p, const varve_tables *t, const varve_chunk *chunk) {
    char *room = mem_new(N_KV_PARTS, varve_token_bytes(&t->shape, chunk->type));
    bool good = true;
    for (int tile = 0; good && tile * VARVE_TILE < chunk->n_tokens; tile++) {
        int grade;
        good = varve_payload_grade(p, &grade);
        text_append(&w->grades, &(char){(char)grade}, 1);
        for (int layer = 0; good && layer < chunk->n_layers; layer++)
            good = walk_layer(w, p, t, chunk, tile, grade, layer, room);
    }
    text_append(&w->first_kept, (const char *)&w->n_kept, sizeof w->n_kept);
    free(room);
    return good && varve_payload_is_over(p);
}

/* The first bytes of a block are no part of it: 0 says that there is none. */
static void lay_out(const walk *w, const varve_payload *p, const varve_chunk *chunk, int n_planes,
                    text_buffer *to, varve_job *out) {
    append(to, &(int64_t){0}, sizeof(int64_t));
    *out = (varve_job){.n_tokens = chunk->n_tokens,
                       .first_layer = chunk->first_layer,
                       .n_layers = chunk->n_layers,
                       .n_planes = n_planes,
                       .n_planes_coded = p->head.n_planes,
                       .step_level = p->head.step_level,
                       .is_predicted = p->head.kind == VARVE_SMALL,
                       .step = p->step,
                       .n_escapes = p->head.n_escapes};
    out->positions = append(to, p->positions, (size_t)chunk->n_tokens * sizeof *p->positions);
    out->grades = append(to, w->grades.data, w->grades.n);
    if (p->copies.sources)
        out->sources = append(to, p->copies.sources, (size_t)chunk->n_tokens * sizeof *p->copies.sources);
    if (p->own.n) out->own = append(to, p->own.at, p->own.n);
    out->coded = append(to, w->coded.data, w->coded.n);
    out->first_kept = append(to, w->first_kept.data, w->first_kept.n);
    out->lanes_kept = append(to, w->lanes.data, w->lanes.n);
    out->rows_kept = append(to, w->rows.data, w->rows.n);
    out->escapes = append(to, p->escapes.at, p->escapes.n);
    for (int i = 0; i < n_planes; i++) {
        out->streams[i] = append(to, p->streams[i].at, p->streams[i].n);
        out->stream_words[i] = (int64_t)(p->streams[i].n - RANS_HEAD_BYTES) / 2;
    }
    out->places = append(to, NULL, 0);
    for (int layer = 0; layer < chunk->n_layers; layer++)
        text_append(to, (const char *)&(varve_place){.pages = NULL}, sizeof(varve_place));
}

status varve_job_make(const varve_tables *t, const varve_plane *planes, int n_planes,
                      const varve_chunk *chunk, text_buffer *bytes, varve_job *out) {
    varve_payload p;
    walk w = {.n_kept = 0};
    bool good = varve_payload_open(&t->shape, planes, n_planes, chunk, &p) && walk_tiles(&w, &p, t, chunk);
    for (int i = 0; i < n_planes; i++)
        good = good && p.streams[i].n % 2 == 0;
    if (good) lay_out(&w, &p, chunk, n_planes, bytes, out);
    varve_payload_close(&p);
    walk_free(&w);
    return good ? STATUS_OK : status_refuse("a chunk of kvarve that is damaged");
}

static size_t component_bytes(const varve_job *job, const varve_image *image) {
    return (size_t)varve_job_tiles(job) * (size_t)job->n_layers * (size_t)image->n_numbers * VARVE_TILE *
           sizeof *job->components;
}

size_t varve_job_room(const varve_job *job, const varve_image *image) {
    return component_bytes(job, image) +
           (size_t)job->n_layers * (size_t)job->n_tokens * (size_t)image->width * sizeof *job->turns;
}

void varve_job_settle(varve_job *job, const varve_image *image, const char *bytes, char *room) {
    job->image = *image;
    job->bytes = bytes;
    job->components = (int16_t *)room;
    job->turns = (float *)(room + component_bytes(job, image));
}
