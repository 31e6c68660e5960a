/* tests/io/test_varve_device.c: chunks of the codec kvarve, decoded by every kind of device that does so into
 * pages, have the bits that the host gives them; and are damaged there where they are damaged for the host.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/codec/varve_device.h"
#include "io/codec/varve_payload.h"
#include "io/codec/varve_private.h"
#include "tests/fixtures/device_arrays.h"
#include "tests/fixtures/generic_tables.h"
#include "tests/fixtures/varve_samples.h"

enum { PAGE_TOKENS = 16, SHIFT = 21 }; /* SHIFT: positions of the cache less those of the chunk */

/* What a device has of tables. */
typedef struct loaded {
    const tested *on;
    const varve_tables *tables;
    varve_image image;
    void *memory;
} loaded;

static loaded load(const tested *on, const varve_tables *t, varve_kind kind) {
    loaded l = {.on = on, .tables = t};
    text_buffer bytes = {0};
    varve_image_make(t, kind, 0, N_LAYERS, &bytes, &l.image);
    l.memory = array_new(on->dev, bytes.data, bytes.n);
    l.image.bytes = l.memory;
    free(bytes.data);
    return l;
}

/* Pages of each layer of a chunk. */
typedef struct page_set {
    kv_format format;
    int64_t n_pages; /* of a layer; the table goes through them from last to first */
    void *layers[N_LAYERS];
    int64_t first_token, last_token; /* that are wanted */
    int nowhere;                     /* this layer is not */
} page_set;

static page_set new_pages(device *dev, const varve_shape *s, const varve_chunk *chunk) {
    page_set c = {.format = kv_format_of(chunk->type, KV_ROWS, s->n_heads, s->width, PAGE_TOKENS),
                  .n_pages = kv_pages_for(chunk->n_tokens + SHIFT, PAGE_TOKENS),
                  .first_token = chunk->n_tokens > 40 ? 5 : 0,
                  .last_token = chunk->n_tokens > 40 ? chunk->n_tokens - 3 : chunk->n_tokens,
                  .nowhere = chunk->n_layers > 2 ? 1 : -1};
    for (int layer = 0; layer < chunk->n_layers; layer++)
        c.layers[layer] = array_poisoned(dev, chunk->type, (size_t)c.n_pages * kv_page_elements(&c.format));
    return c;
}

static void put_places(const page_set *c, varve_job *job, text_buffer *bytes) {
    const int64_t first_page = SHIFT / PAGE_TOKENS, table = (int64_t)bytes->n;
    for (int64_t page = first_page; page < c->n_pages; page++)
        text_append(bytes, (const char *)&(int32_t){(int32_t)(c->n_pages - 1 - page)}, sizeof(int32_t));
    for (int layer = 0; layer < job->n_layers; layer++) {
        const varve_place place = {
            c->layers[layer], c->first_token, layer == c->nowhere ? c->first_token : c->last_token, SHIFT,
            first_page,       table};
        memcpy(bytes->data + job->places + (size_t)layer * sizeof place, &place, sizeof place);
    }
}

/* What a device is to decode, and what becomes of it. */
typedef struct order {
    const loaded *l;
    const varve_plane *planes;
    int n_planes;
    const varve_chunk *chunk;
    const page_set *pages;
    status st;
} order;

enum { MOST_ORDERS = 12 };

/* Memory of the device: of jobs, their bytes and rooms, and their verdicts. */
typedef struct memory {
    void *all[3 * MOST_ORDERS];
    int n;
} memory;

static varve_job make_job(device *dev, const order *o, text_buffer *bytes, memory *m) {
    varve_job job;
    if (varve_job_make(o->l->tables, o->planes, o->n_planes, o->chunk, bytes, &job) != STATUS_OK)
        return (varve_job){.n_tokens = 0};
    put_places(o->pages, &job, bytes);
    void *there = m->all[m->n++] = array_new(dev, bytes->data, bytes->n), *room = NULL;
    CHECK_OK(dev->ops->alloc(dev, varve_job_room(&job, &o->l->image), &room));
    m->all[m->n++] = room;
    varve_job_settle(&job, &o->l->image, there, room);
    return job;
}

