#include "src/tokenizer/decode.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer/bytes.h"
#include "src/tokenizer/metaspace.h"
#include "src/tokenizer/pattern.h"

enum { MAX_STEPS = 32 }; /* a token goes through them by recursion */

static const char REPLACEMENT[] = "\xEF\xBF\xBD"; /* U+FFFD */

typedef enum step_kind {
    STEP_JOIN, /* no decoder: a space between tokens */
    STEP_BYTE_LEVEL,
    STEP_BYTE_FALLBACK,
    STEP_FUSE,
    STEP_REPLACE,
    STEP_STRIP,
    STEP_METASPACE,
} step_kind;

typedef struct decoder_step {
    step_kind kind;
    bool fused;  /* what comes in are the parts of one token */
    bool gather; /* which this step has to see as a whole */
    bool parts;  /* what goes out may go out in parts */
    text_pattern pattern;
    char *content;        /* of Replace */
    uint32_t code;        /* the character that is stripped, or the mark of Metaspace */
    uint32_t start, stop; /* of Strip: how many at most */
    bool drops_first;     /* Metaspace: the marks of the first token are no spaces */
} decoder_step;

typedef struct decoder_state {
    text_buffer held; /* not certain yet */
    size_t n_seen;    /* tokens, or characters that were stripped */
    bool ended;       /* nothing more is stripped */
} decoder_state;

struct decoder_states {
    size_t n;
    bool streams;
    decoder_state items[]; /* one for each step */
};

/* A text on its way through the steps. */
typedef struct decoding {
    const decoder *dec;
    decoder_state *states;
    bool streams;
    text_buffer *out;
} decoding;

static void push(const decoding *d, size_t at, const char *token, size_t n);

