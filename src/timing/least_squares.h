/* src/timing/least_squares.h: the coefficients of a few terms that explain measurements best. Pure. Local. */
#pragma once

enum { LEAST_SQUARES_MAX_TERMS = 4 };

/* Find coefficients, none of them negative, so that the sum over k of coefficients[k] * terms[i][k] is near
 * values[i] for all i: they minimise the sum of the squares of the relative errors (sum / values[i] - 1).
 * Returns the root of the mean of these squares; with no measurements, all are 0. Values are above 0; terms
 * is [n][n_terms]. */
double least_squares_fit(int n, int n_terms, const double *terms, const double *values, double *coefficients);
