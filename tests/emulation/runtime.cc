/* The functions of the CUDA runtime: see cuda_runtime.h. */
#include "tests/emulation/emulation.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <malloc.h>
#include <map>
#include <memory>
#include <mutex>
#include <unistd.h>
#include <vector>

/* Of a device that is late: what a stream has not run yet. */
struct stream_queue {
    std::deque<std::function<void()>> waiting;
    uint64_t n_queued, n_run;
};
struct emulation_stream {
    std::atomic<bool> capturing;
    std::shared_ptr<stream_queue> queue = std::make_shared<stream_queue>();
};
struct emulation_event {
    std::shared_ptr<std::chrono::steady_clock::time_point> at =
        std::make_shared<std::chrono::steady_clock::time_point>();
    std::shared_ptr<stream_queue> queue; /* it is behind so many of its operations */
    uint64_t behind;
    int n_looks; /* until they run */
};
struct emulation_graph {
    std::vector<std::function<void()>> operations;
};

static thread_local cudaError_t last_error = cudaSuccess;
static thread_local emulation_graph *captured; /* the graph that this thread captures */
static std::atomic<size_t> allocated;
static std::atomic<int> n_until_failure[N_EMULATION_CALLS]; /* calls; 0: none fails */

static cudaError_t result(cudaError_t code) {
    if (code != cudaSuccess) last_error = code;
    return code;
}

/* ---- a device that is late ---- */

enum { MOST_LOOKS = 13 }; /* at an event, until what is before it runs; at some fewer than at others */

static const bool is_late = getenv("EMULATED_GPU_LATE") != nullptr;
static std::recursive_mutex order; /* of all queues, and of: */
static int n_recorded;
static std::vector<std::weak_ptr<stream_queue>> queues;
static std::map<const char *, size_t> blocks; /* memory of the device, and pinned memory */

static void run_until(stream_queue *q, uint64_t n) {
    const std::lock_guard<std::recursive_mutex> guard(order);
    while (q->n_run < n) {
        const std::function<void()> operation = std::move(q->waiting.front());
        q->waiting.pop_front();
        operation();
        q->n_run++;
    }
}

static void run_all() {
    const std::lock_guard<std::recursive_mutex> guard(order);
    for (const auto &weak : queues)
        if (const auto q = weak.lock()) run_until(q.get(), q->n_queued);
}

static bool is_taken(const void *memory) {
    const std::lock_guard<std::recursive_mutex> guard(order);
    auto at = blocks.upper_bound(static_cast<const char *>(memory));
    return at != blocks.begin() && (--at, static_cast<const char *>(memory) < at->first + at->second);
}

void emulation_enqueue(cudaStream_t stream, std::function<void()> operation) {
    if (captured) {
        captured->operations.push_back(operation);
    } else if (is_late && stream) {
        const std::lock_guard<std::recursive_mutex> guard(order);
        stream->queue->waiting.push_back(operation);
        stream->queue->n_queued++;
    } else {
        operation();
    }
}

/* What waits, or may wait, is forbidden while a graph is captured. */
static cudaError_t idle(cudaStream_t stream) {
    if (captured && (!stream || stream->capturing)) return result(cudaErrorStreamCaptureUnsupported);
    if (stream) run_until(stream->queue.get(), stream->queue->n_queued);
    return cudaSuccess;
}

/* ---- errors ---- */

cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t code = last_error;
    last_error = cudaSuccess;
    return code;
}

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
};

const char *cudaGetErrorName(cudaError_t code) {
    for (const auto &error : errors)
        if (error.code == code) return error.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t code) {
    for (const auto &error : errors)
        if (error.code == code) return error.text;
    return "unrecognized error code";
}

/* ---- failures on demand ---- */

void emulation_fail_call(emulation_call call, int n) {
    n_until_failure[call] = n;
}

cudaError_t emulation_demanded(emulation_call call) {
    const bool fails = n_until_failure[call] > 0 && --n_until_failure[call] == 0;
    if (!fails) return cudaSuccess;
    return result(call == EMULATION_TAKE ? cudaErrorMemoryAllocation : cudaErrorLaunchOutOfResources);
}

/* ---- the device ---- */

