#include "src/command/number_list.h"

#include <stdlib.h>
#include <string.h>

status numbers_parse(const char *option, const char *text, int64_t least, int64_t most, numbers *out) {
    if (!strcmp(text, "none")) return STATUS_OK;
    for (const char *at = text;; at++) {
        char *end;
        long long number = strtoll(at, &end, 10);
        if (end == at || number < least || number > most || (*end && *end != ',') || out->n == MAX_NUMBERS)
            return status_refuse("--%s %s: expected none, or up to %d numbers from %lld to %lld with "
                                 "commas between",
                                 option, text, MAX_NUMBERS, (long long)least, (long long)most);
        out->at[out->n++] = number;
        if (!*end) return STATUS_OK;
        at = end;
    }
}

int64_t numbers_largest(const numbers *list) {
    int64_t most = 0;
    for (int i = 0; i < list->n; i++)
        if (list->at[i] > most) most = list->at[i];
    return most;
}
