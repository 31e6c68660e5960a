/* tests/base/test_notice.c: notices are kept once, on one line, and printed once. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "src/base/notice.h"
#include "tests/fixtures/harness.h"

/* All that notice_print_new prints, in `text`. */
static void print_new(char *text, size_t n_bytes) {
    memset(text, 0, n_bytes);
    FILE *f = fmemopen(text, n_bytes, "w");
    CU_ASSERT_PTR_NOT_NULL(f);
    if (!f) return;
    notice_print_new(f);
    fclose(f);
}

static void test_notices(void) {
    char printed[4 * NOTICE_BYTES], longer[2 * NOTICE_BYTES];
    int before = notice_count();
    notice_add("%s is not used", "model.safetensors");
    notice_add("two\nlines");
    notice_add("%s is not used", "model.safetensors");
    CU_ASSERT(notice_count() == before + 2);
    CU_ASSERT_STRING_EQUAL(notice_text(before), "model.safetensors is not used");
    print_new(printed, sizeof printed);
    CU_ASSERT_STRING_EQUAL(printed, "kvarve: NOTE: model.safetensors is not used\nkvarve: NOTE: two?lines\n");
    print_new(printed, sizeof printed);
    CU_ASSERT_STRING_EQUAL(printed, "");
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    notice_add("%s", longer);
    CU_ASSERT(strlen(notice_text(before + 2)) == NOTICE_BYTES - 1);
}

enum { N_THREADS = 4, N_EACH = 50 };

static void *add_some(void *argument) {
    for (int i = 0; i < N_EACH; i++) {
        notice_add("of all: %d", i);
        notice_add("of thread %d: %d", *(int *)argument, i);
    }
    return NULL;
}

static void test_threads(void) {
    pthread_t threads[N_THREADS];
    int numbers[N_THREADS], before = notice_count();
    for (int i = 0; i < N_THREADS; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, add_some, &numbers[i]);
    }
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    CU_ASSERT(notice_count() == before + N_EACH * (N_THREADS + 1));
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"kept once, printed once", test_notices},
        {"from several threads", test_threads},
        CU_TEST_INFO_NULL,
    };
    return harness_run(&argc, &argv, "notice", tests);
}
