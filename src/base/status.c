#include "src/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/last_save.h"

static _Thread_local char last_text[STATUS_TEXT_BYTES];
static void (*die_hook)(const char *text);

void status_keep_to_line(char *text) {
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7F) *c = '?';
}

static void record(const char *format, va_list args) {
    char text[STATUS_TEXT_BYTES];
    vsnprintf(text, sizeof text, format, args);
    status_keep_to_line(text);
    memcpy(last_text, text, sizeof text);
}

status status_refuse(const char *format, ...) {
    va_list args;
    va_start(args, format);
    record(format, args);
    va_end(args);
    return STATUS_REFUSED;
}

status status_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    record(format, args);
    va_end(args);
    return STATUS_FAILED;
}

status status_at(status st, const char *where_format, ...) {
    if (st == STATUS_OK) return st;
    char where[STATUS_TEXT_BYTES / 2];
    va_list args;
    va_start(args, where_format);
    vsnprintf(where, sizeof where, where_format, args);
    va_end(args);
    char what[STATUS_TEXT_BYTES];
    memcpy(what, last_text, sizeof what);
    size_t used = (size_t)snprintf(last_text, sizeof last_text, "%s: ", where);
    snprintf(last_text + used, sizeof last_text - used, "%.*s", (int)(sizeof last_text - used - 1), what);
    return st;
}

status status_adopt(status st, const char *text) {
    snprintf(last_text, sizeof last_text, "%s", text);
    return st;
}

const char *status_text(void) {
    return last_text;
}

int status_exit_code(status st) {
    switch (st) {
    case STATUS_OK:
        return EXIT_CODE_OK;
    case STATUS_REFUSED:
        return EXIT_CODE_REFUSED;
    case STATUS_FAILED:
        break;
    }
    return EXIT_CODE_FAILED;
}

void status_set_die_hook(void (*hook)(const char *text)) {
    die_hook = hook;
}

void status_die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    record(format, args);
    va_end(args);
    if (die_hook) die_hook(last_text);
    fprintf(stderr, "kvarve: error: %s\n", last_text);
    last_save_say();
    exit(EXIT_CODE_FAILED);
}