/* By the device, all together; refused by the host, or bad for the device: refused. */
static void decode(device *dev, order *orders, int n) {
    memory m = {.n = 0};
    varve_job jobs[MOST_ORDERS];
    uint32_t zeros[MOST_ORDERS] = {0}, *there = m.all[m.n++] = array_new(dev, zeros, sizeof zeros);
    int owners[MOST_ORDERS], n_jobs = 0;
    device_copy *copy = NULL;
    CHECK_OK(dev->ops->copy_open(dev, &copy));
    for (int i = 0; i < n; i++) {
        text_buffer bytes = {0};
        jobs[n_jobs] = make_job(dev, &orders[i], &bytes, &m);
        orders[i].st = jobs[n_jobs].n_tokens ? STATUS_OK : STATUS_REFUSED;
        jobs[n_jobs].is_bad = there + n_jobs;
        owners[n_jobs] = i;
        n_jobs += orders[i].st == STATUS_OK;
        free(bytes.data);
    }
    if (n_jobs) {
        void *jobs_there = m.all[m.n++] = array_new(dev, jobs, (size_t)n_jobs * sizeof *jobs);
        CHECK_OK(dev->ops->sync(dev));
        CHECK_OK(dev->ops->decode_chunks(dev, copy, &orders[0].pages->format, jobs, jobs_there, n_jobs));
        for (bool over = false; !over;)
            CHECK_OK(dev->ops->copy_test(dev, copy, &over));
    }
    uint32_t *verdicts = array_read(dev, there, sizeof zeros);
    for (int i = 0; i < n_jobs; i++)
        if (verdicts[i]) orders[owners[i]].st = status_refuse("damaged");
    free(verdicts);
    dev->ops->copy_close(dev, copy);
    for (int i = 0; i < m.n; i++)
        dev->ops->release(dev, m.all[i]);
}

/* What is wanted is where it should be, and nothing else was written. */
static void check_pages(const loaded *l, const varve_chunk *chunk, const page_set *c, const char *elements) {
    const varve_shape *s = &l->tables->shape;
    const size_t row = (size_t)s->width * dtype_bytes(chunk->type);
    const size_t n = (size_t)c->n_pages * kv_page_elements(&c->format);
    char *expected = mem_new(n, dtype_bytes(chunk->type));
    size_t n_wrong = 0;
    for (int layer = 0; layer < chunk->n_layers; layer++) {
        char *found = array_take(l->on->dev, c->layers[layer], n * dtype_bytes(chunk->type));
        poison(expected, chunk->type, n);
        for (int64_t t = c->first_token; layer != c->nowhere && t < c->last_token; t++)
            for (int part = 0; part < N_KV_PARTS; part++)
                for (int head = 0; head < s->n_heads; head++) {
                    const int64_t pos = t + SHIFT, page = c->n_pages - 1 - pos / PAGE_TOKENS;
                    const size_t at = (size_t)page * kv_page_elements(&c->format) +
                                      kv_element(&c->format, (kv_part)part, head, (int)(pos % PAGE_TOKENS));
                    memcpy(expected + at * dtype_bytes(chunk->type),
                           elements +
                               (varve_row(chunk, layer, part, (int)t) * (size_t)s->n_heads + (size_t)head) *
                                   row,
                           row);
                }
        n_wrong += memcmp(expected, found, n * dtype_bytes(chunk->type)) != 0;
        free(found);
    }
    if (n_wrong)
        printf("%s: %d heads of %d, %d tokens, %d layers: %zu layers differ\n", l->on->name, s->n_heads,
               s->width, chunk->n_tokens, chunk->n_layers, n_wrong);
    CU_ASSERT(n_wrong == 0);
    free(expected);
}

/* Nothing was written. */
static void check_untouched(const loaded *l, const varve_chunk *chunk, const page_set *c) {
    const size_t n = (size_t)c->n_pages * kv_page_elements(&c->format);
    for (int layer = 0; layer < chunk->n_layers; layer++) {
        char *found = array_take(l->on->dev, c->layers[layer], n * dtype_bytes(chunk->type));
        CU_ASSERT_EQUAL(count_nan(found, chunk->type, n), n);
        free(found);
    }
}

typedef struct coded_chunk {
    varve_chunk chunk;
    text_buffer planes[VARVE_PLANES];
    char *elements; /* room for what is decoded */
} coded_chunk;

/* n_words: of which the text is, over and over; 0: no token comes again. */
static coded_chunk encode(const varve_tables *t, const varve_coding *how, const varve_chunk *chunk,
                          float noise, int n_words) {
    coded_chunk c = {.chunk = *chunk};
    const size_t n = (size_t)chunk->n_tokens * N_KV_PARTS * N_LAYERS;
    int *words = mem_new((size_t)chunk->n_tokens, sizeof *words);
    for (int i = 0; i < chunk->n_tokens; i++)
        words[i] = n_words ? i % n_words : i;
    char *all = make_words(&t->shape, chunk->type, chunk->n_tokens, words, noise, 8);
    kv_token *tokens = make_tokens(chunk->n_tokens, 0, 40);
    varve_report reports[VARVE_PLANES] = {{.n_numbers = 0}};
    c.elements = mem_new(n, varve_token_bytes(&t->shape, chunk->type));
    varve_encode(t, how, chunk, tokens,
                 all + varve_row(chunk, chunk->first_layer, 0, 0) * varve_token_bytes(&t->shape, chunk->type),
                 c.planes, reports);
    free(all);
    free(tokens);
    free(words);
    return c;
}

