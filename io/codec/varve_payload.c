#include "io/codec/varve_payload.h"

#include <math.h>
#include <stdlib.h>

#include "io/codec/varve_private.h"

static bool split(byte_reader *from, size_t n, byte_reader *out) {
    if (from->n < n) return false;
    *out = (byte_reader){from->at, n, false};
    from->at += n;
    from->n -= n;
    return true;
}

/* How many bytes the marked tokens take. */
static size_t count_kept(const varve_payload *p, const varve_shape *s, dtype type) {
    size_t n = 0;
    for (uint32_t i = 0; i < p->head.n_marks; i++) {
        uint32_t mark;
        memcpy(&mark, p->marks.at + (size_t)i * sizeof mark, sizeof mark);
        n += mark & 1 ? N_KV_PARTS * varve_token_bytes(s, type) : varve_sink_bytes(s);
    }
    return n;
}

static bool read_positions(byte_reader *runs, uint32_t n_runs, int32_t n_tokens, int64_t *positions) {
    varve_run run, next = {0, 0};
    for (uint32_t i = 0; i < n_runs; i++) {
        run = next;
        byte_reader_take(runs, &next, sizeof next);
        if (i == 0 ? next.first != 0 : next.first <= run.first) return false;
        if (next.first >= (uint32_t)n_tokens) return false;
        for (uint32_t t = next.first; t < (uint32_t)n_tokens; t++)
            positions[t] = (int64_t)next.position + (t - next.first);
    }
    return true;
}

static void next_mark(varve_payload *p) {
    p->mark = UINT32_MAX;
    if (p->n_marks < p->head.n_marks) byte_reader_take(&p->marks, &p->mark, sizeof p->mark);
    p->n_marks++;
}

bool varve_payload_open(const varve_shape *shape, const varve_plane *planes, int n_planes,
                        const varve_chunk *chunk, varve_payload *out) {
    varve_payload p = {.positions = mem_new((size_t)chunk->n_tokens, sizeof *p.positions)};
    byte_reader r = {planes[0].bytes, planes[0].n_bytes, false}, runs;
    varve_head *head = &p.head;
    const size_t n_tiles = ((size_t)chunk->n_tokens - 1) / VARVE_TILE + 1;
    byte_reader_take(&r, head, sizeof *head);
    const size_t n_own =
        head->kind & VARVE_OWN_LEVELS ? (size_t)chunk->n_layers * (size_t)varve_n_numbers(shape) : 0;
    const bool has_copies = head->kind & VARVE_COPIES;
    head->kind &= VARVE_KINDS;
    if (has_copies) varve_copies_open(chunk->n_tokens, &p.copies);
    bool good = !r.is_short && head->n_planes >= n_planes && head->n_planes <= VARVE_PLANES &&
                head->kind < N_VARVE_KINDS && head->step > 0 && isfinite(head->step) &&
                abs(head->step_level) <= 1000 && head->n_runs >= 1 &&
                head->n_runs <= (uint32_t)chunk->n_tokens;
    good = good && split(&r, head->n_runs * sizeof(varve_run), &runs) &&
           read_positions(&runs, head->n_runs, chunk->n_tokens, p.positions) &&
           split(&r, (n_tiles + 3) / 4 * 4, &p.grades) && (!has_copies || varve_copies_read(&r, &p.copies)) &&
           split(&r, n_own, &p.own) && split(&r, (size_t)head->n_marks * sizeof(uint32_t), &p.marks) &&
           split(&r, count_kept(&p, shape, chunk->type), &p.kept) &&
           split(&r, (size_t)head->n_escapes * sizeof(int16_t), &p.escapes);
    p.streams[0] = r;
    for (int i = 1; i < n_planes; i++)
        p.streams[i] = (byte_reader){planes[i].bytes, planes[i].n_bytes, false};
    for (int i = 0; i < n_planes; i++)
        good = good && p.streams[i].n >= RANS_HEAD_BYTES;
    p.step = head->n_planes > n_planes ? VARVE_PLANE_RATIO * head->step : head->step;
    if (good) next_mark(&p);
    *out = p;
    return good;
}

void varve_payload_close(varve_payload *p) {
    free(p->positions);
    varve_copies_close(&p->copies);
}

bool varve_payload_grade(varve_payload *p, int *grade) {
    uint8_t found;
    byte_reader_take(&p->grades, &found, sizeof found);
    *grade = found;
    return found < VARVE_GRADES;
}

bool varve_payload_coded(const varve_payload *p, int tile, int layer, int n_tokens, uint32_t *coded) {
    varve_payload ahead = *p;
    *coded = (uint32_t)((UINT64_C(1) << n_tokens) - 1);
    for (uint32_t last = 0; varve_payload_is_at(&ahead, tile, layer); next_mark(&ahead)) {
        const uint32_t lane = ahead.mark >> 1 & 31;
        if (ahead.mark < last || !(*coded >> lane & 1)) return false;
        last = ahead.mark;
        *coded &= ~(1u << lane);
    }
    return true;
}

bool varve_payload_copies(varve_payload *p, int tile, int grade, uint32_t coded, uint32_t *copies) {
    *copies = 0;
    return !p->copies.sources || varve_copies_settle(&p->copies, tile, grade, coded, copies);
}

int varve_payload_take_kept(varve_payload *p, const varve_shape *shape, dtype type, void *elements) {
    const int lane = (int)(p->mark >> 1 & 31);
    const size_t part_bytes = varve_token_bytes(shape, type),
                 sink_bytes = varve_sink_bytes(shape) / N_KV_PARTS;
    if (p->mark & 1) {
        byte_reader_take(&p->kept, elements, N_KV_PARTS * part_bytes);
    } else {
        uint8_t *sink = mem_new(N_KV_PARTS, sink_bytes);
        byte_reader_take(&p->kept, sink, N_KV_PARTS * sink_bytes);
        for (int part = 0; part < N_KV_PARTS; part++)
            varve_sink_decode(shape, sink + (size_t)part * sink_bytes, type,
                              (char *)elements + (size_t)part * part_bytes);
        free(sink);
    }
    next_mark(p);
    return lane;
}

bool varve_payload_is_over(const varve_payload *p) {
    return p->n_marks == p->head.n_marks + 1;
}
