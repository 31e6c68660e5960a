#include "src/base/trace.h"

#include "src/base/clock.h"

void trace_begin(trace *t) {
    *t = (trace){.current = REGION_REST, .since = clock_seconds(), .mark = t->mark};
}

region trace_enter(trace *t, region next) {
    double now = clock_seconds();
    region before = t->current;
    t->seconds[before] += now - t->since;
    t->calls[next]++;
    t->current = next;
    t->since = now;
    if (t->mark) t->mark(region_name(next));
    return before;
}

const char *region_name(region r) {
    static const char *const names[N_REGIONS] = {
        [REGION_REST] = "rest",
        [REGION_EMBED] = "embed",
        [REGION_NORM] = "norm",
        [REGION_QKV] = "qkv matrix",
        [REGION_ROPE_APPEND] = "rope and append",
        [REGION_PAGE_WAIT] = "page wait",
        [REGION_ATTEND] = "attention",
        [REGION_EVICT] = "eviction",
        [REGION_OUTPUT] = "output matrix",
        [REGION_MLP] = "mlp",
        [REGION_HEAD] = "head",
        [REGION_SAMPLE] = "sample",
        [REGION_TEXT] = "text and results",
        [REGION_LOAD] = "snapshot load",
        [REGION_SAVE] = "snapshot save",
        [REGION_SEND_WAIT] = "wait to send",
        [REGION_RECEIVE_WAIT] = "wait for stage before",
        [REGION_REPLY_WAIT] = "wait for last stage",
    };
    return names[r];
}
