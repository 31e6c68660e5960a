/* With at most four terms, every subset of them is solved by itself (QR by modified Gram-Schmidt), and the
 * best one whose coefficients are all positive is the answer: exact, where a general method would iterate. */
#include "src/timing/least_squares.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"

typedef struct problem {
    int n, n_terms;
    double *columns; /* [n_terms][n] terms over values; what is sought makes their sum 1 in every row */
    double *q;       /* [n_terms][n] room for orthogonal columns */
    double *rest;    /* [n] room for what is not explained */
} problem;

static double dot(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void subtract(double *a, double factor, const double *b, int n) {
    for (int i = 0; i < n; i++)
        a[i] -= factor * b[i];
}

/* Orthonormal columns q of the chosen ones, and r with columns = q r; false when they depend on each other.
 */
static int orthogonalise(problem *p, const int *chosen, int n_chosen, double r[][LEAST_SQUARES_MAX_TERMS]) {
    for (int k = 0; k < n_chosen; k++) {
        double *q = p->q + (size_t)k * (size_t)p->n;
        memcpy(q, p->columns + (size_t)chosen[k] * (size_t)p->n, (size_t)p->n * sizeof *q);
        double before = sqrt(dot(q, q, p->n));
        for (int j = 0; j < k; j++) {
            const double *other = p->q + (size_t)j * (size_t)p->n;
            r[j][k] = dot(other, q, p->n);
            subtract(q, r[j][k], other, p->n);
        }
        r[k][k] = sqrt(dot(q, q, p->n));
        if (!(r[k][k] > 1e-9 * before)) return 0;
        for (int i = 0; i < p->n; i++)
            q[i] /= r[k][k];
    }
    return 1;
}

/* The sum of squares that the chosen terms leave; INFINITY when they are no answer. */
static double solve(problem *p, const int *chosen, int n_chosen, double *coefficients) {
    double r[LEAST_SQUARES_MAX_TERMS][LEAST_SQUARES_MAX_TERMS] = {{0}}, y[LEAST_SQUARES_MAX_TERMS];
    if (!orthogonalise(p, chosen, n_chosen, r)) return INFINITY;
    for (int i = 0; i < p->n; i++)
        p->rest[i] = 1;
    for (int k = 0; k < n_chosen; k++) {
        const double *q = p->q + (size_t)k * (size_t)p->n;
        y[k] = dot(q, p->rest, p->n);
        subtract(p->rest, y[k], q, p->n);
    }
    for (int k = n_chosen - 1; k >= 0; k--) {
        for (int j = k + 1; j < n_chosen; j++)
            y[k] -= r[k][j] * coefficients[chosen[j]];
        coefficients[chosen[k]] = y[k] / r[k][k];
        if (!(coefficients[chosen[k]] > 0)) return INFINITY;
    }
    return dot(p->rest, p->rest, p->n);
}

static double solve_best(problem *p, double *coefficients) {
    double least = p->n; /* of all coefficients 0 */
    for (int subset = 1; subset < 1 << p->n_terms; subset++) {
        int chosen[LEAST_SQUARES_MAX_TERMS], n_chosen = 0;
        double tried[LEAST_SQUARES_MAX_TERMS] = {0};
        for (int k = 0; k < p->n_terms; k++)
            if (subset >> k & 1) chosen[n_chosen++] = k;
        double left = n_chosen <= p->n ? solve(p, chosen, n_chosen, tried) : INFINITY;
        if (left >= least) continue;
        least = left;
        memcpy(coefficients, tried, (size_t)p->n_terms * sizeof *tried);
    }
    return least;
}

double least_squares_fit(int n, int n_terms, const double *terms, const double *values,
                         double *coefficients) {
    assert(n_terms <= LEAST_SQUARES_MAX_TERMS);
    size_t rows = (size_t)n, size = rows * (size_t)n_terms;
    problem p = {n, n_terms, mem_new(size, sizeof(double)), mem_new(size, sizeof(double)),
                 mem_new(rows, sizeof(double))};
    for (int k = 0; k < n_terms; k++) {
        coefficients[k] = 0;
        for (int i = 0; i < n; i++)
            p.columns[(size_t)k * rows + (size_t)i] = terms[i * n_terms + k] / values[i];
    }
    double left = n > 0 ? solve_best(&p, coefficients) : 0;
    free(p.columns);
    free(p.q);
    free(p.rest);
    return n > 0 ? sqrt(left / n) : 0;
}
