/* src/timing/link_speed.h: how fast bytes cross between two ranks. Local. */
#pragma once

#include "src/base/status.h"

typedef struct link_speed {
    double bytes_per_second, seconds;
} link_speed;

/* "25GB/s,2us", as given to an option. Refuses, naming it. */
status link_speed_parse(const char *option, const char *text, link_speed *out);
