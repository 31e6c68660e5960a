#include "src/timing/link_speed.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A number above 0 with one of these units behind it; moves *text behind both. */
static bool read_quantity(const char **text, const char *const *units, const double *scales, int n,
                          double *out) {
    char *end;
    double number = strtod(*text, &end);
    if (end == *text) return false;
    for (int i = 0; i < n; i++) {
        size_t length = strlen(units[i]);
        if (strncmp(end, units[i], length) != 0) continue;
        *out = number * scales[i];
        *text = end + length;
        return *out >= 0 && *out <= 1e18;
    }
    return false;
}

status link_speed_parse(const char *option, const char *text, link_speed *out) {
    static const char *const speeds[] = {"KB/s", "MB/s", "GB/s", "TB/s"}, *const times[] = {"ns", "us", "ms",
                                                                                            "s"};
    static const double speed_scales[] = {1e3, 1e6, 1e9, 1e12}, time_scales[] = {1e-9, 1e-6, 1e-3, 1};
    link_speed found = {0};
    const char *at = text;
    bool good = read_quantity(&at, speeds, speed_scales, 4, &found.bytes_per_second) && *at++ == ',' &&
                read_quantity(&at, times, time_scales, 4, &found.seconds) && !*at;
    if (!good || found.bytes_per_second <= 0)
        return status_refuse("--%s %s: expected a bandwidth and a latency such as 25GB/s,2us", option, text);
    *out = found;
    return STATUS_OK;
}
