#include "io/results.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/json.h"
#include "src/base/memory.h"

struct results {
    char *path;
    int fd;
    bool is_new, is_regular;
    bool has_lines;
    off_t n_bytes; /* written */
};

/* ---- the file ---- */

static bool same_file(const char *path, const struct stat *info) {
    struct stat other;
    return path && stat(path, &other) == 0 && other.st_dev == info->st_dev && other.st_ino == info->st_ino &&
           S_ISREG(other.st_mode);
}

/* Standard output is taken as it is, perhaps in the middle of a file that others write too. */
static int open_path(const char *path, bool *is_new, bool *is_ours) {
    *is_ours = strcmp(path, "/dev/stdout") != 0;
    *is_new = false;
    if (!*is_ours) return dup(STDOUT_FILENO);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    *is_new = fd >= 0;
    return fd < 0 && errno == EEXIST ? open(path, O_WRONLY | O_CLOEXEC) : fd;
}

status results_open(const char *path, const char *input_path, results **out) {
    bool is_new, is_ours;
    int fd = open_path(path, &is_new, &is_ours);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        status st = status_refuse("%s: cannot be written: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return st;
    }
    if (same_file(input_path, &info)) {
        close(fd);
        return status_refuse("%s: this is also the file of the prompts: choose another name for the output",
                             path);
    }
    results *r = mem_new(1, sizeof *r);
    *r = (results){.path = mem_copy_text(path, strlen(path)),
                   .fd = fd,
                   .is_new = is_new,
                   .is_regular = is_ours && S_ISREG(info.st_mode)};
    *out = r;
    return STATUS_OK;
}

void results_close(results *r) {
    if (!r) return;
    close(r->fd);
    if (r->is_new && !r->has_lines) unlink(r->path);
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

static void put_generated(text_buffer *out, const result *line) {
    put(out, ", \"text\": ");
    json_append_text(out, line->text, line->n_text);
    put(out, ", \"tokens\": [");
    for (size_t i = 0; i < line->n_tokens; i++) {
        if (i) put(out, ", ");
        put_integer(out, line->tokens[i]);
    }
    put(out, "], \"finish_reason\": \"");
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
    if (line->id_is_integer)
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
