#include "io/jsonl/results.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "io/files.h"
#include "io/json.h"
#include "src/base/memory.h"

struct results {
    char *path;
    int fd;
    bool is_new, is_regular;
    bool has_lines;
    off_t n_bytes;        /* written */
    XXH3_state_t *digest; /* of them */
};

/* ---- the file ---- */

/* Standard output is taken as it is, perhaps in the middle of a file that others write too. */
static int open_path(const char *path, bool *is_new, bool *is_ours) {
    *is_ours = strcmp(path, "/dev/stdout") != 0 && strcmp(path, "-") != 0;
    *is_new = false;
    if (!*is_ours) return dup(STDOUT_FILENO);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    *is_new = fd >= 0;
    return fd < 0 && errno == EEXIST ? open(path, O_WRONLY | O_CLOEXEC) : fd;
}

status results_open(const char *path, results **out) {
    bool is_new, is_ours;
    int fd = open_path(path, &is_new, &is_ours);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        status st = status_refuse("%s: cannot be written: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return st;
    }
    bool is_regular = is_ours && S_ISREG(info.st_mode);
    /* Locked first and looked at then: a run that ends without results removes its file. */
    if (is_regular && (file_lock(fd) == FILE_LOCK_HELD || fstat(fd, &info) != 0 || info.st_nlink == 0)) {
        close(fd);
        return status_refuse(
            "%s: another run writes its results there: wait for its end, or choose another name", path);
    }
    results *r = mem_new(1, sizeof *r);
    *r = (results){.path = mem_copy_text(path, strlen(path)),
                   .fd = fd,
                   .is_new = is_new,
                   .is_regular = is_regular,
                   .digest = XXH3_createState()};
    XXH3_128bits_reset(r->digest);
    *out = r;
    return STATUS_OK;
}

/* Digest the first n bytes of the file; false when it has fewer. */
static bool digest_file(results *r, int64_t n) {
    enum { PIECE_BYTES = 1 << 16 };
    int fd = open(r->path, O_RDONLY | O_CLOEXEC);
    char *piece = mem_new(1, PIECE_BYTES);
    ssize_t got = 1;
    for (int64_t left = n; left > 0 && got > 0; left -= got) {
        got = read(fd, piece, left < PIECE_BYTES ? (size_t)left : PIECE_BYTES);
        if (got > 0) XXH3_128bits_update(r->digest, piece, (size_t)got);
    }
    free(piece);
    if (fd >= 0) close(fd);
    return got > 0;
}

status results_reopen(const char *path, int64_t n_bytes, const uint64_t digest[2], results **out) {
    results *r;
    status st = results_open(path, &r);
    if (st != STATUS_OK || n_bytes < 0 || !r->is_regular) {
        if (st == STATUS_OK) *out = r;
        return st;
    }
    uint64_t found[2] = {0, 0};
    bool is_there = digest_file(r, n_bytes);
    results_position(r, &(int64_t){0}, found);
    if (!is_there || found[0] != digest[0] || found[1] != digest[1]) {
        results_close(r);
        return status_refuse("%s: does not begin with the %" PRId64
                             " bytes of results that the snapshot was saved "
                             "with: give the file that the earlier run wrote, or begin anew without --resume",
                             path, n_bytes);
    }
    r->has_lines = n_bytes > 0;
    r->n_bytes = (off_t)n_bytes;
    if (ftruncate(r->fd, r->n_bytes) != 0 || lseek(r->fd, r->n_bytes, SEEK_SET) < 0) {
        st = status_fail("%s: cannot be cut to the results of the snapshot: %s", path, strerror(errno));
        results_close(r);
        return st;
    }
    *out = r;
    return STATUS_OK;
}

bool results_are_missing(const char *path) {
    struct stat info;
    return stat(path, &info) != 0 || (S_ISREG(info.st_mode) && info.st_size == 0);
}

void results_position(const results *r, int64_t *n_bytes, uint64_t digest[2]) {
    XXH128_hash_t hash = XXH3_128bits_digest(r->digest);
    *n_bytes = r->is_regular ? (int64_t)r->n_bytes : -1;
    digest[0] = hash.high64;
    digest[1] = hash.low64;
}

