#include "src/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "io/files.h"
#include "io/json.h"
#include "src/base/alive.h"
#include "src/base/notice.h"
#include "src/base/utf8.h"
#include "src/tokenizer/added.h"
#include "src/tokenizer/bpe.h"
#include "src/tokenizer/decode.h"
#include "src/tokenizer/pretokenize.h"
#include "src/tokenizer/template.h"

/* What a token id is decoded to; text is NULL for an id that no token has. */
typedef struct token_text {
    const char *text;
    size_t n;
    bool special;
} token_text;

enum {
    TOKENIZER_MAX_BYTES = 256 << 20, /* the largest known has 33 MB */
    CONTEXT_TOKENS = 8, /* before a token that its text may depend on: a character has four bytes at most */
};

struct tokenizer {
    added_tokens added;
    normalizer norm;
    pretokenizer pre;
    bpe model;
    template around;
    decoder dec;
    token_text *texts; /* by id */
    int32_t n_tokens;
};

/* Added tokens are decoded to what was looked for, for the decoder to undo the normalizer's work. */
static void fill_texts(tokenizer *tok) {
    tok->n_tokens = tok->model.voc.n_ids;
    for (size_t i = 0; i < tok->added.n; i++)
        if (tok->added.tokens[i].id >= tok->n_tokens) tok->n_tokens = tok->added.tokens[i].id + 1;
    tok->texts = mem_new((size_t)tok->n_tokens, sizeof *tok->texts);
    for (int32_t id = 0; id < tok->n_tokens; id++)
        tok->texts[id].text = vocab_content(&tok->model.voc, id, &tok->texts[id].n);
    for (size_t i = 0; i < tok->added.n; i++) {
        const added_token *token = &tok->added.tokens[i];
        tok->texts[token->id] = (token_text){token->pattern, token->n_pattern, token->special};
    }
}

static void parse_parts(tokenizer *tok, json_object *json) {
    if (strcmp(json_text_or(json, "version", "1.0"), "1.0") != 0)
        json_refuse(json, "version", "must be \"1.0\"");
    json_object part = json_view_member(json, "model");
    bpe_parse(&tok->model, &part);
    part = json_view_optional(json, "normalizer");
    normalizer_parse(&tok->norm, &part);
    added_tokens_parse(&tok->added, json, &tok->model.voc, &tok->norm);
    part = json_view_optional(json, "pre_tokenizer");
    pretokenizer_parse(&tok->pre, &part);
    part = json_view_optional(json, "post_processor");
    template_parse(&tok->around, &part);
    part = json_view_optional(json, "decoder");
    decoder_parse(&tok->dec, &part);
}

/* The template's ids are those of tokens. */
static status check_template(const tokenizer *tok) {
    for (size_t i = 0; i < tok->around.items.n; i++) {
        int32_t id = tok->around.items.ids[i];
        if (id != TEMPLATE_TEXT && (id >= tok->n_tokens || !tok->texts[id].text))
            return status_refuse("no token has the id %d", id);
    }
    return STATUS_OK;
}

status tokenizer_parse(const char *json, size_t n, const char *name, tokenizer **out) {
    size_t n_valid = utf8_count_valid(json, n);
    if (n_valid < n) return status_refuse("%s: not valid UTF-8 at byte %zu", name, n_valid);
    cJSON *tree;
    status st = json_parse(json, n, name, &tree);
    if (st) return st;
    tokenizer *tok = mem_new(1, sizeof *tok);
    json_object root = json_view(tree, name);
    parse_parts(tok, &root);
    if (root.st == STATUS_OK) {
        fill_texts(tok);
        json_adopt(&root, "post_processor", check_template(tok));
    }
    cJSON_Delete(tree);
    if (root.st != STATUS_OK) {
        tokenizer_close(tok);
        return root.st;
    }
    *out = tok;
    return STATUS_OK;
}

status tokenizer_open(const char *path, tokenizer **out) {
    char *json;
    size_t n;
    status st = file_read_all(path, TOKENIZER_MAX_BYTES, &json, &n);
    if (st) return st;
    st = tokenizer_parse(json, n, path, out);
    free(json);
    return st;
}

