#include "src/study/distributions.h"

#include <math.h>

int find_top(const float *x, int n) {
    int top = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[top]) top = i;
    return top;
}

void log_probabilities(const float *logits, int n, float *out) {
    const double largest = (double)logits[find_top(logits, n)];
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((double)logits[i] - largest);
    for (int i = 0; i < n; i++)
        out[i] = (float)((double)logits[i] - largest - log(sum));
}

double divergence_of(const float *log_p, const float *log_q, int n) {
    double divergence = 0;
    for (int i = 0; i < n; i++)
        divergence += exp((double)log_p[i]) * ((double)log_p[i] - (double)log_q[i]);
    return divergence;
}
