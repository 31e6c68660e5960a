/* Products with many rows, by cuBLASLt.
 *
 * A plan, the algorithm for a weight shape, is chosen once, and used for every number of rows: so that the
 * bits of a row do not depend on it. Algorithms that share a sum between blocks are not considered, as they
 * may add in an order that depends on the number of rows or on time. A shape for which there is none goes to
 * cuda_multiply_exact.
 *
 * cuBLASLt counts columns first: there, y is [N, T] = w [M, N] transposed * x [M, T]. */
#include <assert.h>
#include <cublasLt.h>
#include <stdlib.h>

#include "kernels/cuda/device/cuda_ops.h"
#include "src/base/memory.h"

enum {
    TYPICAL_ROWS = 512,  /* that the algorithm is chosen for */
    MAX_CANDIDATES = 64, /* algorithms that are looked at */
    ROW_ALIGNMENT = 16,  /* bytes: what algorithms can make use of */
    WORKSPACE_BYTES = 32 << 20
};

/* Numbers of rows that an algorithm must take: any may come. */
static const int tried_rows[] = {1, 2, 3, 8, 17, 64, 100, 255, 512, 1000, 2048, 8192};

typedef struct cublas_plan {
    int64_t n_rows, n_cols; /* of the weights */
    bool exists;            /* false: no algorithm will do */
    cublasLtMatmulAlgo_t algorithm;
} cublas_plan;

typedef struct cublas_state {
    cublasLtHandle_t handle;
    cublasLtMatmulDescOpaque_t product;
    void *workspace; /* device memory */
    cublas_plan *plans;
    size_t n_plans;
} cublas_state;

/* What a product is described by, for T rows. */
typedef struct layouts {
    cublasLtMatrixLayoutOpaque_t w, x, y;
} layouts;

static bool check(cuda_device *dev, cublasStatus_t code) {
    if (code != CUBLAS_STATUS_SUCCESS)
        cuda_device_fail(dev, "product with many rows (cuBLASLt)", cublasLtGetStatusString(code));
    return code == CUBLAS_STATUS_SUCCESS;
}

/* ---- the state ---- */

static cublasStatus_t describe_product(cublasLtMatmulDesc_t product) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t code = cublasLtMatmulDescInit(product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (code != CUBLAS_STATUS_SUCCESS) return code;
    return cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                          sizeof transposed);
}

/* The device's state, made at the first product. NULL when that failed, which is recorded. */
static cublas_state *state_of(cuda_device *dev) {
    if (dev->cublas) return dev->cublas;
    cublas_state *s = mem_new(1, sizeof *s);
    dev->cublas = s;
    cudaError_t memory = cudaSuccess;
    if (check(dev, cublasLtCreate(&s->handle)) && check(dev, describe_product(&s->product)) &&
        (memory = cudaMalloc(&s->workspace, WORKSPACE_BYTES)) == cudaSuccess)
        return s;
    cuda_device_check(dev, memory, "workspace of products");
    cuda_matmul_close(dev);
    return NULL;
}

void cuda_matmul_close(cuda_device *dev) {
    cublas_state *s = dev->cublas;
    if (!s) return;
    if (s->handle) cublasLtDestroy(s->handle);
    cudaFree(s->workspace);
    free(s->plans);
    free(s);
    dev->cublas = NULL;
}

/* ---- plans ---- */

static cublasStatus_t describe_matrices(layouts *l, int64_t N, int64_t M, int T) {
    cublasStatus_t code = cublasLtMatrixLayoutInit(&l->w, CUDA_R_16BF, (uint64_t)M, (uint64_t)N, M);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutInit(&l->x, CUDA_R_16BF, (uint64_t)M, (uint64_t)T, M);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatrixLayoutInit(&l->y, CUDA_R_32F, (uint64_t)N, (uint64_t)T, N);
    return code;
}

/* The largest power of two, up to ROW_ALIGNMENT, that every row of so many bytes begins at a multiple of. */
static uint32_t row_alignment(int64_t row_bytes) {
    uint32_t bytes = ROW_ALIGNMENT;
    while (row_bytes % bytes)
        bytes /= 2;
    return bytes;
}

/* Rows of x and y may begin at any row of a step. */
static cublasStatus_t describe_preference(cublasLtMatmulPreference_t p, int64_t N, int64_t M) {
    const uint64_t workspace_bytes = WORKSPACE_BYTES;
    const uint32_t inputs = row_alignment(M * 2), outputs = row_alignment(N * 4);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t value;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_NONE},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, inputs},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, inputs},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, outputs},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, outputs},
    };
    cublasStatus_t code = cublasLtMatmulPreferenceInit(p);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &workspace_bytes, sizeof workspace_bytes);
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes && code == CUBLAS_STATUS_SUCCESS; i++)
        code = cublasLtMatmulPreferenceSetAttribute(p, wishes[i].attribute, &wishes[i].value,
                                                    sizeof wishes[i].value);
    return code;
}

