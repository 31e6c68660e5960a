/* src/base/status.h: how a function says that it failed.
 *
 * A function that can fail returns `status`. The first to notice records one line of text for the user, which
 * says what was wrong, where, and what to do; callers above only pass the status on. Outputs come last and
 * are set only on success. A bug is an assert, not a status. */
#pragma once

typedef enum status {
    STATUS_OK = 0,
    STATUS_REFUSED, /* the user's input cannot be served: exit 2 */
    STATUS_FAILED,  /* the machine or the system failed us: exit 1 */
} status;

enum {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1,
    EXIT_CODE_REFUSED = 2,
    EXIT_CODE_SOME_FAILED = 3, /* a batch ended, but some of its lines were refused */
    EXIT_CODE_MORE = 75,       /* stopped early and saved: more to do (BSD's EX_TEMPFAIL) */
};

enum { STATUS_TEXT_BYTES = 1024 };

/* Record the text of a failure in the calling thread and return its class. Local. */
status status_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
status status_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Put "WHERE: " before the recorded text, and pass `st` on. Nothing happens when `st` is STATUS_OK. Local. */
status status_at(status st, const char *where_format, ...) __attribute__((format(printf, 2, 3)));

/* Record a text that came from elsewhere (another rank) with its class. Local. */
status status_adopt(status st, const char *text);

/* The text of this thread's last recorded failure, "" before the first. Owned by the module. Local. */
const char *status_text(void);

/* Replace control characters by "?": one line, whatever names from outside hold. Local. */
void status_keep_to_line(char *text);

/* The exit code that scripts see for this class. Local. */
int status_exit_code(status st);

/* A failure that no caller can handle (out of memory in a small allocation, a lost peer): print the text and
 * end every rank. The communicator sets the hook that ends the others; without it the process exits with
 * code 1. */
void status_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void status_set_die_hook(void (*hook)(const char *text));
