#include "src/model/rope.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

/* theta^(2i/K), every step rounded to float32. */
static float period(const rope_config *rope, int i, int head_dim) {
    float exponent = (float)(2 * i) / (float)head_dim;
    return (float)pow((double)(float)rope->theta, (double)exponent);
}

/* Llama 3.1 (arXiv 2407.21783): long waves are slowed down by factor, short ones stay, and between the two
 * bounds it goes smoothly. */
static float scale_llama3(const rope_config *rope, float frequency) {
    double low = rope->low_freq_factor, high = rope->high_freq_factor;
    float positions = (float)rope->original_positions;
    float wave = 1.0f / frequency * (float)(2 * pi);
    if (wave < (float)(rope->original_positions / high)) return frequency;
    if (wave > (float)(rope->original_positions / low)) return frequency / (float)rope->factor;
    float smooth = (1.0f / wave * positions - (float)low) / (float)(high - low);
    return (1.0f - smooth) * frequency / (float)rope->factor + smooth * frequency;
}

/* YaRN (arXiv 2309.00071, 3.2): pairs that turn more than beta_fast times within the original context stay,
 * those that turn less than beta_slow times are slowed down by factor, with a linear ramp over the pairs
 * between. */
typedef struct yarn_ramp {
    double low, high; /* pairs */
} yarn_ramp;

/* The pair that turns n_turns times. */
static double yarn_pair(const rope_config *rope, double n_turns, int head_dim) {
    return head_dim * log(rope->original_positions / (n_turns * 2 * pi)) / (2 * log(rope->theta));
}

static yarn_ramp yarn_get_ramp(const rope_config *rope, int head_dim) {
    double low = yarn_pair(rope, rope->beta_fast, head_dim);
    double high = yarn_pair(rope, rope->beta_slow, head_dim);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_dim - 1);
    if (low == high) high += 0.001;
    return (yarn_ramp){low, high};
}

static float scale_yarn(const rope_config *rope, yarn_ramp ramp, int i, float pair_period) {
    float slowed = 1.0f / ((float)rope->factor * pair_period);
    float kept = 1.0f / pair_period;
    float at = ((float)i - (float)ramp.low) / (float)(ramp.high - ramp.low);
    float share = 1.0f - fminf(fmaxf(at, 0.0f), 1.0f);
    return slowed * (1.0f - share) + kept * share;
}

/* YaRN, 3.4: logits sharpen with the scale; mscale and mscale_all_dim as in DeepSeek-V2 (arXiv 2405.04434).
 */
static double yarn_magnitude(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static float yarn_factor(const rope_config *rope) {
    if (rope->attention_factor > 0) return (float)rope->attention_factor;
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return (float)(yarn_magnitude(rope->factor, rope->mscale) /
                       yarn_magnitude(rope->factor, rope->mscale_all_dim));
    return (float)yarn_magnitude(rope->factor, 1);
}

void rope_inverse_frequencies(const model_config *config, float *inv_freq, float *factor) {
    const rope_config *rope = &config->rope;
    bool is_yarn = rope->kind == ROPE_YARN;
    yarn_ramp ramp = is_yarn ? yarn_get_ramp(rope, config->head_dim) : (yarn_ramp){0};
    for (int i = 0; i < config->head_dim / 2; i++) {
        float pair_period = period(rope, i, config->head_dim);
        float frequency = 1.0f / pair_period;
        switch (rope->kind) {
        case ROPE_DEFAULT:
            break;
        case ROPE_LINEAR: /* position interpolation (arXiv 2306.15595) */
            frequency /= (float)rope->factor;
            break;
        case ROPE_LLAMA3:
            frequency = scale_llama3(rope, frequency);
            break;
        case ROPE_YARN:
            frequency = scale_yarn(rope, ramp, i, pair_period);
            break;
        }
        inv_freq[i] = frequency;
    }
    *factor = is_yarn ? yarn_factor(rope) : 1.0f;
}
