#include "src/command/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"

static const double bar_seconds = 0.1, line_seconds = 5;

progress progress_begin(int64_t prompt_total, int64_t decode_total) {
    double now = clock_seconds();
    return (progress){
        .in_terminal = isatty(STDERR_FILENO),
        .begin = now,
        .last = now,
        .prompt_total = prompt_total,
        .decode_total = decode_total,
    };
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

/* Seconds left at the pace so far of what is going on: the prompts first, then the generated tokens. */
static double estimate_left(const progress *p, double elapsed, int64_t prompt, int64_t decode) {
    double done = (double)prompt + (double)decode, total = (double)p->prompt_total + (double)p->decode_total;
    return done > 0 ? elapsed * (total - done) / done : 0;
}

void progress_update(progress *p, int64_t prompt, int64_t decode) {
    double now = clock_seconds(), elapsed = now - p->begin;
    if (now - p->last < (p->in_terminal ? bar_seconds : line_seconds)) return;
    p->last = now;
    double total = (double)p->prompt_total + (double)p->decode_total;
    double share = total > 0 ? ((double)prompt + (double)decode) / total : 1;
    if (share > 1) share = 1;
    char left[32], bar[31];
    format_duration(estimate_left(p, elapsed, prompt, decode), left, sizeof left);
    size_t filled = (size_t)(share * 30);
    memset(bar, '.', sizeof bar);
    memset(bar, '#', filled);
    bar[30] = '\0';
    if (p->in_terminal)
        fprintf(stderr, "\r[%s] %3.0f%% ", bar, 100 * share);
    else
        fprintf(stderr, "kvarve: %3.0f%% ", 100 * share);
    fprintf(stderr,
            "read %lld of %lld, generated %lld of at most %lld tokens, %.0f tokens/s, at most %s left%s",
            (long long)prompt, (long long)p->prompt_total, (long long)decode, (long long)p->decode_total,
            ((double)prompt + (double)decode) / elapsed, left, p->in_terminal ? "\033[K" : "\n");
    fflush(stderr);
    p->shown = true;
}

void progress_end(progress *p) {
    if (p->in_terminal && p->shown) fprintf(stderr, "\r\033[K");
    p->shown = false;
}
