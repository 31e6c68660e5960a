/* src/tokenizer/metaspace.h: what the Metaspace pre-tokenizer and decoder have in common. Local. */
#pragma once

#include <cjson/cJSON.h>

#include "src/base/status.h"

/* Which pieces of text get the mark of a space before them. */
typedef enum metaspace_scheme { METASPACE_ALWAYS, METASPACE_FIRST, METASPACE_NEVER } metaspace_scheme;

status metaspace_parse_scheme(const cJSON *json, metaspace_scheme *out);
