#include "src/command/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"

static const double bar_seconds = 0.1, line_seconds = 5;

progress progress_begin(const char *unit) {
    double now = clock_seconds();
    return (progress){.unit = unit, .in_terminal = isatty(STDERR_FILENO), .begin = now, .last = now};
}

static void format_duration(double seconds, char *text, size_t n) {
    long s = (long)(seconds + 0.5);
    if (s < 60)
        snprintf(text, n, "%ld s", s);
    else if (s < 3600)
        snprintf(text, n, "%ld:%02ld min", s / 60, s % 60);
    else
        snprintf(text, n, "%ld:%02ld h", s / 3600, s / 60 % 60);
}

void progress_update(progress *p, double done, double all, const char *format, ...) {
    double now = clock_seconds(), elapsed = now - p->begin, speed = done / elapsed;
    if (now - p->last < (p->in_terminal ? bar_seconds : line_seconds)) return;
    p->last = now;
    double share = done < all ? done / all : 1;
    char left[32], bar[31];
    format_duration(speed > 0 ? (all - done) / speed : 0, left, sizeof left);
    size_t filled = (size_t)(share * 30);
    memset(bar, '.', sizeof bar);
    memset(bar, '#', filled);
    bar[30] = '\0';
    if (p->in_terminal)
        fprintf(stderr, "\r[%s] %3.0f%% ", bar, 100 * share);
    else
        fprintf(stderr, "kvarve: %3.0f%% ", 100 * share);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, ", %.*f %s/s, at most %s left%s", speed < 10 ? 2 : 0, speed, p->unit, left,
            p->in_terminal ? "\033[K" : "\n");
    fflush(stderr);
    p->shown = true;
}

void progress_end(progress *p) {
    if (p->in_terminal && p->shown) fprintf(stderr, "\r\033[K");
    p->shown = false;
}