static void coded_free(coded_chunk *c) {
    for (int i = 0; i < VARVE_PLANES; i++)
        free(c->planes[i].data);
    free(c->elements);
}

static void check_chunk(const loaded *l, const varve_coding *how, const varve_chunk *chunk, float noise,
                        int n_words) {
    coded_chunk c = encode(l->tables, how, chunk, noise, n_words);
    varve_head head;
    memcpy(&head, c.planes[0].data, sizeof head);
    CU_ASSERT(n_words == 0 || head.kind & VARVE_COPIES);
    varve_plane planes[VARVE_PLANES];
    page_set pages[VARVE_PLANES];
    order orders[VARVE_PLANES];
    for (int i = 0; i < how->n_planes; i++) {
        planes[i] = (varve_plane){c.planes[i].data, c.planes[i].n};
        pages[i] = new_pages(l->on->dev, &l->tables->shape, chunk);
        orders[i] = (order){l, planes, i + 1, chunk, &pages[i], STATUS_OK};
    }
    decode(l->on->dev, orders, how->n_planes);
    for (int i = 0; i < how->n_planes; i++) {
        CHECK_OK(orders[i].st);
        CHECK_OK(varve_decode(l->tables, planes, i + 1, chunk, c.elements));
        check_pages(l, chunk, &pages[i], c.elements);
    }
    coded_free(&c);
}

/* Steps so small that symbols escape, usual ones, and such that most symbols are 0. */
static void check_shape(const tested *on, const varve_shape *s) {
    static const int levels[] = {-40, -9, 4}, tokens[] = {1, 33, 70};
    varve_tables t = make_tables(s);
    for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
        const loaded l = load(on, &t, (varve_kind)kind);
        for (int i = 0; i < 3; i++)
            for (int n_planes = 1; n_planes <= VARVE_PLANES; n_planes++) {
                const varve_coding how = {(varve_kind)kind, levels[(i + n_planes) % 3], n_planes};
                check_chunk(&l, &how, &(varve_chunk){on->dev->kv, tokens[i], 0, N_LAYERS}, USUAL_NOISE, 0);
            }
        check_chunk(&l, &(varve_coding){(varve_kind)kind, -3, 2}, &(varve_chunk){on->dev->kv, 64, 1, 2},
                    USUAL_NOISE, 0);
        for (int n_planes = 1; n_planes <= VARVE_PLANES; n_planes++)
            check_chunk(&l, &(varve_coding){(varve_kind)kind, -18, n_planes},
                        &(varve_chunk){on->dev->kv, 300, 0, N_LAYERS}, USUAL_NOISE, 37);
        check_chunk(&l, &(varve_coding){(varve_kind)kind, -3, 2},
                    &(varve_chunk){on->dev->kv, 300, 0, N_LAYERS}, MUCH_NOISE, 0);
        on->dev->ops->release(on->dev, l.memory);
    }
    varve_tables_free(&t);
}

/* Tables that nobody has calibrated: the device has their bases as matrices. */
static void check_generic(const tested *on) {
    const varve_shape s = {9, 6};
    text_buffer file = {0};
    kv_tables *t = NULL;
    append_generic(&s, &file);
    CHECK_OK(kv_tables_parse(file.data, file.n, &t));
    for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
        const loaded l = load(on, &t->varve, (varve_kind)kind);
        check_chunk(&l, &(varve_coding){(varve_kind)kind, -3, 2},
                    &(varve_chunk){on->dev->kv, 70, 0, N_LAYERS}, USUAL_NOISE, 0);
        on->dev->ops->release(on->dev, l.memory);
    }
    kv_tables_free(t);
    free(file.data);
}

static void check_shapes(const tested *on) {
    static const varve_shape shapes[] = {{1, 2}, {2, 16}, {9, 6}, {5, 64}, {1, 256}};
    const size_t n = harness_is_long() ? sizeof shapes / sizeof *shapes : 3;
    if (!on->dev->ops->decode_chunks) return;
    for (size_t i = 0; i < n; i++)
        check_shape(on, &shapes[i]);
    check_generic(on);
}

static void same_as_the_host(void) {
    for_each_kind(check_shapes);
}

