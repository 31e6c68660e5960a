/* tests/sanitizers/sanitizer_preload.c: preloaded when the tests run under AddressSanitizer, so that what
 * Open MPI never releases can be told from a leak of ours: tests/sanitizers/lsan.supp knows it by the library
 * that allocated it.
 *
 * MPI_Finalize unloads plugins, and a report has no name for unloaded code: here nothing is unloaded. The C
 * library's asprintf keeps no frame pointer, and a report shows no caller behind it: this one does. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int dlclose(void *handle);
int vasprintf(char **text, const char *format, va_list args);
int asprintf(char **text, const char *format, ...);
int __vasprintf_chk(char **text, int flag, const char *format, va_list args);
int __asprintf_chk(char **text, int flag, const char *format, ...);

int dlclose(void *handle) {
    (void)handle;
    return 0;
}

int vasprintf(char **text, const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    *text = n < 0 ? NULL : malloc((size_t)n + 1);
    return *text == NULL ? -1 : vsnprintf(*text, (size_t)n + 1, format, args);
}

int asprintf(char **text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = vasprintf(text, format, args);
    va_end(args);
    return n;
}

/* What the two are called in libraries that were built with checks. */
int __vasprintf_chk(char **text, int flag, const char *format, va_list args) {
    (void)flag;
    return vasprintf(text, format, args);
}

int __asprintf_chk(char **text, int flag, const char *format, ...) {
    (void)flag;
    va_list args;
    va_start(args, format);
    const int n = vasprintf(text, format, args);
    va_end(args);
    return n;
}