/* As much as this machine has, or as a test says. */
static size_t machine_bytes() {
    const char *mib = getenv("EMULATED_GPU_MIB");
    if (mib) return strtoull(mib, nullptr, 10) << 20;
    return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    return result(index == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *index) {
    *index = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int index) {
    if (index != 0) return result(cudaErrorInvalidDevice);
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "emulated");
    properties->totalGlobalMem = machine_bytes();
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = 227 << 10;
    properties->sharedMemPerMultiprocessor = 228 << 10;
    properties->multiProcessorCount = 4;
    properties->major = 9;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->l2CacheSize = 50 << 20;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int index) {
    cudaDeviceProp p;
    cudaError_t code = cudaGetDeviceProperties(&p, index);
    if (code != cudaSuccess) return code;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = static_cast<int>(p.sharedMemPerBlock);
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = static_cast<int>(p.sharedMemPerMultiprocessor);
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(p.sharedMemPerBlockOptin);
        break;
    default:
        return result(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int index) {
    if (index != 0) return result(cudaErrorInvalidDevice);
    snprintf(text, static_cast<size_t>(size), "0000:00:00.0");
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    cudaError_t code = idle(nullptr);
    if (code == cudaSuccess) run_all();
    return code;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    return cudaDriverGetVersion(version);
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    size_t used = allocated;
    *total_bytes = machine_bytes();
    *free_bytes = used < *total_bytes ? *total_bytes - used : 0;
    return cudaSuccess;
}

static cudaError_t take_memory(void **out, size_t bytes, size_t alignment) {
    size_t free_bytes, total_bytes;
    void *memory = nullptr;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    if (captured) return result(cudaErrorStreamCaptureUnsupported);
    if (emulation_demanded(EMULATION_TAKE) != cudaSuccess) return cudaErrorMemoryAllocation;
    if (bytes > free_bytes || (bytes && posix_memalign(&memory, alignment, bytes)))
        return result(cudaErrorMemoryAllocation);
    if (bytes) memset(memory, 0xff, bytes);
    allocated += malloc_usable_size(memory);
    if (is_late) {
        const std::lock_guard<std::recursive_mutex> guard(order);
        blocks[static_cast<const char *>(memory)] = bytes;
    }
    *out = memory;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    return take_memory(out, bytes, 256);
}

cudaError_t cudaFree(void *memory) {
    if (is_late) {
        run_all();
        const std::lock_guard<std::recursive_mutex> guard(order);
        blocks.erase(static_cast<const char *>(memory));
    }
    allocated -= malloc_usable_size(memory);
    free(memory);
    return cudaSuccess;
}

/* Whole pages of the host, as with CUDA. */
cudaError_t cudaMallocHost(void **out, size_t bytes) {
    return take_memory(out, bytes, 4096);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    return cudaMallocHost(out, bytes);
}

cudaError_t cudaFreeHost(void *memory) {
    return cudaFree(memory);
}

/* A copy that another thread has captured was hardly meant to be: CUDA would take it into the graph. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    if (stream && stream->capturing && !captured) return result(cudaErrorStreamCaptureUnsupported);
    if (is_late && !captured && !is_taken(from)) { /* it may change, or go */
        const auto copy = std::make_shared<std::vector<char>>(static_cast<const char *>(from),
                                                              static_cast<const char *>(from) + bytes);
        emulation_enqueue(stream, [=] { memmove(to, copy->data(), bytes); });
    } else {
        emulation_enqueue(stream, [=] { memmove(to, from, bytes); });
    }
    return is_late && !captured && !is_taken(to) ? idle(stream) : cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
    if (width > to_pitch || width > from_pitch) return result(cudaErrorInvalidValue);
    emulation_enqueue(stream, [=] {
        for (size_t i = 0; i < height; i++)
            memmove(static_cast<char *>(to) + i * to_pitch, static_cast<const char *>(from) + i * from_pitch,
                    width);
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    emulation_enqueue(stream, [=] { memset(memory, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    cudaError_t code = idle(nullptr);
    return code != cudaSuccess ? code : cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
    cudaError_t code = idle(nullptr);
    if (code != cudaSuccess) return code;
    return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    cudaError_t code = idle(nullptr);
    return code != cudaSuccess ? code : cudaMemsetAsync(memory, value, bytes, nullptr);
}

/* ---- streams and events: they too take memory of the device ---- */

template <typename T> static cudaError_t take(T **out) {
    cudaError_t code = emulation_demanded(EMULATION_TAKE);
    if (code != cudaSuccess) return code;
    *out = new T();
    allocated += sizeof(T);
    return cudaSuccess;
}

template <typename T> static cudaError_t give_back(T *taken) {
    delete taken;
    allocated -= sizeof(T);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    cudaError_t code = take(out);
    if (code != cudaSuccess || !is_late) return code;
    const std::lock_guard<std::recursive_mutex> guard(order);
    queues.push_back((*out)->queue);
    return code;
}

cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    idle(stream);
    return give_back(stream);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return idle(stream);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    return idle(stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const auto queue = event->queue;
    const uint64_t behind = event->behind;
    if (queue) emulation_enqueue(stream, [=] { run_until(queue.get(), behind); });
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument) {
    emulation_enqueue(stream, [=] { function(argument); });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
    return take(out);
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return give_back(event);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const auto at = event->at;
    emulation_enqueue(stream, [=] { *at = std::chrono::steady_clock::now(); });
    if (!is_late || captured || !stream) return cudaSuccess;
    const std::lock_guard<std::recursive_mutex> guard(order);
    event->queue = stream->queue;
    event->behind = stream->queue->n_queued;
    event->n_looks = 5 * n_recorded++ % MOST_LOOKS;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    cudaError_t code = idle(nullptr);
    if (code == cudaSuccess && event->queue) run_until(event->queue.get(), event->behind);
    return code;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    const std::lock_guard<std::recursive_mutex> guard(order);
    cudaError_t code = idle(nullptr);
    if (code != cudaSuccess || !event->queue || event->queue->n_run >= event->behind) return code;
    if (event->n_looks-- > 0) return result(cudaErrorNotReady);
    run_until(event->queue.get(), event->behind);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    *ms = std::chrono::duration<float, std::milli>(*end->at - *start->at).count();
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (captured || !stream) return result(cudaErrorStreamCaptureUnsupported);
    captured = new emulation_graph();
    stream->capturing = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    if (!captured || !stream || !stream->capturing) return result(cudaErrorInvalidValue);
    *out = captured;
    captured = nullptr;
    stream->capturing = false;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    *out = new emulation_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    for (const auto &operation : graph->operations)
        emulation_enqueue(stream, operation);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return cudaSuccess;
}
