#include "src/base/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum { STATE_FIELD = 3, START_FIELD = 22 }; /* of /proc/PID/stat, counted from 1 */

int64_t process_start_ticks(long pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; at && field < START_FIELD; field++) {
        at = strchr(at, ' ');
        if (at) at++;
        if (at && field + 1 == STATE_FIELD && strchr("ZX", *at)) return 0; /* dead, only not waited for */
    }
    return at ? strtoll(at, NULL, 10) : 0;
}

bool process_is_alive(long pid, int64_t start_ticks) {
    int64_t ticks = process_start_ticks(pid);
    if (ticks) return !start_ticks || ticks == start_ticks;
    bool has_proc = process_start_ticks(1) != 0;
    return !has_proc && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
}
