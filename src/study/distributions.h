/* src/study/distributions.h: next-token distributions of n tokens, beside each other. Local. */
#pragma once

/* The likeliest token, the first of several. */
int find_top(const float *x, int n);

/* out: log p of every token. */
void log_probabilities(const float *logits, int n, float *out);

/* KL(p || q), in nats, of log-probabilities. */
double divergence_of(const float *log_p, const float *log_q, int n);
