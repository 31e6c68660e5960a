/* kvarve tokenize: the ids of a prompt, as kvarve generate would read it, and the pieces of text they stand
 * for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/memory.h"
#include "src/base/utf8.h"
#include "src/command/run.h"

/* In quotes, on one line: bytes that are no printable character as \xNN, \n and the like as such. */
static void print_piece(const char *text, size_t n) {
    putchar('"');
    for (size_t i = 0; i < n;) {
        static const char escapes[] = "\n\t\r\"\\", names[] = "ntr\"\\";
        const char *escape = text[i] ? strchr(escapes, text[i]) : NULL;
        int n_bytes = utf8_check(text + i, n - i, NULL);
        unsigned char c = (unsigned char)text[i];
        if (escape)
            printf("\\%c", names[escape - escapes]);
        else if (n_bytes < 0 || c < ' ' || c == 0x7F)
            printf("\\x%02X", c);
        else
            fwrite(text + i, 1, (size_t)n_bytes, stdout);
        i += n_bytes > 0 ? (size_t)n_bytes : 1;
    }
    puts("\"");
}

static void print_tokens(const tokenizer *tok, const token_list *ids) {
    text_buffer piece = {0};
    for (size_t i = 0; i < ids->n; i++) {
        piece.n = 0;
        tokenizer_append_piece(tok, ids->ids[i], &piece);
        printf("%8d  ", ids->ids[i]);
        print_piece(piece.data, piece.n);
    }
    free(piece.data);
}

static status tokenize(const options *o) {
    tokenizer *tok = NULL;
    token_list ids = {0};
    text_buffer text = {0};
    status st = run_take_prompt(o, &text);
    if (st == STATUS_OK) st = run_open_tokenizer(o, &tok);
    if (st == STATUS_OK) st = tokenizer_encode_prompt(tok, text.n ? text.data : "", text.n, &ids);
    if (st == STATUS_OK) {
        print_tokens(tok, &ids);
        fprintf(stderr, "kvarve: %zu tokens of %zu bytes\n", ids.n, text.n);
    }
    tokenizer_close(tok);
    free(ids.ids);
    free(text.data);
    return st;
}

int command_tokenize(comm *c, const options *o) {
    status st = comm_rank(c) == 0 ? tokenize(o) : STATUS_OK;
    return comm_any_failed(c, &st) ? run_say_failure(c, st) : EXIT_CODE_OK;
}