void tokenizer_close(tokenizer *tok) {
    if (!tok) return;
    added_tokens_free(&tok->added);
    normalizer_free(&tok->norm);
    pretokenizer_free(&tok->pre);
    bpe_free(&tok->model);
    template_free(&tok->around);
    decoder_free(&tok->dec);
    free(tok->texts);
    free(tok);
}

int32_t tokenizer_n_tokens(const tokenizer *tok) {
    return tok->n_tokens;
}

int32_t tokenizer_find(const tokenizer *tok, const char *content) {
    const added_token *added = added_tokens_find(&tok->added, content);
    return added ? added->id : vocab_find(&tok->model.voc, content, strlen(content));
}

/* Find the tokens that are looked for in the text as it comes, and between them, normalized, the others. */
static status cut_at_added(const tokenizer *tok, const char *text, size_t n, piece_list *pieces) {
    piece_list raw = {0};
    text_append(&raw.text, text, n);
    added_matcher_cut(&tok->added.raw, 0, n, true, &raw);
    status st = STATUS_OK;
    for (size_t i = 0; !st && i < raw.n; i++) {
        const piece *p = &raw.items[i];
        if (p->token != PIECE_IS_TEXT) {
            piece_list_append(pieces, *p);
            continue;
        }
        size_t base = pieces->text.n;
        bool keeps_first;
        st = normalizer_apply(&tok->norm, raw.text.data + p->start, p->end - p->start, &pieces->text,
                              &keeps_first);
        bool first = p->first && keeps_first;
        if (!st) added_matcher_cut(&tok->added.normalized, base, pieces->text.n - base, first, pieces);
    }
    piece_list_free(&raw);
    return st;
}

static status encode_valid(tokenizer *tok, const char *text, size_t n, token_list *out) {
    piece_list pieces = {0};
    status st = cut_at_added(tok, text, n, &pieces);
    if (!st) st = pretokenizer_apply(&tok->pre, &pieces);
    for (size_t i = 0; !st && i < pieces.n; i++) {
        const piece *p = &pieces.items[i];
        if (i % 256 == 0) alive_say();
        if (p->token != PIECE_IS_TEXT)
            token_list_append(out, p->token);
        else
            st = bpe_encode(&tok->model, pieces.text.data + p->start, p->end - p->start, out);
    }
    piece_list_free(&pieces);
    return st;
}

static status encode_repaired(tokenizer *tok, const char *text, size_t n, token_list *out) {
    size_t before = out->n;
    text_buffer repaired = {0};
    bool valid = utf8_count_valid(text, n) == n;
    if (!valid) utf8_append_repaired(&repaired, text, n);
    status st = encode_valid(tok, valid ? text : repaired.data, valid ? n : repaired.n, out);
    free(repaired.data);
    if (st != STATUS_OK) out->n = before;
    return st;
}

status tokenizer_encode(tokenizer *tok, const char *text, size_t n, bool add_special, token_list *out) {
    size_t before = out->n;
    status st = encode_repaired(tok, text, n, out);
    if (st == STATUS_OK) template_apply(&tok->around, before, add_special, out);
    return st;
}

status tokenizer_encode_prompt(tokenizer *tok, const char *text, size_t n, token_list *out) {
    size_t before = out->n;
    status st = encode_repaired(tok, text, n, out);
    if (st != STATUS_OK) return st;
    if (template_take_away(&tok->around, before, out))
        notice_add(
            "a prompt holds the tokens itself that the tokenizer puts around every text: they are not put "
            "there again (\"add_special_tokens\": true in a line of --input has them twice)");
    template_apply(&tok->around, before, true, out);
    return STATUS_OK;
}

int32_t tokenizer_begin_token(const tokenizer *tok) {
    return template_first(&tok->around);
}

int32_t tokenizer_end_token(const tokenizer *tok) {
    return template_last(&tok->around);
}

void tokenizer_put_begin(tokenizer *tok, int32_t id) {
    template_put_first(&tok->around, id);
}

void tokenizer_put_end(tokenizer *tok, int32_t id) {
    template_put_last(&tok->around, id);
}

