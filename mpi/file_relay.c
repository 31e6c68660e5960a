#include "mpi/file_relay.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mpi/comm_private.h"
#include "src/base/alive.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

/* Messages: questions, and behind those the answers, each kind of them with a number of its own. */
enum { TAG_QUESTION = 1, TAG_ANSWER = 2, N_ANSWER_TAGS = 16384 };

/* Of a file at once: large enough for the link, small enough that each is a sign of life over a slow one. */
enum { PIECE_BYTES = 1 << 20 };

typedef struct question {
    int64_t offset, n_bytes;
    int32_t tag, from; /* of the answer, and who asks */
    char name[FILE_RELAY_NAME_BYTES];
} question;

/* What comes first; the bytes follow where it went well. */
typedef struct answer_head {
    status st;
    int64_t file_bytes;
    char text[STATUS_TEXT_BYTES];
} answer_head;

typedef struct answer {
    struct answer *next;
    answer_head head;
    size_t n_bytes;
    void *bytes;
    MPI_Request requests[2];
} answer;

struct file_relay {
    comm *comm;
    MPI_Comm world; /* of its own */
    file_relay_source source;
    int *readers; /* [ranks] */
    atomic_uint n_asked;
    pthread_t thread; /* that answers */
    bool has_thread;
    atomic_bool is_closing;
    answer *under_way;
    size_t n_under_way; /* bytes */
};

/* ---- answering ---- */

static void release_sent(file_relay *r) {
    for (answer **at = &r->under_way; *at;) {
        answer *a = *at;
        int done;
        MPI_Testall(2, a->requests, &done, MPI_STATUSES_IGNORE);
        if (!done) {
            at = &a->next;
            continue;
        }
        *at = a->next;
        r->n_under_way -= a->n_bytes;
        free(a->bytes);
        free(a);
    }
}

/* The next question, where there is one and room for its answer. */
static bool take_question(file_relay *r, question *q) {
    int here = 0;
    MPI_Message message;
    pthread_mutex_lock(&r->comm->lock);
    release_sent(r);
    if (r->n_under_way + PIECE_BYTES <= FILE_RELAY_BYTES)
        MPI_Improbe(MPI_ANY_SOURCE, TAG_QUESTION, r->world, &here, &message, MPI_STATUS_IGNORE);
    if (here) MPI_Mrecv(q, sizeof *q, MPI_BYTE, &message, MPI_STATUS_IGNORE);
    pthread_mutex_unlock(&r->comm->lock);
    return here;
}

static void answer_question(file_relay *r, const question *q) {
    answer *a = mem_new(1, sizeof *a);
    const size_t n = (size_t)q->n_bytes;
    a->bytes = mem_resize(NULL, n ? n : 1, 1);
    a->head.st = r->source.read(r->source.context, q->name, q->offset, a->bytes, n, &a->head.file_bytes);
    if (a->head.st == STATUS_OK)
        a->n_bytes = n;
    else
        memcpy(a->head.text, status_text(), sizeof a->head.text);
    a->requests[1] = MPI_REQUEST_NULL;
    pthread_mutex_lock(&r->comm->lock);
    MPI_Isend(&a->head, sizeof a->head, MPI_BYTE, q->from, q->tag, r->world, &a->requests[0]);
    if (a->n_bytes)
        MPI_Isend(a->bytes, (int)a->n_bytes, MPI_BYTE, q->from, q->tag, r->world, &a->requests[1]);
    a->next = r->under_way;
    r->under_way = a;
    r->n_under_way += a->n_bytes;
    pthread_mutex_unlock(&r->comm->lock);
}

static void *answer_all(void *arg) {
    enum { SHORTEST_NS = 100 * 1000, LONGEST_NS = 16 * SHORTEST_NS };
    file_relay *r = arg;
    question q;
    for (struct timespec pause = {0, SHORTEST_NS}; !atomic_load(&r->is_closing);) {
        if (take_question(r, &q)) {
            answer_question(r, &q);
            pause.tv_nsec = SHORTEST_NS;
            continue;
        }
        nanosleep(&pause, NULL);
        if (!r->under_way && pause.tv_nsec < LONGEST_NS) pause.tv_nsec *= 2;
    }
    return NULL;
}

/* ---- asking ---- */

/* Not by comm_finish, which turns round and round at first: that would take from the threads that compute
 * beside this one, for each piece of a file. */
static void wait_for(file_relay *r, MPI_Request *request) {
    const struct timespec pause = {0, 100 * 1000};
    const double begin = clock_seconds();
    for (int done = 0;;) {
        pthread_mutex_lock(&r->comm->lock);
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        pthread_mutex_unlock(&r->comm->lock);
        if (done) return;
        nanosleep(&pause, NULL);
        comm_watch(r->comm, begin, "a file that another rank reads");
    }
}