status results_flush(const results *r) {
    if (!r->is_regular || fsync(r->fd) == 0) return STATUS_OK;
    return status_fail("%s: cannot be written: %s", r->path, strerror(errno));
}

void results_close(results *r) {
    if (!r) return;
    if (r->is_new && !r->has_lines) unlink(r->path); /* while it is locked */
    close(r->fd);
    XXH3_freeState(r->digest);
    free(r->path);
    free(r);
}

/* All n bytes, or none of them where the file can be cut back. */
static status write_whole(results *r, const char *bytes, size_t n) {
    if (!r->has_lines && r->is_regular && ftruncate(r->fd, 0) != 0)
        return status_fail("%s: cannot be emptied: %s", r->path, strerror(errno));
    r->has_lines = true;
    for (size_t done = 0; done < n;) {
        ssize_t put = write(r->fd, bytes + done, n - done);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) {
            status st = status_fail("%s: cannot be written: %s", r->path, strerror(errno));
            if (r->is_regular && ftruncate(r->fd, r->n_bytes) == 0) (void)lseek(r->fd, r->n_bytes, SEEK_SET);
            return st;
        }
        done += (size_t)put;
    }
    r->n_bytes += (off_t)n;
    XXH3_128bits_update(r->digest, bytes, n);
    return STATUS_OK;
}

/* ---- a line ---- */

const char *finish_reason_name(finish_reason reason) {
    static const char *const names[] = {
        [FINISH_EOS] = "eos", [FINISH_STOP] = "stop", [FINISH_LENGTH] = "length", [FINISH_ERROR] = "error"};
    return names[reason];
}

static void put_logprob(json_writer *w, const result_logprob *l) {
    json_open(w, NULL, '{');
    json_put_integer(w, "token", l->token);
    json_put_float(w, "logprob", l->logprob);
    json_open(w, "top", '[');
    for (int i = 0; i < l->n_top; i++) {
        json_open(w, NULL, '[');
        json_put_integer(w, NULL, l->top_tokens[i]);
        json_put_float(w, NULL, l->top_logprobs[i]);
        json_close(w);
    }
    json_close(w);
    json_close(w);
}

static void put_tokens(json_writer *w, const char *key, const int32_t *tokens, size_t n) {
    json_open(w, key, '[');
    for (size_t i = 0; i < n; i++)
        json_put_integer(w, NULL, tokens[i]);
    json_close(w);
}

static void put_generated(json_writer *w, const result *line) {
    if (line->prompt_tokens) put_tokens(w, "prompt_token_ids", line->prompt_tokens, line->n_prompt_tokens);
    json_put_bytes(w, "text", line->text, line->n_text);
    put_tokens(w, "tokens", line->tokens, line->n_tokens);
    json_put_text(w, "finish_reason", finish_reason_name(line->finish));
    json_open(w, "usage", '{');
    json_put_integer(w, "prompt_tokens", (int64_t)line->n_prompt_tokens);
    json_put_integer(w, "completion_tokens", (int64_t)line->n_tokens);
    json_close(w);
    if (!line->logprobs) return;
    json_open(w, "logprobs", '[');
    for (size_t i = 0; i < line->n_tokens; i++)
        put_logprob(w, &line->logprobs[i]);
    json_close(w);
}

status results_write(results *r, const result *line) {
    text_buffer out = {0};
    json_writer w = {.out = &out};
    json_open_line(&w, NULL, '{');
    if (line->id_is_json)
        json_put_verbatim(&w, "id", line->id);
    else
        json_put_text(&w, "id", line->id);
    if (line->finish == FINISH_ERROR) {
        json_put_text(&w, "finish_reason", finish_reason_name(line->finish));
        json_put_text(&w, "error", line->error);
    } else {
        put_generated(&w, line);
    }
    json_close(&w);
    text_append(&out, "\n", 1);
    status st = write_whole(r, out.data, out.n);
    free(out.data);
    return st;
}
