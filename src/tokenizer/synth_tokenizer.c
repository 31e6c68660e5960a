#include "src/tokenizer/synth_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/synthetic/synthetic.h"
#include "src/tokenizer/bytes.h"

#define BEGIN_TEXT "<|begin_of_text|>"
#define END_TEXT   "<|end_of_text|>"

static void append(text_buffer *out, const char *text) {
    text_append(out, text, strlen(text));
}

/* The bytes of a token in the alphabet of byte-level BPE, with its id. */
static void append_token(text_buffer *out, const char *bytes, size_t n, int id) {
    char number[32];
    text_buffer chars = {0};
    bytes_to_chars(bytes, n, &chars);
    if (id) append(out, ",");
    json_append_text(out, chars.data, chars.n);
    snprintf(number, sizeof number, ":%d", id);
    append(out, number);
    free(chars.data);
}

static void append_vocab(int vocab_size, text_buffer *out) {
    for (int id = 0; id < vocab_size; id++) {
        char word[32];
        size_t n = 1;
        if (id < SYNTHETIC_BEGIN_TOKEN)
            word[0] = (char)id;
        else if (id == SYNTHETIC_BEGIN_TOKEN || id == SYNTHETIC_END_TOKEN)
            n = (size_t)snprintf(word, sizeof word, "%s", id == SYNTHETIC_END_TOKEN ? END_TEXT : BEGIN_TEXT);
        else
            n = (size_t)snprintf(word, sizeof word, " w%d", id);
        append_token(out, word, n, id);
    }
}

static void append_added(const char *text, int id, text_buffer *out) {
    char line[256];
    snprintf(line, sizeof line,
             "    {\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
             "\"rstrip\": false, \"normalized\": false, \"special\": true}",
             id, text);
    append(out, line);
}

void synth_tokenizer_append(int vocab_size, text_buffer *out) {
    static const char begin[] = "{\"SpecialToken\": {\"id\": \"" BEGIN_TEXT "\", \"type_id\": 0}}",
                      one[] = "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}",
                      two[] = "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}";
    char line[1024];
    append(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
                "  \"added_tokens\": [\n");
    append_added(BEGIN_TEXT, SYNTHETIC_BEGIN_TOKEN, out);
    append(out, ",\n");
    append_added(END_TEXT, SYNTHETIC_END_TOKEN, out);
    append(out, "\n  ],\n  \"normalizer\": null,\n"
                "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                "\"trim_offsets\": true, \"use_regex\": true},\n");
    snprintf(line, sizeof line,
             "  \"post_processor\": {\n    \"type\": \"TemplateProcessing\",\n    \"single\": [%s, %s],\n"
             "    \"pair\": [%s, %s, %s],\n    \"special_tokens\": {\"" BEGIN_TEXT
             "\": {\"id\": \"" BEGIN_TEXT "\", \"ids\": [%d], \"tokens\": [\"" BEGIN_TEXT "\"]}}\n  },\n",
             begin, one, begin, one, two, SYNTHETIC_BEGIN_TOKEN);
    append(out, line);
    append(out, "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                "\"trim_offsets\": true, \"use_regex\": true},\n"
                "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
                "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
                "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
                "    \"vocab\": {");
    append_vocab(vocab_size, out);
    append(out, "},\n    \"merges\": []\n  }\n}\n");
}

void synth_tokenizer_append_config(long long max_tokens, text_buffer *out) {
    char text[512];
    snprintf(text, sizeof text,
             "{\n  \"bos_token\": \"" BEGIN_TEXT "\",\n  \"clean_up_tokenization_spaces\": false,\n"
             "  \"eos_token\": \"" END_TEXT "\",\n  \"model_max_length\": %lld,\n"
             "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n",
             max_tokens);
    append(out, text);
}
