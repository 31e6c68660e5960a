#include "src/tokenizer/normalize.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer/bytes.h"
#include "src/tokenizer/forms.h"
#include "src/tokenizer/pattern.h"
#include "src/tokenizer/unicode.h"

typedef struct normalizer_step normalizer_step;

/* Append what becomes of a text. *n_front: how many bytes at its front, and then at the front of what was
 * appended, come from the first character that the user wrote. */
typedef status apply_step(const normalizer_step *step, const char *text, size_t n, size_t *n_front,
                          text_buffer *out);

/* The same for what goes through a text character by character. */
typedef void rewrite_step(const normalizer_step *step, const char *text, size_t n, text_buffer *out);

struct normalizer_step {
    apply_step *apply;
    rewrite_step *rewrite; /* of apply_rewrite */
    unicode_form form;
    bool strips_left, strips_right;
    text_pattern pattern;
    char *content; /* what to prepend, or to put in the place of a match */
};

static void rewrite_form(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    unicode_form_append(step->form, text, n, out);
}

static void rewrite_lowercase(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    (void)step;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        uint32_t code = utf8_read(text + at, &n_bytes);
        utf8_append(out, unicode_to_lower(code));
        if (code == 0x130) utf8_append(out, 0x307);
    }
}

static void rewrite_strip_accents(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    (void)step;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes)
        if (!unicode_is_mark(utf8_read(text + at, &n_bytes))) text_append(out, text + at, n_bytes);
}

/* What the normalizer Nmt leaves out (0) or takes for a space. */
static uint32_t nmt_code(uint32_t code) {
    bool control = (code >= 0x1 && code <= 0x8) || (code >= 0xE && code <= 0x1F) || code == 0xB ||
                   code == 0x7F || code == 0x8F || code == 0x9F;
    if (control) return 0;
    bool space = code == 0x9 || code == 0xA || code == 0xC || code == 0xD || code == 0x1680 ||
                 (code >= 0x200B && code <= 0x200F) || code == 0x2028 || code == 0x2029 || code == 0x2581 ||
                 code == 0xFEFF || code == 0xFFFD;
    return space ? ' ' : code;
}

static void rewrite_nmt(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    (void)step;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        uint32_t code = utf8_read(text + at, &n_bytes), kept = nmt_code(code);
        if (kept || !code) utf8_append(out, kept);
    }
}

static status apply_rewrite(const normalizer_step *step, const char *text, size_t n, size_t *n_front,
                            text_buffer *out) {
    size_t begin = out->n;
    step->rewrite(step, text, *n_front, out);
    *n_front = out->n - begin;
    out->n = begin;
    step->rewrite(step, text, n, out);
    return STATUS_OK;
}

static status apply_strip(const normalizer_step *step, const char *text, size_t n, size_t *n_front,
                          text_buffer *out) {
    size_t first = n, last = 0; /* of what is not white space */
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        if (unicode_is_white_space(utf8_read(text + at, &n_bytes))) continue;
        if (first == n) first = at;
        last = at + n_bytes;
    }
    if (!step->strips_left) first = 0;
    if (!step->strips_right) last = n;
    if (first < last) text_append(out, text + first, last - first);
    *n_front = *n_front > first ? *n_front - first : 0;
    return STATUS_OK;
}

static status apply_prepend(const normalizer_step *step, const char *text, size_t n, size_t *n_front,
                            text_buffer *out) {
    size_t n_content = n ? strlen(step->content) : 0;
    text_append(out, step->content, n_content);
    text_append(out, text, n);
    if (*n_front) *n_front += n_content;
    return STATUS_OK;
}

