/* src/tokenizer/metaspace.h: what the Metaspace pre-tokenizer and decoder have in common. Local. */
#pragma once

#include "io/json.h"

/* Which pieces of text get the mark of a space before them. */
typedef enum metaspace_scheme { METASPACE_ALWAYS, METASPACE_FIRST, METASPACE_NEVER } metaspace_scheme;

metaspace_scheme metaspace_parse_scheme(json_object *json);
