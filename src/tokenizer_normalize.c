#include "src/tokenizer_normalize.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer_bytes.h"
#include "src/tokenizer_forms.h"
#include "src/tokenizer_json.h"
#include "src/tokenizer_pattern.h"
#include "src/tokenizer_unicode.h"

typedef struct normalizer_step normalizer_step;

typedef status apply_step(const normalizer_step *step, const char *text, size_t n, text_buffer *out);

struct normalizer_step {
    apply_step *apply;
    unicode_form form;
    bool strips_left, strips_right;
    text_pattern pattern;
    char *content; /* what to prepend, or to put in the place of a match */
};

static status apply_form(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    unicode_form_append(step->form, text, n, out);
    return STATUS_OK;
}

static status apply_lowercase(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    (void)step;
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        uint32_t code = utf8_read(text + at, &n_bytes);
        utf8_append(out, unicode_to_lower(code));
        if (code == 0x130) utf8_append(out, 0x307);
    }
    return STATUS_OK;
}

static status apply_strip(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    size_t first = n, last = 0; /* of what is not white space */
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        if (unicode_is_white_space(utf8_read(text + at, &n_bytes))) continue;
        if (first == n) first = at;
        last = at + n_bytes;
    }
    if (!step->strips_left) first = 0;
    if (!step->strips_right) last = n;
    if (first < last) text_append(out, text + first, last - first);
    return STATUS_OK;
}

static status apply_prepend(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    if (n) text_append(out, step->content, strlen(step->content));
    text_append(out, text, n);
    return STATUS_OK;
}

static status apply_replace(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    span_list spans = {0};
    size_t n_content = strlen(step->content);
    status st = text_pattern_cut(&step->pattern, text, n, &spans);
    for (size_t i = 0; !st && i < spans.n; i++) {
        const span *s = &spans.items[i];
        if (s->matched)
            text_append(out, step->content, n_content);
        else
            text_append(out, text + s->start, s->end - s->start);
    }
    free(spans.items);
    return st;
}

static status apply_byte_level(const normalizer_step *step, const char *text, size_t n, text_buffer *out) {
    (void)step;
    bytes_to_chars(text, n, out);
    return STATUS_OK;
}

static status parse_content(normalizer_step *step, const cJSON *json, const char *key) {
    const char *content;
    status st = tokenizer_json_get_text(json, key, &content);
    if (!st) step->content = mem_copy_text(content, strlen(content));
    return st;
}

static status parse_step(normalizer_step *step, const cJSON *json, const char *type) {
    bool form =
        !strcmp(type, "NFC") || !strcmp(type, "NFD") || !strcmp(type, "NFKC") || !strcmp(type, "NFKD");
    if (form) {
        step->apply = apply_form;
        step->form =
            (unicode_form){.composed = type[strlen(type) - 1] == 'C', .compatibility = type[2] == 'K'};
        return STATUS_OK;
    }
    if (!strcmp(type, "Lowercase")) {
        step->apply = apply_lowercase;
        return STATUS_OK;
    }
    if (!strcmp(type, "Strip")) {
        step->apply = apply_strip;
        status st = tokenizer_json_get_bool(json, "strip_left", &step->strips_left);
        return st ? st : tokenizer_json_get_bool(json, "strip_right", &step->strips_right);
    }
    if (!strcmp(type, "Prepend")) {
        step->apply = apply_prepend;
        return parse_content(step, json, "prepend");
    }
    if (!strcmp(type, "Replace")) {
        step->apply = apply_replace;
        status st = text_pattern_parse(&step->pattern, json);
        return st ? st : parse_content(step, json, "content");
    }
    if (!strcmp(type, "ByteLevel")) {
        step->apply = apply_byte_level;
        return STATUS_OK;
    }
    return status_refuse("type %s is not supported", tokenizer_json_quote_text(type).text);
}

/* Add the steps of an object; a Sequence adds those of its parts. */
status normalizer_parse(normalizer *norm, const cJSON *json) {
    if (!json) return STATUS_OK;
    const char *type;
    status st = tokenizer_json_get_text(json, "type", &type);
    if (st) return st;
    if (strcmp(type, "Sequence") != 0) {
        norm->steps = mem_resize(norm->steps, norm->n + 1, sizeof *norm->steps);
        norm->steps[norm->n] = (normalizer_step){0};
        return parse_step(&norm->steps[norm->n++], json, type);
    }
    const cJSON *parts, *part;
    st = tokenizer_json_get_array(json, "normalizers", &parts);
    if (st) return st;
    int i = 0;
    cJSON_ArrayForEach(part, parts) {
        st = normalizer_parse(norm, part);
        if (st) return status_at(st, "normalizers[%d]", i);
        i++;
    }
    return STATUS_OK;
}

void normalizer_free(normalizer *norm) {
    for (size_t i = 0; i < norm->n; i++) {
        text_pattern_free(&norm->steps[i].pattern);
        free(norm->steps[i].content);
    }
    free(norm->steps);
    *norm = (normalizer){0};
}

status normalizer_apply(const normalizer *norm, const char *text, size_t n, text_buffer *out) {
    text_buffer from = {0}, to = {0};
    status st = STATUS_OK;
    for (size_t i = 0; !st && i < norm->n; i++) {
        text_buffer last = from;
        to.n = 0;
        text_append(&to, "", 0);
        st = norm->steps[i].apply(&norm->steps[i], i ? from.data : text, i ? from.n : n, &to);
        from = to;
        to = last;
    }
    if (!st) text_append(out, norm->n ? from.data : text, norm->n ? from.n : n);
    free(from.data);
    free(to.data);
    return st;
}
