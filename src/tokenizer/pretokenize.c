#include "src/tokenizer/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer/bytes.h"
#include "src/tokenizer/metaspace.h"
#include "src/tokenizer/pattern.h"
#include "src/tokenizer/unicode.h"

/* What becomes of the matches that a text is cut at. */
typedef enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED, /* each is a piece */
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS, /* neighbouring ones are one piece */
} split_behavior;

typedef struct pretokenizer_step pretokenizer_step;

/* One piece of text of `from` to pieces of `to`, rewriting or copying its text. */
typedef status apply_step(const pretokenizer_step *step, const char *text, size_t n, bool first,
                          span_list *spans, piece_list *to);

struct pretokenizer_step {
    apply_step *apply;
    bool (*is)(uint32_t code); /* of what is cut at single characters */
    text_pattern pattern; /* Split; of ByteLevel its own expression, or none; of Metaspace the replacement */
    uint32_t length;      /* FixedLength: characters */
    split_behavior behavior;
    bool invert;
    bool adds_space; /* ByteLevel */
    bool splits;     /* Metaspace */
    metaspace_scheme scheme;
};

static const char BYTE_LEVEL_REGEX[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Join each match to the span before it unless that is a match too; with `runs`, join all neighbours of one
 * kind. */
static void join_with_previous(span_list *spans, bool runs) {
    size_t n = 0;
    bool last_matched = false;
    for (size_t i = 0; i < spans->n; i++) {
        span s = spans->items[i];
        bool joins = runs ? s.matched == last_matched : s.matched && !last_matched;
        last_matched = s.matched;
        if (joins && n)
            spans->items[n - 1].end = s.end;
        else
            spans->items[n++] = s;
    }
    spans->n = n;
}

static void join_with_next(span_list *spans) {
    size_t first = spans->n;
    bool last_matched = false;
    for (size_t i = spans->n; i-- > 0;) {
        span s = spans->items[i];
        bool joins = s.matched && !last_matched;
        last_matched = s.matched;
        if (joins && first < spans->n)
            spans->items[first].start = s.start;
        else
            spans->items[--first] = s;
    }
    spans->n -= first;
    memmove(spans->items, spans->items + first, spans->n * sizeof *spans->items);
}

/* Append the pieces of a text that stands at `base` in the text of the list. */
static void append_spans(span_list *spans, split_behavior behavior, size_t base, bool first, piece_list *to) {
    if (behavior == SPLIT_MERGED_WITH_NEXT) join_with_next(spans);
    if (behavior == SPLIT_MERGED_WITH_PREVIOUS) join_with_previous(spans, false);
    if (behavior == SPLIT_CONTIGUOUS) join_with_previous(spans, true);
    for (size_t i = 0; i < spans->n; i++) {
        const span *s = &spans->items[i];
        if (behavior == SPLIT_REMOVED && s->matched) continue;
        piece_list_append(to, (piece){base + s->start, base + s->end, PIECE_IS_TEXT, first && s->start == 0});
    }
}

/* Copy the text and cut it. */
static void append_cut(span_list *spans, split_behavior behavior, const char *text, size_t n, bool first,
                       piece_list *to) {
    size_t base = to->text.n;
    text_append(&to->text, text, n);
    append_spans(spans, behavior, base, first, to);
}

static status apply_split(const pretokenizer_step *step, const char *text, size_t n, bool first,
                          span_list *spans, piece_list *to) {
    status st = text_pattern_cut(&step->pattern, text, n, spans);
    if (st) return st;
    for (size_t i = 0; step->invert && i < spans->n; i++)
        spans->items[i].matched = !spans->items[i].matched;
    append_cut(spans, step->behavior, text, n, first, to);
    return STATUS_OK;
}

static status apply_chars(const pretokenizer_step *step, const char *text, size_t n, bool first,
                          span_list *spans, piece_list *to) {
    text_cut_at_chars(step->is, text, n, spans);
    append_cut(spans, step->behavior, text, n, first, to);
    return STATUS_OK;
}

/* What stands before the first character that has a script is left out. */
static status apply_scripts(const pretokenizer_step *step, const char *text, size_t n, bool first,
                            span_list *spans, piece_list *to) {
    (void)step;
    (void)spans;
    size_t base = to->text.n, begin = n;
    unsigned last = 0;
    text_append(&to->text, text, n);
    for (size_t at = 0, n_bytes; at < n; at += n_bytes) {
        unsigned script = unicode_script(utf8_read(text + at, &n_bytes));
        if (script == 0 || script == last) continue;
        if (last) piece_list_append(to, (piece){base + begin, base + at, PIECE_IS_TEXT, first && begin == 0});
        begin = at;
        last = script;
    }
    piece_list_append(to, (piece){base + begin, base + n, PIECE_IS_TEXT, first && begin == 0});
    return STATUS_OK;
}

static status apply_fixed_length(const pretokenizer_step *step, const char *text, size_t n, bool first,
                                 span_list *spans, piece_list *to) {
    (void)spans;
    size_t base = to->text.n, at = 0, n_bytes;
    text_append(&to->text, text, n);
    while (at < n) {
        size_t begin = at;
        for (uint32_t i = 0; i < step->length && at < n; i++, at += n_bytes)
            utf8_read(text + at, &n_bytes);
        piece_list_append(to, (piece){base + begin, base + at, PIECE_IS_TEXT, first && begin == 0});
    }
    return STATUS_OK;
}

/* Runs of word characters, and runs of what is neither that nor white space. */
static status apply_whitespace(const pretokenizer_step *step, const char *text, size_t n, bool first,
                               span_list *spans, piece_list *to) {
    (void)step;
    (void)spans;
    enum { SPACE, WORD, OTHER } kind, last = SPACE;
    size_t base = to->text.n, begin = 0;
    text_append(&to->text, text, n);
    for (size_t at = 0, n_bytes; at <= n; at += n_bytes, last = kind) {
        uint32_t code = at < n ? utf8_read(text + at, &n_bytes) : ' ';
        if (at == n) n_bytes = 1;
        kind = unicode_is_white_space(code) ? SPACE : unicode_is_word(code) ? WORD : OTHER;
        if (kind == last) continue;
        if (last != SPACE)
            piece_list_append(to, (piece){base + begin, base + at, PIECE_IS_TEXT, first && begin == 0});
        begin = at;
    }
    return STATUS_OK;
}

static status apply_byte_level(const pretokenizer_step *step, const char *text, size_t n, bool first,
                               span_list *spans, piece_list *to) {
    text_buffer with_space = {0};
    if (step->adds_space && text[0] != ' ') {
        text_append(&with_space, " ", 1);
        text_append(&with_space, text, n);
        text = with_space.data;
        n = with_space.n;
    }
    span whole = {0, n, false};
    span_list one = {.items = &whole, .n = 1};
    status st = step->pattern.re ? text_pattern_cut(&step->pattern, text, n, spans) : STATUS_OK;
    const span_list *cut = step->pattern.re ? spans : &one;
    for (size_t i = 0; !st && i < cut->n; i++) {
        const span *s = &cut->items[i];
        size_t start = to->text.n;
        bytes_to_chars(text + s->start, s->end - s->start, &to->text);
        piece_list_append(to, (piece){start, to->text.n, PIECE_IS_TEXT, first && s->start == 0});
    }
    free(with_space.data);
    return st;
}

static status apply_metaspace(const pretokenizer_step *step, const char *text, size_t n, bool first,
                              span_list *spans, piece_list *to) {
    const char *mark = step->pattern.literal;
    size_t n_mark = step->pattern.n, base = to->text.n;
    bool has_mark = (n >= n_mark && !memcmp(text, mark, n_mark)) || text[0] == ' ';
    bool prepends = step->scheme == METASPACE_ALWAYS || (step->scheme == METASPACE_FIRST && first);
    if (prepends && !has_mark) text_append(&to->text, mark, n_mark);
    for (size_t at = 0, run; at < n; at += run) {
        const char *space = memchr(text + at, ' ', n - at);
        run = space ? (size_t)(space - text) - at : n - at;
        text_append(&to->text, text + at, run);
        if (space) {
            text_append(&to->text, mark, n_mark);
            run++;
        }
    }
    if (!step->splits) {
        piece_list_append(to, (piece){base, to->text.n, PIECE_IS_TEXT, first});
        return STATUS_OK;
    }
    status st = text_pattern_cut(&step->pattern, to->text.data + base, to->text.n - base, spans);
    if (!st) append_spans(spans, SPLIT_MERGED_WITH_NEXT, base, first, to);
    return st;
}

/* A character of the file as the pattern that is looked for. */
static void parse_char(pretokenizer_step *step, json_object *json, const char *key) {
    char text[4];
    step->pattern.n = utf8_write(json_character(json, key), text);
    step->pattern.literal = mem_copy_text(text, step->pattern.n);
}

static void parse_behavior(pretokenizer_step *step, json_object *json) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    step->behavior = (split_behavior)json_choice(json, "behavior", names, sizeof names / sizeof *names);
}