static status ask(file_relay *r, const char *name, int64_t offset, void *out, size_t n, int64_t *file_bytes) {
    const int reader = r->readers[r->comm->rank];
    answer_head head;
    MPI_Request requests[2];
    question q = {offset, (int64_t)n, TAG_ANSWER, r->comm->rank, ""};
    q.tag += (int32_t)(atomic_fetch_add(&r->n_asked, 1) % N_ANSWER_TAGS);
    strncpy(q.name, name, sizeof q.name - 1);
    pthread_mutex_lock(&r->comm->lock);
    MPI_Irecv(&head, sizeof head, MPI_BYTE, reader, q.tag, r->world, &requests[0]);
    MPI_Isend(&q, sizeof q, MPI_BYTE, reader, TAG_QUESTION, r->world, &requests[1]);
    pthread_mutex_unlock(&r->comm->lock);
    wait_for(r, &requests[1]);
    wait_for(r, &requests[0]);
    if (head.st != STATUS_OK) return status_at(status_adopt(head.st, head.text), "read by rank %d", reader);
    *file_bytes = head.file_bytes;
    if (n == 0) return STATUS_OK;
    pthread_mutex_lock(&r->comm->lock);
    MPI_Irecv(out, (int)n, MPI_BYTE, reader, q.tag, r->world, &requests[0]);
    pthread_mutex_unlock(&r->comm->lock);
    wait_for(r, &requests[0]);
    alive_say();
    return STATUS_OK;
}

status file_relay_read(file_relay *r, const char *name, int64_t offset, void *out, size_t n,
                       int64_t *file_bytes) {
    assert(strlen(name) < FILE_RELAY_NAME_BYTES && file_relay_reader(r, r->comm->rank) != r->comm->rank);
    status st = STATUS_OK;
    size_t done = 0;
    do {
        const size_t piece = n - done < PIECE_BYTES ? n - done : PIECE_BYTES;
        st = ask(r, name, offset + (int64_t)done, (char *)out + done, piece, file_bytes);
        done += piece;
    } while (st == STATUS_OK && done < n);
    return st;
}

int file_relay_reader(const file_relay *r, int rank) {
    return r->readers[rank];
}

/* ---- opening ---- */

/* Those that see no files take turns among those that do; false: no rank needs another. */
static bool find_readers(comm *c, bool sees, int *readers) {
    const int mine = sees;
    int *seeing = mem_new((size_t)c->size, sizeof *seeing), n_seeing = 0, turn = 0;
    comm_gather(c, &mine, sizeof mine, readers);
    comm_broadcast(c, readers, (size_t)c->size * sizeof *readers, 0);
    for (int rank = 0; rank < c->size; rank++)
        if (readers[rank]) seeing[n_seeing++] = rank;
    const bool is_needed = n_seeing > 0 && n_seeing < c->size;
    for (int rank = 0; is_needed && rank < c->size; rank++)
        readers[rank] = readers[rank] ? rank : seeing[turn++ % n_seeing];
    free(seeing);
    return is_needed;
}

status file_relay_open(comm *c, bool sees, const file_relay_source *source, file_relay **out) {
    int *readers = mem_new((size_t)c->size, sizeof *readers);
    *out = NULL;
    if (!find_readers(c, sees, readers)) {
        free(readers);
        return STATUS_OK;
    }
    file_relay *r = mem_new(1, sizeof *r);
    r->comm = c;
    r->readers = readers;
    if (sees) r->source = *source;
    MPI_Request request;
    pthread_mutex_lock(&c->lock);
    MPI_Comm_idup(c->world, &r->world, &request);
    comm_finish(c, &request, "the other ranks to read files");
    status st = STATUS_OK;
    if (sees) r->has_thread = pthread_create(&r->thread, NULL, answer_all, r) == 0;
    if (sees && !r->has_thread) st = status_refuse("there is no thread to read files for other ranks");
    *out = r;
    return comm_any_failed(c, &st) ? STATUS_REFUSED : STATUS_OK;
}

static bool all_are_sent(void *context) {
    file_relay *r = context;
    release_sent(r);
    return !r->under_way;
}

void file_relay_close(file_relay *r) {
    if (!r) return;
    comm_barrier(r->comm); /* until then others may ask */
    atomic_store(&r->is_closing, true);
    if (r->has_thread) pthread_join(r->thread, NULL);
    comm_wait_until(r->comm, all_are_sent, r, "the other ranks to take what was read for them");
    pthread_mutex_lock(&r->comm->lock);
    MPI_Comm_free(&r->world);
    pthread_mutex_unlock(&r->comm->lock);
    free(r->readers);
    free(r);
}
