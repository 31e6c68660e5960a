/* tests/harness.h: the one frame of every CUnit test program.
 *
 * A test program lists its tests and returns harness_run(...) from main. It is started by mpirun at any
 * number of ranks (or alone: one rank). Every rank runs every test; failures are summed over the ranks, and
 * rank 0 prints. A test must leave no collective early: use CU_ASSERT (not the _FATAL forms) before
 * collectives. */
#pragma once

#include <CUnit/CUnit.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* `tests` ends with CU_TEST_INFO_NULL. Exit code for main: 0 passed, 1 failed (or no test at all), 77 nothing
 * but skips. `--only NAME` among the arguments, any number of times, is a test to run, and the others are
 * not. Starts and ends MPI, unless the test program has started it (comm_open) and ends it itself. */
int harness_run(int *argc, char ***argv, const char *suite, CU_TestInfo *tests);

int harness_rank(void);
int harness_size(void);

/* Say why the running test is skipped; the caller then returns. */
void harness_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The repository's directory, or where $KVARVE_TEST_SOURCE says what is needed of it lies now; and that of
 * material beside it, which may be absent (NULL then). */
const char *harness_source_dir(void);
const char *harness_shared_dir(void);

/* Is this program many times slower than the one that users run, as KVARVE_SLOW in the environment says? What
 * only compares more numbers in the same way is left to that one then, but with KVARVE_LONG there too. */
bool harness_is_slow(void);

/* Is there time for all, as KVARVE_LONG says? */
bool harness_is_long(void);

/* A fresh directory of this rank, removed with its files at the end. */
const char *harness_temp_dir(void);

/* A new directory in it; the name lasts until the next call but one. */
const char *harness_fresh_dir(void);

/* A repeatable random stream. */
uint64_t harness_random(uint64_t *state);     /* 64 bits */
float harness_random_normal(uint64_t *state); /* mean 0, deviation 1 */

/* The whole file in memory, zero byte behind it; NULL when it cannot be read. Released with free(). */
char *harness_read_file(const char *path, size_t *n);
void harness_write_file(const char *path, const void *data, size_t n);

/* ||a - b||^2 / ||b||^2 in float64; NaN counts as infinitely far. */
double harness_nmse(const float *a, const double *b, size_t n);

/* The status must be OK, or must be `expected` with a text that holds `part`. */
#define CHECK_OK(expression) harness_check(__FILE__, __LINE__, (expression), STATUS_OK, NULL)
#define CHECK_REFUSED(expression, part)                                                                      \
    harness_check(__FILE__, __LINE__, (expression), STATUS_REFUSED, (part))
bool harness_check(const char *file, unsigned line, status got, status expected, const char *part);
