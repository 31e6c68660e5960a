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

static void put(text_buffer *out, const char *text) {
    text_append(out, text, strlen(text));
}

static void put_integer(text_buffer *out, int64_t value) {
    char text[32];
    text_append(out, text, (size_t)snprintf(text, sizeof text, "%" PRId64, value));
}

static void put_logprob(text_buffer *out, const result_logprob *l) {
    put(out, "{\"token\": ");
    put_integer(out, l->token);
    put(out, ", \"logprob\": ");
    json_append_float(out, l->logprob);
    put(out, ", \"top\": [");
    for (int i = 0; i < l->n_top; i++) {
        put(out, i ? ", [" : "[");
        put_integer(out, l->top_tokens[i]);
        put(out, ", ");
        json_append_float(out, l->top_logprobs[i]);
        put(out, "]");
    }
    put(out, "]}");
}

static void put_tokens(text_buffer *out, const char *key, const int32_t *tokens, size_t n) {
    put(out, key);
    for (size_t i = 0; i < n; i++) {
        if (i) put(out, ", ");
        put_integer(out, tokens[i]);
    }
    put(out, "]");
}

static void put_generated(text_buffer *out, const result *line) {
    if (line->prompt_tokens)
        put_tokens(out, ", \"prompt_token_ids\": [", line->prompt_tokens, line->n_prompt_tokens);
    put(out, ", \"text\": ");
    json_append_text(out, line->text, line->n_text);
    put_tokens(out, ", \"tokens\": [", line->tokens, line->n_tokens);
    put(out, ", \"finish_reason\": \"");
    put(out, finish_reason_name(line->finish));
    put(out, "\", \"usage\": {\"prompt_tokens\": ");
    put_integer(out, (int64_t)line->n_prompt_tokens);
    put(out, ", \"completion_tokens\": ");
    put_integer(out, (int64_t)line->n_tokens);
    put(out, "}");
    if (!line->logprobs) return;
    put(out, ", \"logprobs\": [");
    for (size_t i = 0; i < line->n_tokens; i++) {
        if (i) put(out, ", ");
        put_logprob(out, &line->logprobs[i]);
    }
    put(out, "]");
}

status results_write(results *r, const result *line) {
    text_buffer out = {0};
    put(&out, "{\"id\": ");
    if (line->id_is_json)
        put(&out, line->id);
    else
        json_append_text(&out, line->id, strlen(line->id));
    if (line->finish == FINISH_ERROR) {
        put(&out, ", \"finish_reason\": \"error\", \"error\": ");
        json_append_text(&out, line->error, strlen(line->error));
    } else {
        put_generated(&out, line);
    }
    put(&out, "}\n");
    status st = write_whole(r, out.data, out.n);
    free(out.data);
    return st;
}
