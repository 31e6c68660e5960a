#include "src/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/alive.h"
#include "src/base/utf8.h"

static int32_t find_char(const bpe *model, const char *text, size_t n_bytes, uint32_t code) {
    return code < BPE_N_DIRECT ? model->direct_ids[code] : vocab_find(&model->voc, text, n_bytes);
}

/* Whether the bytes of a character all have tokens, which are then appended. */
static bool append_bytes(bpe *model, const char *text, size_t n_bytes) {
    if (!model->byte_fallback) return false;
    for (size_t i = 0; i < n_bytes; i++)
        if (model->byte_ids[(unsigned char)text[i]] < 0) return false;
    for (size_t i = 0; i < n_bytes; i++)
        token_list_append(&model->symbols, model->byte_ids[(unsigned char)text[i]]);
    return true;
}

/* An unknown token waits for the next character, with which it may be fused. (That the bytes of a character
 * overtake one that waits is as in Hugging Face tokenizers.) */
static status make_symbols(bpe *model, const char *piece, size_t n) {
    bool waits = false;
    model->symbols.n = 0;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        uint32_t code = utf8_read(piece + at, &n_bytes);
        int32_t id = find_char(model, piece + at, n_bytes, code);
        if (id >= 0) {
            if (waits) token_list_append(&model->symbols, model->unk_id);
            waits = false;
            token_list_append(&model->symbols, id);
        } else if (!append_bytes(model, piece + at, n_bytes) && model->unk_token) {
            if (model->unk_id < 0)
                return status_refuse(
                    "text with an unknown character, but the tokenizer's unknown token %s is not "
                    "in its vocabulary",
                    utf8_quote(model->unk_token).text);
            if (waits && !model->fuse_unk) token_list_append(&model->symbols, model->unk_id);
            waits = true;
        }
    }
    if (waits) token_list_append(&model->symbols, model->unk_id);
    return STATUS_OK;
}

static void append_ids(token_list *out, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        token_list_append(out, ids[i]);
}

/* Merge a run of symbols that no seam cuts. */
static void encode_run(bpe *model, int32_t *symbols, size_t n, token_list *out) {
    if (n > CACHE_MAX_SYMBOLS) {
        append_ids(out, symbols, merge_run(&model->merges, symbols, n));
        return;
    }
    size_t n_ids;
    const int32_t *ids = word_cache_find(&model->cache, symbols, n, &n_ids);
    if (ids) {
        append_ids(out, ids, n_ids);
        return;
    }
    int32_t merged[CACHE_MAX_SYMBOLS];
    memcpy(merged, symbols, n * sizeof *symbols);
    n_ids = merge_run(&model->merges, merged, n);
    append_ids(out, merged, n_ids);
    word_cache_add(&model->cache, symbols, n, merged, n_ids);
}

status bpe_encode(bpe *model, const char *piece, size_t n, token_list *out) {
    if (model->ignore_merges) {
        int32_t id = vocab_find(&model->voc, piece, n);
        if (id >= 0) {
            token_list_append(out, id);
            return STATUS_OK;
        }
    }
    if (n > INT32_MAX) return status_refuse("a word of %zu bytes is too long to be tokenized", n);
    status st = make_symbols(model, piece, n);
    if (st) return st;
    int32_t *ids = model->symbols.ids;
    for (size_t start = 0, end; start < model->symbols.n; start = end) {
        end = start + 1;
        if (end % 256 == 0) alive_say();
        while (end < model->symbols.n && merge_table_joins(&model->merges, ids[end - 1], ids[end]))
            end++;
        if (end - start == 1)
            token_list_append(out, ids[start]);
        else
            encode_run(model, ids + start, end - start, out);
    }
    return STATUS_OK;
}

void bpe_free(bpe *model) {
    vocab_free(&model->voc);
    merge_table_free(&model->merges);
    word_cache_free(&model->cache);
    free(model->unk_token);
    free(model->symbols.ids);
    *model = (bpe){0};
}
