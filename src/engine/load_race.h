/* src/engine/load_race.h: what is cached comes from two ends: the ranks load it from its last position to the
 * first, and, where that takes long, the model computes it from the first on. They meet, and nobody need know
 * beforehand where: whichever is faster gets further. This is the decision of how much to compute next, by
 * what was seen of both so far; rank 0 takes it for all. Pure. Local. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct load_race {
    int64_t n_tokens;   /* positions that are cached */
    int64_t n_computed; /* of them the first ones, which were put into steps */
    int64_t edge;       /* of them all behind it are loaded, by every rank */
    bool is_stuck;      /* no more will be loaded */
    double usual_seconds_per_row;
    double idle_share;      /* of the time that loading takes: in it, computing is not in its way */
    double begin, moved_at; /* when it began, and when the edge moved last */
    double block_seconds;   /* what one of its moves took lately, and */
    double block_tokens;    /* how far it went; 0: it has not moved */
} load_race;

/* usual_seconds_per_row: of computing, as it was when the snapshot was made; 0: not known. */
load_race load_race_begin(int64_t n_tokens, double usual_seconds_per_row, double now);

/* The edge is here now. */
void load_race_move(load_race *r, int64_t edge, double now);

/* Until all is loaded that is neither loaded nor computed, as it looks now: where nothing came for longer
 * than before, it takes as long again, at least. */
double load_race_seconds_left(const load_race *r, double now);

/* Until they meet, where loading the positions between them would take so many seconds, and computing goes on
 * with so many a second. */
double load_race_seconds_to_meet(double load_seconds, double n_positions, double computed_per_second);

/* How many rows to compute next, `most` at most, so that they are ready about when what is behind them is
 * loaded. 0: loading will be there sooner. seconds_per_row: of computing, 0 where it is not known, and a few
 * rows tell; n_in_flight: rows that are being computed. */
int load_race_rows(const load_race *r, double now, double seconds_per_row, int n_in_flight, int most);
