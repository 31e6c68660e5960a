/* src/study/linear.h: what calibration needs of linear algebra: a few functions of LAPACK and BLAS, in a
 * module that is loaded when they are wanted, as no other command needs them. They have the names and
 * arguments of every such library: matrices column by column, everything by address. Local. */
#pragma once

#include "src/base/status.h"

typedef struct linear {
    /* Eigenvalues of a symmetric matrix, rising, and its eigenvectors in its place. */
    void (*dsyev)(const char *job, const char *half, const int *n, double *a, const int *lda, double *values,
                  double *work, const int *n_work, int *info);

    /* Solves a x = b for a symmetric positive definite a; x in place of b. */
    void (*dposv)(const char *half, const int *n, const int *n_right, double *a, const int *lda, double *b,
                  const int *ldb, int *info);

    /* c = alpha a b + beta c, with a or b turned where asked for. */
    void (*sgemm)(const char *turn_a, const char *turn_b, const int *m, const int *n, const int *k,
                  const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
                  const float *beta, float *c, const int *ldc);
} linear;

/* Refuses what cannot be loaded, with the loader's reason. */
status linear_load(const linear **out);
