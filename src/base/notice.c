#include "src/base/notice.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/status.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char **texts; /* of the process, as the text of a failure is its thread's (status.c) */
static int n_texts, n_printed;

static bool is_known(const char *text) {
    for (int i = 0; i < n_texts; i++)
        if (!strcmp(texts[i], text)) return true;
    return false;
}

void notice_add(const char *format, ...) {
    char text[NOTICE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    status_keep_to_line(text);
    pthread_mutex_lock(&lock);
    if (!is_known(text)) {
        texts = mem_grow(texts, (size_t)n_texts, sizeof *texts);
        texts[n_texts++] = mem_copy_text(text, strlen(text));
    }
    pthread_mutex_unlock(&lock);
}

int notice_count(void) {
    return n_texts;
}

const char *notice_text(int i) {
    return texts[i];
}

void notice_print_new(FILE *to) {
    pthread_mutex_lock(&lock);
    for (; n_printed < n_texts; n_printed++)
        fprintf(to, "kvarve: NOTE: %s\n", texts[n_printed]);
    pthread_mutex_unlock(&lock);
}
