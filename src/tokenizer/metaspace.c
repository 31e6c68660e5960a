#include "src/tokenizer/metaspace.h"

#include <string.h>

#include "src/tokenizer/json.h"

/* Old files say add_prefix_space, new ones prepend_scheme, some both. */
status metaspace_parse_scheme(const cJSON *json, metaspace_scheme *out) {
    static const char *const names[] = {"always", "first", "never"};
    bool adds;
    const cJSON *scheme;
    status st = tokenizer_json_get_bool_or(json, "add_prefix_space", true, &adds);
    if (!st) st = tokenizer_json_get(json, "prepend_scheme", &scheme);
    if (st) return st;
    *out = adds ? METASPACE_ALWAYS : METASPACE_NEVER;
    if (!scheme) return STATUS_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!cJSON_IsString(scheme) || strcmp(scheme->valuestring, names[i]) != 0) continue;
        *out = (metaspace_scheme)i;
        if (!adds && *out != METASPACE_NEVER)
            return status_refuse("\"add_prefix_space\" and \"prepend_scheme\" contradict each other");
        return STATUS_OK;
    }
    return status_refuse("\"prepend_scheme\" must be \"always\", \"first\" or \"never\"");
}