/* One bit at a time, and cut off. */
static void check_damaged(const tested *on) {
    const varve_shape s = {2, 16};
    if (!on->dev->ops->decode_chunks) return;
    varve_tables t = make_tables(&s);
    uint64_t seed = 5;
    for (int kind = 0; kind < N_VARVE_KINDS; kind++) {
        const loaded l = load(on, &t, (varve_kind)kind);
        const varve_chunk chunk = {on->dev->kv, 40, 0, N_LAYERS};
        const varve_coding how = {(varve_kind)kind, -30, 2};
        coded_chunk c = encode(&t, &how, &chunk, USUAL_NOISE, 5);
        int n_refused = 0;
        for (int i = 0; i < 120; i++) {
            const int plane = i % VARVE_PLANES;
            varve_plane planes[] = {{c.planes[0].data, c.planes[0].n}, {c.planes[1].data, c.planes[1].n}};
            const size_t at = harness_random(&seed) % c.planes[plane].n;
            const char bit = (char)(1 << harness_random(&seed) % 8);
            if (i % 5 == 0)
                planes[plane].n_bytes = at;
            else
                c.planes[plane].data[at] ^= bit;
            const page_set pages = new_pages(on->dev, &s, &chunk);
            const status by_host = varve_decode(&t, planes, VARVE_PLANES, &chunk, c.elements);
            order by_device = {&l, planes, VARVE_PLANES, &chunk, &pages, STATUS_OK};
            decode(on->dev, &by_device, 1);
            CU_ASSERT_EQUAL(by_device.st, by_host);
            n_refused += by_host != STATUS_OK;
            if (by_host == STATUS_OK)
                check_pages(&l, &chunk, &pages, c.elements);
            else
                check_untouched(&l, &chunk, &pages);
            if (i % 5) c.planes[plane].data[at] ^= bit;
        }
        CU_ASSERT(n_refused > 60);
        coded_free(&c);
        on->dev->ops->release(on->dev, l.memory);
    }
    varve_tables_free(&t);
}

static void damaged(void) {
    for_each_kind(check_damaged);
}

/* Chunks of both kinds, of some and of many tokens, and one that is damaged among them. */
static void check_together(const tested *on) {
    static const int tokens[] = {7, 70, 33};
    enum { N = 2 * sizeof tokens / sizeof *tokens, DAMAGED = 2 };
    const varve_shape s = {9, 16};
    if (!on->dev->ops->decode_chunks) return;
    varve_tables t = make_tables(&s);
    loaded kinds[N_VARVE_KINDS];
    for (int kind = 0; kind < N_VARVE_KINDS; kind++)
        kinds[kind] = load(on, &t, (varve_kind)kind);
    coded_chunk chunks[N];
    varve_plane planes[N];
    page_set pages[N];
    order orders[N];
    for (int i = 0; i < N; i++) {
        const varve_chunk chunk = {on->dev->kv, tokens[i / 2], 0, N_LAYERS};
        chunks[i] = encode(&t, &(varve_coding){(varve_kind)(i % 2), -9, 1}, &chunk, USUAL_NOISE, 0);
        planes[i] = (varve_plane){chunks[i].planes[0].data, chunks[i].planes[0].n};
        pages[i] = new_pages(on->dev, &s, &chunk);
        orders[i] = (order){&kinds[i % 2], &planes[i], 1, &chunks[i].chunk, &pages[i], STATUS_OK};
    }
    chunks[DAMAGED].planes[0].data[planes[DAMAGED].n_bytes - 3] ^= 1;
    decode(on->dev, orders, N);
    for (int i = 0; i < N; i++) {
        CU_ASSERT_EQUAL(orders[i].st, i == DAMAGED ? STATUS_REFUSED : STATUS_OK);
        const status by_host = varve_decode(&t, &planes[i], 1, orders[i].chunk, chunks[i].elements);
        CU_ASSERT_EQUAL(by_host, orders[i].st);
        if (i == DAMAGED)
            check_untouched(orders[i].l, orders[i].chunk, &pages[i]);
        else
            check_pages(orders[i].l, orders[i].chunk, &pages[i], chunks[i].elements);
        coded_free(&chunks[i]);
    }
    for (int kind = 0; kind < N_VARVE_KINDS; kind++)
        on->dev->ops->release(on->dev, kinds[kind].memory);
    varve_tables_free(&t);
}

static void together(void) {
    for_each_kind(check_together);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"same_as_the_host", same_as_the_host},
        {"damaged", damaged},
        {"together", together},
        CU_TEST_INFO_NULL,
    };
    if (device_count(DEVICE_CUDA, NULL) < 1) {
        printf("skipped  varve device: no GPU here\n");
        return 77;
    }
    return harness_run(&argc, &argv, "varve_device", tests);
}
