/* src/tokenizer/template.h: the post-processor of a tokenizer.json: special tokens around those of a text.
 *
 * Known are all that Hugging Face tokenizers has: TemplateProcessing (its part "single"), BertProcessing,
 * RobertaProcessing, ByteLevel (which changes no ids), and Sequence. Local. */
#pragma once

#include <stdbool.h>

#include "io/json.h"
#include "src/tokenizer/token_list.h"

enum { TEMPLATE_TEXT = -1 };

/* Ids in order, with TEMPLATE_TEXT where those of the text stand. */
typedef struct template {
    token_list items;
    bool is_template; /* there was a TemplateProcessing */
}
template;

/* From the object "post_processor", where it is there. The caller frees also after a refusal. */
void template_parse(template *around, json_object *json);
void template_free(template *around);

/* The token that stands before, or behind, every text; TEMPLATE_TEXT: none. */
int32_t template_first(const template *around);
int32_t template_last(const template *around);

/* Let a token stand before, or behind, all that does so far. */
void template_put_first(template *around, int32_t id);
void template_put_last(template *around, int32_t id);

/* Where the list has the template's tokens before or behind its text already, from position `from` on, take
 * them away, as template_apply will put them there. True when there were some. */
bool template_take_away(const template *around, size_t from, token_list *list);

/* Put the template's tokens around those that stand in the list from position `from` on. */
void template_apply(const template *around, size_t from, bool add_special, token_list *list);