/* The byte of a token like <0x0A>, or -1. (The two digits are read as Rust does, which allows a sign.) */
static int byte_of_token(const char *token, size_t n) {
    if (n != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    static const char digits[] = "0123456789abcdef";
    int value = 0;
    for (size_t i = 3; i < 5; i++) {
        char c = token[i] >= 'A' && token[i] <= 'F' ? (char)(token[i] | 0x20) : token[i];
        const char *digit = c ? strchr(digits, c) : NULL;
        if (!digit && !(i == 3 && c == '+')) return -1;
        value = digit ? value * 16 + (int)(digit - digits) : 0;
    }
    return value;
}

/* Pass on what is certain of a text of bytes: a character that is cut off at the end may be completed. */
static void pass_whole_characters(const decoding *d, size_t at, bool at_end) {
    bool counts_bytes = d->dec->steps[at].kind == STEP_BYTE_FALLBACK;
    text_buffer *held = &d->states[at].held, valid = {0};
    size_t done = 0;
    while (done < held->n) {
        size_t n_valid = utf8_count_valid(held->data + done, held->n - done);
        text_append(&valid, held->data + done, n_valid);
        done += n_valid;
        if (done == held->n) break;
        bool incomplete;
        int n_bad = -utf8_check(held->data + done, held->n - done, &incomplete);
        if (incomplete && !at_end) break;
        for (int i = 0; i < (counts_bytes ? n_bad : 1); i++)
            text_append(&valid, REPLACEMENT, 3);
        done += (size_t)n_bad;
    }
    if (valid.n) push(d, at + 1, valid.data, valid.n);
    free(valid.data);
    held->n -= done;
    if (done) memmove(held->data, held->data + done, held->n);
}

/* A run of byte tokens ends: it is a text, or U+FFFD for each byte. */
static void pass_bytes(const decoding *d, size_t at) {
    text_buffer *held = &d->states[at].held;
    size_t n = held->n;
    if (d->streams && d->dec->steps[at].parts) {
        pass_whole_characters(d, at, true);
        return;
    }
    held->n = 0;
    if (n == 0) return;
    if (utf8_count_valid(held->data, n) == n) {
        push(d, at + 1, held->data, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        push(d, at + 1, REPLACEMENT, 3);
}

static void push_replaced(const decoding *d, size_t at, const char *token, size_t n) {
    const decoder_step *step = &d->dec->steps[at];
    span_list spans = {0};
    text_buffer text = {0};
    text_append(&text, "", 0);
    /* An expression that fails on a token leaves it as it is. */
    status st = text_pattern_cut(&step->pattern, token, n, &spans);
    if (st) text_append(&text, token, n);
    for (size_t i = 0; !st && i < spans.n; i++) {
        const span *s = &spans.items[i];
        if (s->matched)
            text_append(&text, step->content, strlen(step->content));
        else
            text_append(&text, token + s->start, s->end - s->start);
    }
    push(d, at + 1, text.data, text.n);
    free(text.data);
    free(spans.items);
}

static void push_stripped(const decoding *d, size_t at, const char *token, size_t n) {
    const decoder_step *step = &d->dec->steps[at];
    char mark[4];
    size_t n_mark = utf8_write(step->code, mark), start = 0;
    decoder_state fresh = {0}, *state = step->fused ? &d->states[at] : &fresh;
    while (!state->ended && start < n) {
        bool strips =
            state->n_seen < step->start && n - start >= n_mark && !memcmp(token + start, mark, n_mark);
        state->ended = !strips;
        if (!strips) break;
        start += n_mark;
        state->n_seen++;
    }
    for (uint32_t i = 0; i < step->stop && n - start >= n_mark; i++) {
        if (memcmp(token + n - n_mark, mark, n_mark) != 0) break;
        n -= n_mark;
    }
    push(d, at + 1, token + start, n - start);
}

static void push_metaspace(const decoding *d, size_t at, const char *token, size_t n) {
    const decoder_step *step = &d->dec->steps[at];
    bool is_first = d->states[at].n_seen++ == 0;
    text_buffer text = {0};
    text_append(&text, "", 0);
    for (size_t i = 0, n_bytes; i < n; i += n_bytes) {
        if (utf8_read(token + i, &n_bytes) != step->code)
            text_append(&text, token + i, n_bytes);
        else if (!is_first || !step->drops_first)
            text_append(&text, " ", 1);
    }
    push(d, at + 1, text.data, text.n);
    free(text.data);
}

/* One whole token, or a part of it for a step that can work on parts. */
static void push_token(const decoding *d, size_t at, const char *token, size_t n) {
    decoder_state *state = &d->states[at];
    switch (d->dec->steps[at].kind) {
    case STEP_JOIN:
        if (state->n_seen++) push(d, at + 1, " ", 1);
        push(d, at + 1, token, n);
        break;
    case STEP_BYTE_LEVEL:
        if (!bytes_from_chars(token, n, &state->held)) text_append(&state->held, token, n);
        pass_whole_characters(d, at, false);
        break;
    case STEP_BYTE_FALLBACK: {
        int byte = byte_of_token(token, n);
        char c = (char)byte;
        if (byte >= 0) {
            text_append(&state->held, &c, 1);
            if (d->streams && d->dec->steps[at].parts) pass_whole_characters(d, at, false);
            break;
        }
        pass_bytes(d, at);
        push(d, at + 1, token, n);
        break;
    }
    case STEP_FUSE:
        push(d, at + 1, token, n);
        break;
    case STEP_REPLACE:
        push_replaced(d, at, token, n);
        break;
    case STEP_STRIP:
        push_stripped(d, at, token, n);
        break;
    case STEP_METASPACE:
        push_metaspace(d, at, token, n);
        break;
    }
}

static void push(const decoding *d, size_t at, const char *token, size_t n) {
    if (at == d->dec->n)
        text_append(d->out, token, n);
    else if (d->dec->steps[at].gather)
        text_append(&d->states[at].held, token, n);
    else
        push_token(d, at, token, n);
}

void decoder_push(const decoder *dec, decoder_states *states, const char *token, size_t n, text_buffer *out) {
    push(&(decoding){dec, states->items, states->streams, out}, 0, token, n);
}

void decoder_append_piece(const decoder *dec, const char *token, size_t n, text_buffer *out) {
    for (size_t i = 0; i < dec->n; i++) {
        int byte = dec->steps[i].kind == STEP_BYTE_FALLBACK ? byte_of_token(token, n) : -1;
        char c = (char)byte;
        if (byte >= 0) {
            text_append(out, &c, 1);
            return;
        }
        if (dec->steps[i].kind == STEP_BYTE_LEVEL && bytes_from_chars(token, n, out)) return;
    }
    text_append(out, token, n);
}

void decoder_finish(const decoder *dec, decoder_states *states, text_buffer *out) {
    decoding d = {dec, states->items, states->streams, out};
    for (size_t at = 0; at < dec->n; at++) {
        const decoder_step *step = &dec->steps[at];
        decoder_state *state = &states->items[at];
        text_buffer *held = &state->held;
        if (step->kind == STEP_BYTE_LEVEL && !step->gather) pass_whole_characters(&d, at, true);
        if (step->kind == STEP_BYTE_FALLBACK && !step->gather) pass_bytes(&d, at);
        if (step->gather) {
            text_buffer whole = *held;
            *held = (text_buffer){0};
            if (whole.n) push_token(&d, at, whole.data, whole.n);
            if (step->kind == STEP_BYTE_LEVEL) pass_whole_characters(&d, at, true);
            if (step->kind == STEP_BYTE_FALLBACK) pass_bytes(&d, at);
            free(whole.data);
        }
        held->n = 0;
        state->n_seen = 0;
        state->ended = false;
    }
}

decoder_states *decoder_states_new(const decoder *dec, bool streams) {
    decoder_states *states = mem_new(1, sizeof *states + dec->n * sizeof states->items[0]);
    states->n = dec->n;
    states->streams = streams;
    return states;
}

void decoder_states_free(decoder_states *states) {
    for (size_t i = 0; states && i < states->n; i++)
        free(states->items[i].held.data);
    free(states);
}

static void parse_step(decoder_step *step, json_object *json, const char *type) {
    if (strcmp(type, "ByteLevel") == 0) {
        step->kind = STEP_BYTE_LEVEL;
    } else if (strcmp(type, "ByteFallback") == 0) {
        step->kind = STEP_BYTE_FALLBACK;
    } else if (strcmp(type, "Fuse") == 0) {
        step->kind = STEP_FUSE;
    } else if (strcmp(type, "Replace") == 0) {
        step->kind = STEP_REPLACE;
        text_pattern_parse(&step->pattern, json);
        const char *content = json_text(json, "content");
        step->content = mem_copy_text(content, strlen(content));
    } else if (strcmp(type, "Strip") == 0) {
        step->kind = STEP_STRIP;
        step->code = json_character(json, "content");
        step->start = (uint32_t)json_int(json, "start", 0, INT32_MAX);
        step->stop = (uint32_t)json_int(json, "stop", 0, INT32_MAX);
    } else if (strcmp(type, "Metaspace") == 0) {
        step->kind = STEP_METASPACE;
        step->code = json_character(json, "replacement");
        step->drops_first = metaspace_parse_scheme(json) != METASPACE_NEVER;
    } else {
        json_refuse(json, "type", "%s is not supported", utf8_quote(type).text);
    }
}

static decoder_step *add_step(decoder *dec) {
    dec->steps = mem_resize(dec->steps, dec->n + 1, sizeof *dec->steps);
    dec->steps[dec->n] = (decoder_step){0};
    return &dec->steps[dec->n++];
}

/* Add the steps of an object; a Sequence adds those of its parts. */
static void parse_steps(decoder *dec, json_object *json) {
    const char *type = json_text(json, "type");
    json_object part = {0};
    if (strcmp(type, "Sequence") == 0)
        while (json_next_object(json, "decoders", &part))
            parse_steps(dec, &part);
    else if (dec->n == MAX_STEPS)
        json_refuse(json, NULL, "more than %d steps are not supported", MAX_STEPS);
    else
        parse_step(add_step(dec), json, type);
}

void decoder_parse(decoder *dec, json_object *json) {
    if (json->item)
        parse_steps(dec, json);
    else
        add_step(dec)->kind = STEP_JOIN;
    bool fused = false;
    for (size_t i = 0; i < dec->n; i++) {
        decoder_step *step = &dec->steps[i];
        bool takes_parts = step->kind == STEP_FUSE || (step->kind == STEP_STRIP && step->stop == 0);
        step->fused = fused;
        step->gather = fused && !takes_parts;
        step->parts = i + 1 == dec->n || dec->steps[i + 1].kind == STEP_FUSE;
        fused |= step->kind == STEP_FUSE || step->kind == STEP_BYTE_LEVEL;
    }
}

void decoder_free(decoder *dec) {
    for (size_t i = 0; i < dec->n; i++) {
        text_pattern_free(&dec->steps[i].pattern);
        free(dec->steps[i].content);
    }
    free(dec->steps);
    *dec = (decoder){0};
}
