#include "io/snapshot/lock_holder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "src/base/process.h"

static const char host_characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:";

lock_holder lock_holder_self(void) {
    lock_holder h = {.pid = (long)getpid()};
    h.process_start = process_start_ticks(h.pid);
    if (gethostname(h.host, sizeof h.host - 1) != 0 || !*h.host) snprintf(h.host, sizeof h.host, "unknown");
    for (char *c = h.host; *c; c++)
        if (!strchr(host_characters, *c)) *c = '_';
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(h.taken, sizeof h.taken, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return h;
}

size_t lock_holder_write(const lock_holder *h, char line[LOCK_LINE_BYTES]) {
    return (size_t)snprintf(line, LOCK_LINE_BYTES, "host=%s pid=%ld process_start=%lld taken=%s\n", h->host,
                            h->pid, (long long)h->process_start, h->taken);
}

static bool skip(const char **at, const char *text) {
    size_t n = strlen(text);
    if (strncmp(*at, text, n)) return false;
    *at += n;
    return true;
}

static bool read_word(const char **at, const char *characters, char *out, size_t room) {
    size_t n = strspn(*at, characters);
    if (n == 0 || n >= room) return false;
    memcpy(out, *at, n);
    out[n] = '\0';
    *at += n;
    return true;
}

static bool read_number(const char **at, int64_t *out) {
    char digits[19]; /* 18 of them fit an int64_t */
    if (!read_word(at, "0123456789", digits, sizeof digits)) return false;
    *out = strtoll(digits, NULL, 10);
    return true;
}

static bool is_time(const char *text) {
    const char *form = "dddd-dd-ddTdd:dd:ddZ";
    if (strlen(text) != strlen(form)) return false;
    for (; *form; form++, text++)
        if (*form == 'd' ? !(*text >= '0' && *text <= '9') : *text != *form) return false;
    return true;
}

bool lock_holder_parse(const char *bytes, size_t n, lock_holder *out) {
    char line[LOCK_LINE_BYTES] = "";
    if (n >= sizeof line || memchr(bytes, '\0', n)) return false;
    memcpy(line, bytes, n);
    const char *at = line;
    lock_holder h = {0};
    int64_t pid;
    if (!skip(&at, "host=") || !read_word(&at, host_characters, h.host, sizeof h.host)) return false;
    if (!skip(&at, " pid=") || !read_number(&at, &pid) || pid < 1 || pid > INT32_MAX) return false;
    if (!skip(&at, " process_start=") || !read_number(&at, &h.process_start)) return false;
    if (!skip(&at, " taken=") || !read_word(&at, "0123456789-T:Z", h.taken, sizeof h.taken)) return false;
    if (!is_time(h.taken) || strcmp(at, "\n")) return false;
    h.pid = (long)pid;
    *out = h;
    return true;
}