static void parse_split(pretokenizer_step *step, json_object *json) {
    step->apply = apply_split;
    text_pattern_parse(&step->pattern, json);
    step->invert = json_bool(json, "invert");
    parse_behavior(step, json);
}

static void parse_delimiter(pretokenizer_step *step, json_object *json) {
    step->apply = apply_split; /* REMOVED */
    parse_char(step, json, "delimiter");
}

static void cut_at(pretokenizer_step *step, bool (*is)(uint32_t code), split_behavior behavior) {
    step->apply = apply_chars;
    step->is = is;
    step->behavior = behavior;
}

static void parse_digits(pretokenizer_step *step, json_object *json) {
    bool individual = json_bool(json, "individual_digits");
    cut_at(step, unicode_is_numeric, individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
}

static void parse_punctuation(pretokenizer_step *step, json_object *json) {
    cut_at(step, unicode_is_punctuation, SPLIT_ISOLATED);
    if (json_find(json, "behavior")) parse_behavior(step, json);
}

static void parse_fixed_length(pretokenizer_step *step, json_object *json) {
    step->apply = apply_fixed_length;
    step->length = (uint32_t)json_int_or(json, "length", 1, INT32_MAX, 5);
}

static void parse_byte_level(pretokenizer_step *step, json_object *json) {
    step->apply = apply_byte_level;
    step->adds_space = json_bool(json, "add_prefix_space");
    if (json_bool_or(json, "use_regex", true))
        json_adopt(json, NULL, regex_open(BYTE_LEVEL_REGEX, &step->pattern.re));
}

static void parse_metaspace(pretokenizer_step *step, json_object *json) {
    step->apply = apply_metaspace;
    parse_char(step, json, "replacement");
    step->splits = json_bool_or(json, "split", true);
    step->scheme = metaspace_parse_scheme(json);
}

static void parse_whitespace(pretokenizer_step *step, json_object *json) {
    (void)json;
    step->apply = apply_whitespace;
}

static void parse_whitespace_split(pretokenizer_step *step, json_object *json) {
    (void)json;
    cut_at(step, unicode_is_white_space, SPLIT_REMOVED);
}

static void parse_scripts(pretokenizer_step *step, json_object *json) {
    (void)json;
    step->apply = apply_scripts;
}

static void parse_step(pretokenizer_step *step, json_object *json, const char *type) {
    static const struct {
        const char *type;
        void (*parse)(pretokenizer_step *step, json_object *json);
    } kinds[] = {{"ByteLevel", parse_byte_level},  {"CharDelimiterSplit", parse_delimiter},
                 {"Digits", parse_digits},         {"FixedLength", parse_fixed_length},
                 {"Metaspace", parse_metaspace},   {"Punctuation", parse_punctuation},
                 {"Split", parse_split},           {"UnicodeScripts", parse_scripts},
                 {"Whitespace", parse_whitespace}, {"WhitespaceSplit", parse_whitespace_split}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(type, kinds[i].type) != 0) continue;
        kinds[i].parse(step, json);
        return;
    }
    json_refuse(json, "type", "%s is not supported", utf8_quote(type).text);
}