/* What is put into the place of a match comes from the match's last character. */
static status apply_replace(const normalizer_step *step, const char *text, size_t n, size_t *n_front,
                            text_buffer *out) {
    span_list spans = {0};
    size_t begin = out->n, given = *n_front;
    size_t n_content = strlen(step->content);
    status st = text_pattern_cut(&step->pattern, text, n, &spans);
    for (size_t i = 0; !st && i < spans.n; i++) {
        const span *s = &spans.items[i];
        if (s->matched)
            text_append(out, step->content, n_content);
        else
            text_append(out, text + s->start, s->end - s->start);
        if (s->end <= given)
            *n_front = out->n - begin;
        else if (s->start <= given)
            *n_front = out->n - begin - (s->matched ? n_content : s->end - given);
    }
    free(spans.items);
    return st;
}

static void rewrite_byte_level(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    (void)step;
    bytes_to_chars(text, n, out);
}

static char *copy_member(json_object *json, const char *key) {
    const char *text = json_text(json, key);
    return mem_copy_text(text, strlen(text));
}

static void parse_step(normalizer_step *step, json_object *json, const char *type) {
    if (strcmp(type, "NFC") == 0 || strcmp(type, "NFD") == 0 || strcmp(type, "NFKC") == 0 ||
        strcmp(type, "NFKD") == 0) {
        step->rewrite = rewrite_form;
        step->form =
            (unicode_form){.composed = type[strlen(type) - 1] == 'C', .compatibility = type[2] == 'K'};
    } else if (strcmp(type, "Lowercase") == 0) {
        step->rewrite = rewrite_lowercase;
    } else if (strcmp(type, "StripAccents") == 0) {
        step->rewrite = rewrite_strip_accents;
    } else if (strcmp(type, "Nmt") == 0) {
        step->rewrite = rewrite_nmt;
    } else if (strcmp(type, "ByteLevel") == 0) {
        step->rewrite = rewrite_byte_level;
    } else if (strcmp(type, "Strip") == 0) {
        step->apply = apply_strip;
        step->strips_left = json_bool(json, "strip_left");
        step->strips_right = json_bool(json, "strip_right");
    } else if (strcmp(type, "Prepend") == 0) {
        step->apply = apply_prepend;
        step->content = copy_member(json, "prepend");
    } else if (strcmp(type, "Replace") == 0) {
        step->apply = apply_replace;
        text_pattern_parse(&step->pattern, json);
        step->content = copy_member(json, "content");
    } else {
        json_refuse(json, "type", "%s is not supported", utf8_quote(type).text);
    }
}

/* Add the steps of an object; a Sequence adds those of its parts. */
void normalizer_parse(normalizer *norm, json_object *json) {
    if (!json->item) return;
    const char *type = json_text(json, "type");
    if (strcmp(type, "Sequence") == 0) {
        json_object part = {0};
        while (json_next_object(json, "normalizers", &part))
            normalizer_parse(norm, &part);
        return;
    }
    norm->steps = mem_resize(norm->steps, norm->n + 1, sizeof *norm->steps);
    norm->steps[norm->n] = (normalizer_step){.apply = apply_rewrite};
    parse_step(&norm->steps[norm->n++], json, type);
}

void normalizer_free(normalizer *norm) {
    for (size_t i = 0; i < norm->n; i++) {
        text_pattern_free(&norm->steps[i].pattern);
        free(norm->steps[i].content);
    }
    free(norm->steps);
    *norm = (normalizer){0};
}

status normalizer_apply(const normalizer *norm, const char *text, size_t n, text_buffer *out,
                        bool *keeps_first) {
    text_buffer from = {0}, to = {0};
    status st = STATUS_OK;
    size_t n_front = 0;
    if (n) utf8_read(text, &n_front);
    for (size_t i = 0; st == STATUS_OK && i < norm->n; i++) {
        text_buffer last = from;
        to.n = 0;
        text_append(&to, "", 0);
        st = norm->steps[i].apply(&norm->steps[i], i ? from.data : text, i ? from.n : n, &n_front, &to);
        from = to;
        to = last;
    }
    if (st == STATUS_OK) text_append(out, norm->n ? from.data : text, norm->n ? from.n : n);
    *keeps_first = n_front > 0;
    free(from.data);
    free(to.data);
    return st;
}
