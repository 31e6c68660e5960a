/* Any bytes as tokenizer.json; what is accepted then takes texts apart and puts them together. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz.h"

/* Decoded at once and token by token: the same text, in whole characters; bad bytes may take others with them
 * only where all come at once. */
static void check_decoding(tokenizer *tok, const token_list *list, bool skip) {
    text_buffer whole = {0}, streamed = {0};
    text_stream stream = {.skip_special = skip};
    tokenizer_decode(tok, list->ids, list->n, skip, &whole);
    for (size_t i = 0; i < list->n; i++) {
        text_stream_push(tok, &stream, list->ids[i], &streamed);
        fuzz_check(utf8_count_valid(streamed.data ? streamed.data : "", streamed.n) == streamed.n,
                   "whole characters");
    }
    text_stream_flush(tok, &stream, &streamed);
    bool has_bad_bytes = whole.n > 0 && memmem(whole.data, whole.n, "\xEF\xBF\xBD", 3);
    fuzz_check(has_bad_bytes ||
                   (whole.n == streamed.n && (whole.n == 0 || !memcmp(whole.data, streamed.data, whole.n))),
               "a stream gives the same text");
    text_stream_free(&stream);
    free(whole.data);
    free(streamed.data);
}

static void check_text(tokenizer *tok, const char *text, size_t n) {
    token_list list = {0};
    if (tokenizer_encode(tok, text, n, true, &list) != STATUS_OK) fuzz_check_text(status_text());
    for (size_t i = 0; i < list.n; i++)
        fuzz_check(list.ids[i] >= 0 && list.ids[i] < tokenizer_n_tokens(tok), "ids are in range");
    check_decoding(tok, &list, false);
    list.n = 0;
    for (int32_t id = -1; id <= tokenizer_n_tokens(tok) && id < 200; id++)
        token_list_append(&list, id);
    check_decoding(tok, &list, true);
    free(list.ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const texts[] = {"", "a", " the cat 12 \xC3\xA9\xCC\x81<s>ab",
                                        "\n\n  \xF0\x9F\x98\x80\xFF\xE4\xBD"};
    tokenizer *tok = NULL;
    if (tokenizer_parse((const char *)data, n, "tokenizer.json", &tok) != STATUS_OK) {
        fuzz_check_text(status_text());
        return 0;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_text(tok, texts[i], strlen(texts[i]));
    check_text(tok, (const char *)data, n < 200 ? n : 200);
    fuzz_check(tokenizer_find(tok, "no such token, surely") < tokenizer_n_tokens(tok), "lookup");
    tokenizer_close(tok);
    return 0;
}
