/* src/tokenizer_template.h: the post-processor of a tokenizer.json: special tokens around those of a text.
 *
 * Known: TemplateProcessing (its part "single"), ByteLevel (which changes no ids), and Sequence of these.
 * Local. */
#pragma once

#include <cjson/cJSON.h>

#include "src/base/status.h"
#include "src/tokenizer.h"

enum { TEMPLATE_TEXT = -1 };

/* Ids in order, with TEMPLATE_TEXT where those of the text stand. */
typedef struct template {
    token_list items;
}
template;

/* From the object "post_processor", or NULL for none. The caller frees also after a refusal. */
status template_parse(template *around, const cJSON *json);
void template_free(template *around);

/* Put the template's tokens around those that stand in the list from position `from` on. */
void template_apply(const template *around, size_t from, bool add_special, token_list *list);
