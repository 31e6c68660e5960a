#include "src/engine/load_race.h"

#include <math.h>

enum {
    LEAST_ROWS = 16,   /* fewer take about as long */
    TRIAL_ROWS = 64,   /* which show how fast computing is */
    USUAL_TOKENS = 512 /* of a block, before one came */
};

/* Where it is not known how fast computing is: a load that takes less is not worth a trial of that, and
 * before that it is not known what it takes. */
static const double trial_seconds = 0.25;

/* Where it is about known: not if the trial takes more than this share of the load. */
static const double trial_share = 0.25;

/* Of an old figure and a new one. */
static const double new_share = 0.5;

static double mix(double old, double new) {
    return old > 0 ? new_share * new + (1 - new_share) * old : new;
}

load_race load_race_begin(int64_t n_tokens, double usual_seconds_per_row, double now) {
    return (load_race){.usual_seconds_per_row = usual_seconds_per_row,
                       .n_tokens = n_tokens,
                       .edge = n_tokens,
                       .idle_share = 1,
                       .begin = now,
                       .moved_at = now};
}

void load_race_move(load_race *r, int64_t edge, double now) {
    if (edge >= r->edge) return;
    r->block_seconds = mix(r->block_seconds, now - r->moved_at);
    r->block_tokens = mix(r->block_tokens, (double)(r->edge - edge));
    r->edge = edge;
    r->moved_at = now;
}

static double block_of(const load_race *r) {
    return r->block_tokens > 0 ? r->block_tokens : USUAL_TOKENS;
}

double load_race_seconds_left(const load_race *r, double now) {
    const double left = (double)(r->edge - r->n_computed), silent = now - r->moved_at;
    if (left <= 0) return 0;
    if (r->is_stuck) return INFINITY;
    const double n_blocks = ceil(left / block_of(r));
    const double block = r->block_seconds > silent ? r->block_seconds : silent;
    return silent > r->block_seconds ? n_blocks * block : n_blocks * block - silent;
}

double load_race_seconds_to_meet(double load_seconds, double n_positions, double computed_per_second) {
    return load_seconds * n_positions / (n_positions + load_seconds * computed_per_second);
}

int load_race_rows(const load_race *r, double now, double seconds_per_row, int n_in_flight, int most) {
    const double left = (double)(r->edge - r->n_computed), load = load_race_seconds_left(r, now);
    const double spare = load * r->idle_share - n_in_flight * seconds_per_row; /* for what is begun now */
    if (left <= 0) return 0;
    if (r->is_stuck) return left < most ? (int)left : most;
    if (!(seconds_per_row > 0)) {
        const int trial = left < TRIAL_ROWS ? (int)left : TRIAL_ROWS;
        const double usual = trial * r->usual_seconds_per_row, idle = load * r->idle_share;
        const double wait = usual > 0 && usual < trial_seconds ? usual : trial_seconds;
        const bool is_cheap = usual > 0 ? usual <= trial_share * idle : idle > trial_seconds;
        if (now - r->begin < wait || !is_cheap || n_in_flight > 0) return 0;
        return trial < most ? trial : most;
    }
    double rows =
        spare / (seconds_per_row + load / left); /* rows x seconds_per_row = loading of those behind */
    if (left <= block_of(r)) rows = left;        /* one block, which comes as a whole or not at all */
    if (rows < LEAST_ROWS) rows = left < LEAST_ROWS ? left : LEAST_ROWS;
    if (rows * seconds_per_row > spare) return 0;
    return rows > most ? most : (int)rows;
}