bool tokenizer_is_special(const tokenizer *tok, int32_t id) {
    return id >= 0 && id < tok->n_tokens && tok->texts[id].special;
}

/* Whether the token has a part in texts. */
static bool is_shown(const tokenizer *tok, int32_t id, bool skip_special) {
    return id >= 0 && id < tok->n_tokens && tok->texts[id].text && !(skip_special && tok->texts[id].special);
}

void tokenizer_decode(tokenizer *tok, const int32_t *ids, size_t n, bool skip_special, text_buffer *out) {
    decoder_states *states = decoder_states_new(&tok->dec, false);
    for (size_t i = 0; i < n; i++)
        if (is_shown(tok, ids[i], skip_special))
            decoder_push(&tok->dec, states, tok->texts[ids[i]].text, tok->texts[ids[i]].n, out);
    decoder_finish(&tok->dec, states, out);
    decoder_states_free(states);
}

void tokenizer_append_piece(const tokenizer *tok, int32_t id, text_buffer *out) {
    for (size_t i = 0; i < tok->added.n; i++) {
        const added_token *token = &tok->added.tokens[i];
        if (token->id != id) continue;
        text_append(out, token->content, strlen(token->content));
        return;
    }
    if (is_shown(tok, id, false)) decoder_append_piece(&tok->dec, tok->texts[id].text, tok->texts[id].n, out);
}

/* ---- streams ---- */

/* Of what came behind `from`, leave out the beginning that is known, character by character. */
static void leave_out_known(text_stream *stream, text_buffer *out, size_t from) {
    text_buffer *known = &stream->known;
    size_t at = from;
    while (at < out->n && stream->n_known_met < known->n) {
        size_t n_bytes, n_left = known->n - stream->n_known_met;
        utf8_read(out->data + at, &n_bytes);
        if (n_bytes > n_left || memcmp(out->data + at, known->data + stream->n_known_met, n_bytes) != 0) {
            known->n = stream->n_known_met; /* another text than it would have been */
            break;
        }
        at += n_bytes;
        stream->n_known_met += n_bytes;
    }
    if (at == from) return;
    memmove(out->data + from, out->data + at, out->n - at + 1);
    out->n -= at - from;
}

static void push_ids(tokenizer *tok, text_stream *stream, const int32_t *ids, size_t n, text_buffer *out) {
    for (size_t i = 0; i < n; i++)
        text_stream_push(tok, stream, ids[i], out);
}

void text_stream_begin_behind(tokenizer *tok, text_stream *stream, const int32_t *ids, size_t n) {
    size_t first = n;
    for (int n_shown = 0; first > 0 && n_shown < CONTEXT_TOKENS; first--)
        n_shown += is_shown(tok, ids[first - 1], stream->skip_special);
    text_buffer text = {0};
    push_ids(tok, stream, ids + first, n - first, &text);
    size_t n_out = text.n;
    text_stream_flush(tok, stream, &text);
    if (text.n > n_out) text_append(&stream->known, text.data + n_out, text.n - n_out);
    size_t n_held = stream->known.n;
    stream->known.n = 0; /* not to be left out of what comes now */
    push_ids(tok, stream, ids + first, n - first, &text);
    stream->known.n = n_held;
    free(text.data);
}

void text_stream_push(tokenizer *tok, text_stream *stream, int32_t id, text_buffer *out) {
    if (!is_shown(tok, id, stream->skip_special)) return;
    if (!stream->states) stream->states = decoder_states_new(&tok->dec, true);
    size_t from = out->n;
    decoder_push(&tok->dec, stream->states, tok->texts[id].text, tok->texts[id].n, out);
    leave_out_known(stream, out, from);
}

void text_stream_flush(tokenizer *tok, text_stream *stream, text_buffer *out) {
    size_t from = out->n;
    if (stream->states) decoder_finish(&tok->dec, stream->states, out);
    leave_out_known(stream, out, from);
    stream->known.n = stream->n_known_met = 0;
}

void text_stream_free(text_stream *stream) {
    decoder_states_free(stream->states);
    free(stream->known.data);
    *stream = (text_stream){.skip_special = stream->skip_special};
}
