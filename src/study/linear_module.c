/* The module kvarve_linear.so. */
#include "src/study/linear.h"

void dsyev_(const char *job, const char *half, const int *n, double *a, const int *lda, double *values,
            double *work, const int *n_work, int *info);
void dposv_(const char *half, const int *n, const int *n_right, double *a, const int *lda, double *b,
            const int *ldb, int *info);
void sgemm_(const char *turn_a, const char *turn_b, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc);

extern const linear kvarve_linear;
__attribute__((visibility("default"))) const linear kvarve_linear = {dsyev_, dposv_, sgemm_};
