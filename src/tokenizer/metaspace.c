#include "src/tokenizer/metaspace.h"

/* Old files say add_prefix_space, new ones prepend_scheme, some both. */
metaspace_scheme metaspace_parse_scheme(json_object *json) {
    static const char *const names[] = {"always", "first", "never"};
    bool adds = json_bool_or(json, "add_prefix_space", true);
    if (!json_find(json, "prepend_scheme")) return adds ? METASPACE_ALWAYS : METASPACE_NEVER;
    metaspace_scheme scheme = (metaspace_scheme)json_choice(json, "prepend_scheme", names, 3);
    if (!adds && scheme != METASPACE_NEVER)
        json_refuse(json, "prepend_scheme", "it contradicts add_prefix_space");
    return scheme;
}