static pretokenizer_step *add_step(pretokenizer *pre) {
    pre->steps = mem_resize(pre->steps, pre->n + 1, sizeof *pre->steps);
    pre->steps[pre->n] = (pretokenizer_step){0};
    return &pre->steps[pre->n++];
}

/* Add the steps of an object; a Sequence adds those of its parts. */
void pretokenizer_parse(pretokenizer *pre, json_object *json) {
    if (!json->item) return;
    const char *type = json_text(json, "type");
    if (strcmp(type, "BertPreTokenizer") == 0) {
        cut_at(add_step(pre), unicode_is_white_space, SPLIT_REMOVED);
        cut_at(add_step(pre), unicode_is_punctuation, SPLIT_ISOLATED);
    } else if (strcmp(type, "Sequence") == 0) {
        json_object part = {0};
        while (json_next_object(json, "pretokenizers", &part))
            pretokenizer_parse(pre, &part);
    } else {
        parse_step(add_step(pre), json, type);
    }
}

void pretokenizer_free(pretokenizer *pre) {
    for (size_t i = 0; i < pre->n; i++)
        text_pattern_free(&pre->steps[i].pattern);
    free(pre->steps);
    *pre = (pretokenizer){0};
}

status pretokenizer_apply(const pretokenizer *pre, piece_list *pieces) {
    piece_list next = {0};
    span_list spans = {0};
    status st = STATUS_OK;
    for (size_t i = 0; !st && i < pre->n; i++) {
        const pretokenizer_step *step = &pre->steps[i];
        piece_list_clear(&next);
        for (size_t k = 0; !st && k < pieces->n; k++) {
            const piece *p = &pieces->items[k];
            if (p->token != PIECE_IS_TEXT)
                piece_list_append(&next, *p);
            else
                st = step->apply(step, pieces->text.data + p->start, p->end - p->start, p->first, &spans,
                                 &next);
        }
        piece_list swapped = *pieces;
        *pieces = next;
        next = swapped;
    }
    piece_list_free(&next);
    free(spans.items);
    return st;
}
