/* src/base/notice.h: what the user should know of a run that goes on all the same: what was read and not
 * used, rounded, ignored, waited for or approximated.
 *
 * Each notice is one line that says what, where, and what to do; rank 0 prints it once, as a NOTE on stderr,
 * and the report has it. What would make the numbers wrong is no notice but a failure (src/base/status.h).
 * Any thread may add some. */
#pragma once

#include <stdio.h>

enum { NOTICE_BYTES = 512 };

/* Keep a notice; a text that is already there counts once. Local. */
void notice_add(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* How many there are, and the text of one, owned by the module. Local. */
int notice_count(void);
const char *notice_text(int i);

/* Print those that have not been printed yet, a line each. Local. */
void notice_print_new(FILE *to);
