/* What the CUDA device does where calls of the runtime fail, as those of the emulated one do on demand: each
 * failure is told once, in words, nothing stays taken, and the next operation is none the worse. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "tests/fixtures/device_fixture.h"

static const char NO_MEMORY[] = "out of memory";

static device *dev;
static size_t free_bytes; /* of the GPU, beside the device */

/* It failed in these words, nothing is taken, and an operation does not find the error. */
static void check_failed(status st, const char *words, unsigned line) {
    const float bias = 1;
    float y = 2;
    harness_check(__FILE__, line, st, STATUS_FAILED, words);
    emulation_fail_call(EMULATION_TAKE, 0);
    emulation_fail_call(EMULATION_LAUNCH, 0);
    CHECK_CASE(cuda_device_free_bytes(0) == free_bytes, "line %u: something stays taken", line);
    dev->ops->add_bias(dev, &bias, 1, 1, &y);
    CHECK_OK(dev->ops->sync(dev));
    CHECK_CASE(y == 3, "line %u: the next operation did not run", line);
}
#define CHECK_FAILED(st, words) check_failed(st, words, __LINE__)

static void test_memory(void) {
    void *memory = NULL;
    matrix *w = NULL;
    emulation_fail_call(EMULATION_TAKE, 1);
    CHECK_FAILED(dev->ops->alloc(dev, 1000, &memory), "out of memory: wanted 1000 bytes of GPU 0 (emulated)");
    emulation_fail_call(EMULATION_TAKE, 1);
    CHECK_FAILED(dev->ops->alloc_host(dev, 1000, &memory), "1000 bytes of pinned host memory: out of memory");
    emulation_fail_call(EMULATION_TAKE, 1);
    CHECK_FAILED(dev->ops->matrix_open(dev, 10, 20, &w), "wanted 400 bytes");
    CU_ASSERT(!memory && !w);
}

/* Of an operation: the first sync tells it. */
static void test_scratch(void) {
    emulation_fail_call(EMULATION_TAKE, 1);
    CU_ASSERT(!cuda_device_scratch((cuda_device *)dev, 1000));
    CHECK_FAILED(dev->ops->sync(dev), "wanted 1000 bytes");
}

/* A stream and two events. */
static void test_copy_open(void) {
    device_copy *copy = NULL;
    for (int n = 1; n <= 3; n++) {
        emulation_fail_call(EMULATION_TAKE, n);
        CHECK_FAILED(dev->ops->copy_open(dev, &copy), "a stream for copies: out of memory");
    }
    CU_ASSERT(!copy);
    CHECK_OK(dev->ops->copy_open(dev, &copy));
    dev->ops->copy_close(dev, copy);
}

/* Each of the things that a device takes when it is opened. */
static void test_open(void) {
    enum { LEAST = 8 };
    device *other = NULL;
    int n = 1;
    for (;; n++) {
        emulation_fail_call(EMULATION_TAKE, n);
        const status st = cuda_device_open(PRECISION_BF16, 0, &other);
        if (st == STATUS_OK) break;
        CHECK_FAILED(st == STATUS_REFUSED ? STATUS_FAILED : st, NO_MEMORY);
        CU_ASSERT(!other);
    }
    CU_ASSERT(n > LEAST);
    emulation_fail_call(EMULATION_TAKE, 0);
    close_device(other);
    CU_ASSERT(cuda_device_free_bytes(0) == free_bytes);
}

static void test_measure(void) {
    for (int n = 1; n <= 4; n++) {
        emulation_fail_call(EMULATION_TAKE, n);
        CU_ASSERT(dev->ops->measure_memory(dev) == 0);
        CHECK_FAILED(status_fail(NO_MEMORY), NO_MEMORY);
    }
}

static void test_launch(void) {
    const float bias = 1;
    float y = 2;
    emulation_fail_call(EMULATION_LAUNCH, 2);
    for (int i = 0; i < 4; i++)
        dev->ops->add_bias(dev, &bias, 1, 1, &y);
    CU_ASSERT(y == 5);
    CHECK_FAILED(dev->ops->sync(dev), "GPU 0 (emulated): add_bias: too many resources requested for launch");
}

typedef struct late_copy {
    float *to;
    atomic_bool is_done;
} late_copy;

static void *copy_late(void *context) {
    late_copy *c = context;
    const float one = 1;
    dev->ops->copy_in(dev, c->to, &one, sizeof one);
    atomic_store(&c->is_done, true);
    return NULL;
}

/* What another thread copies while a step is recorded waits, and is no part of the recording. */
static void test_recording(void) {
    void *to;
    const float zero = 0;
    pthread_t thread;
    CHECK_OK(dev->ops->alloc(dev, sizeof zero, &to));
    late_copy c = {.to = to};
    CU_ASSERT(!dev->ops->replay(dev, to));
    dev->ops->copy_in(dev, to, &zero, sizeof zero);
    CU_ASSERT(!dev->ops->replay(dev, to)); /* is recorded from here on */
    pthread_create(&thread, NULL, copy_late, &c);
    usleep(50000);
    CU_ASSERT(!atomic_load(&c.is_done) && *c.to == 0);
    dev->ops->record_end(dev);
    pthread_join(thread, NULL);
    CU_ASSERT(*c.to == 1);
    CHECK_OK(dev->ops->sync(dev));
    dev->ops->release(dev, to);
}

/* Of what runs beside the operations, the operations do not hear. */
static void test_decode(void) {
    const kv_format format = device_kv_format(dev, 1, 2, 16);
    const varve_image image = {.n_heads = 1, .width = 2, .n_blocks = 1, .block_heads = 1};
    const varve_job job = {.image = image, .n_tokens = 1, .n_layers = 1};
    device_copy *copy = NULL;
    bool over = false;
    CHECK_OK(dev->ops->copy_open(dev, &copy));
    emulation_fail_call(EMULATION_LAUNCH, 1);
    const status st = dev->ops->decode_chunks(dev, copy, &format, &job, &job, 1);
    harness_check(__FILE__, __LINE__, st, STATUS_FAILED, "decoding of chunks: too many resources");
    CHECK_OK(dev->ops->copy_test(dev, copy, &over));
    CU_ASSERT(over);
    dev->ops->copy_close(dev, copy);
    CHECK_FAILED(st, "decoding of chunks");
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {{"memory", test_memory},
                           {"scratch", test_scratch},
                           {"copy_open", test_copy_open},
                           {"open", test_open},
                           {"measure", test_measure},
                           {"launch", test_launch},
                           {"decode_chunks", test_decode},
                           {"recording", test_recording},
                           CU_TEST_INFO_NULL};
    if (cuda_device_open(PRECISION_BF16, 0, &dev) != STATUS_OK) return 1;
    free_bytes = cuda_device_free_bytes(0);
    const int code = harness_run(&argc, &argv, "cuda failures", tests);
    dev->ops->close(dev);
    return code;
}