static bool get_config(const cublasLtMatmulAlgo_t *a, cublasLtMatmulAlgoConfigAttributes_t attribute,
                       void *out, size_t bytes) {
    size_t written = 0;
    return cublasLtMatmulAlgoConfigGetAttribute(a, attribute, out, bytes, &written) ==
               CUBLAS_STATUS_SUCCESS &&
           written == bytes;
}

/* One block makes a sum, from its first product to its last. */
static bool adds_in_one_order(const cublasLtMatmulAlgo_t *a) {
    int32_t split = 0;
    uint32_t reduction = 0;
    return get_config(a, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split) &&
           get_config(a, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction, sizeof reduction) && split <= 1 &&
           reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
}

static bool takes_any_rows(cublas_state *s, int64_t N, int64_t M, const cublasLtMatmulAlgo_t *a) {
    for (size_t i = 0; i < sizeof tried_rows / sizeof *tried_rows; i++) {
        layouts l;
        cublasLtMatmulHeuristicResult_t result;
        if (describe_matrices(&l, N, M, tried_rows[i]) != CUBLAS_STATUS_SUCCESS ||
            cublasLtMatmulAlgoCheck(s->handle, &s->product, &l.w, &l.x, &l.y, &l.y, a, &result) !=
                CUBLAS_STATUS_SUCCESS ||
            result.workspaceSize > WORKSPACE_BYTES)
            return false;
    }
    return true;
}

/* Algorithms for TYPICAL_ROWS, the fastest (as cuBLASLt expects it) first; how many. A shape that cuBLASLt
 * cannot do has none; other failures are recorded. */
static int list_candidates(cuda_device *dev, const cublas_plan *plan,
                           cublasLtMatmulHeuristicResult_t *candidates) {
    cublas_state *s = dev->cublas;
    layouts l;
    cublasLtMatmulPreferenceOpaque_t preference;
    int n = 0;
    if (!check(dev, describe_matrices(&l, plan->n_rows, plan->n_cols, TYPICAL_ROWS)) ||
        !check(dev, describe_preference(&preference, plan->n_rows, plan->n_cols)))
        return 0;
    cublasStatus_t code = cublasLtMatmulAlgoGetHeuristic(s->handle, &s->product, &l.w, &l.x, &l.y, &l.y,
                                                         &preference, MAX_CANDIDATES, candidates, &n);
    if (code == CUBLAS_STATUS_NOT_SUPPORTED || !check(dev, code)) return 0;
    return n;
}

static void choose_algorithm(cuda_device *dev, cublas_plan *plan) {
    cublasLtMatmulHeuristicResult_t *candidates = mem_new(MAX_CANDIDATES, sizeof *candidates);
    int n = list_candidates(dev, plan, candidates);
    for (int i = 0; i < n && !plan->exists; i++) {
        plan->algorithm = candidates[i].algo;
        plan->exists = candidates[i].state == CUBLAS_STATUS_SUCCESS && adds_in_one_order(&plan->algorithm) &&
                       takes_any_rows(dev->cublas, plan->n_rows, plan->n_cols, &plan->algorithm);
    }
    free(candidates);
}

/* A model has a handful of shapes: each of them is looked for from the first on. */
static const cublas_plan *plan_of(cuda_device *dev, const matrix *w) {
    cublas_state *s = dev->cublas;
    for (size_t i = 0; i < s->n_plans; i++)
        if (s->plans[i].n_rows == w->n_rows && s->plans[i].n_cols == w->n_cols) return &s->plans[i];
    s->plans = mem_resize(s->plans, s->n_plans + 1, sizeof *s->plans);
    cublas_plan *plan = &s->plans[s->n_plans++];
    *plan = (cublas_plan){.n_rows = w->n_rows, .n_cols = w->n_cols};
    choose_algorithm(dev, plan);
    return plan;
}

/* ---- products ---- */

bool cuda_multiply_many_can(const cuda_device *dev, const matrix *w) {
    return dev->base.act == DTYPE_BF16 && w->n_rows > 0 && w->n_cols > 0;
}

void cuda_multiply_many(cuda_device *dev, const matrix *w, const void *x, int T, float *y, bool add) {
    assert(cuda_multiply_many_can(dev, w));
    const float alpha = 1, beta = add ? 1 : 0;
    layouts l;
    cublas_state *s = state_of(dev);
    if (!s) return;
    const cublas_plan *plan = plan_of(dev, w);
    if (!plan->exists) {
        cuda_multiply_exact(dev, w, x, T, y, add);
        return;
    }
    if (check(dev, describe_matrices(&l, w->n_rows, w->n_cols, T)))
        check(dev, cublasLtMatmul(s->handle, &s->product, &alpha, w->data, &l.w, x, &l.x, &beta, y, &l.y, y,
                                  &l.y, &plan->algorithm, s->workspace, WORKSPACE_BYTES, dev->stream));
}
