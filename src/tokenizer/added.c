#include "src/tokenizer/added.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/tokenizer/unicode.h"

static int compare_patterns(const added_token *a, const added_token *b) {
    size_t n = a->n_pattern < b->n_pattern ? a->n_pattern : b->n_pattern;
    int order = memcmp(a->pattern, b->pattern, n);
    return order ? order : (a->n_pattern > b->n_pattern) - (a->n_pattern < b->n_pattern);
}

static int compare_entries(const void *a, const void *b) {
    return compare_patterns(*(const added_token *const *)a, *(const added_token *const *)b);
}

static int compare_contents(const void *a, const void *b) {
    return strcmp((*(const added_token *const *)a)->content, (*(const added_token *const *)b)->content);
}

static status order_by_content(added_tokens *added) {
    added->by_content = mem_new(added->n, sizeof *added->by_content);
    for (size_t i = 0; i < added->n; i++)
        added->by_content[i] = &added->tokens[i];
    qsort(added->by_content, added->n, sizeof *added->by_content, compare_contents);
    for (size_t i = 1; i < added->n; i++)
        if (!compare_contents(&added->by_content[i - 1], &added->by_content[i]))
            return status_refuse("%s is there twice", utf8_quote(added->by_content[i]->content).text);
    return STATUS_OK;
}

static status matcher_init(added_matcher *matcher, const added_tokens *added, bool normalized) {
    matcher->tokens = mem_new(added->n, sizeof *matcher->tokens);
    for (size_t i = 0; i < added->n; i++) {
        const added_token *token = &added->tokens[i];
        if (token->normalized != normalized) continue;
        if (token->n_pattern == 0)
            return status_refuse("%s is nothing after normalization", utf8_quote(token->content).text);
        matcher->tokens[matcher->n++] = token;
        matcher->begins[(unsigned char)token->pattern[0]] = true;
    }
    qsort(matcher->tokens, matcher->n, sizeof *matcher->tokens, compare_entries);
    for (size_t i = 1; i < matcher->n; i++)
        if (!compare_patterns(matcher->tokens[i - 1], matcher->tokens[i]))
            return status_refuse("%s and %s are the same after normalization",
                                 utf8_quote(matcher->tokens[i - 1]->content).text,
                                 utf8_quote(matcher->tokens[i]->content).text);
    return STATUS_OK;
}

/* The first token in [low, high), which agree before byte `at`, whose byte `at` is `least` or more. */
static size_t lower_bound(const added_matcher *matcher, size_t low, size_t high, size_t at, int least) {
    while (low < high) {
        size_t middle = (low + high) / 2;
        const added_token *token = matcher->tokens[middle];
        int byte = at < token->n_pattern ? (unsigned char)token->pattern[at] : -1;
        if (byte < least)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token at the front of a text; NULL if there is none. */
static const added_token *longest_at(const added_matcher *matcher, const char *text, size_t n) {
    const added_token *found = NULL;
    size_t low = 0, high = matcher->n;
    for (size_t at = 0; at < n && low < high; at++) {
        int byte = (unsigned char)text[at];
        low = lower_bound(matcher, low, high, at, byte);
        high = lower_bound(matcher, low, high, at, byte + 1);
        if (low < high && matcher->tokens[low]->n_pattern == at + 1) found = matcher->tokens[low];
    }
    return found;
}

static bool is_char_before(const char *text, size_t at, bool (*is)(uint32_t), size_t *start) {
    if (at == 0) return false;
    do
        at--;
    while (((unsigned char)text[at] & 0xC0) == 0x80);
    size_t n_bytes;
    *start = at;
    return is(utf8_read(text + at, &n_bytes));
}

static bool is_char_at(const char *text, size_t at, size_t n, bool (*is)(uint32_t), size_t *end) {
    if (at >= n) return false;
    size_t n_bytes;
    bool holds = is(utf8_read(text + at, &n_bytes));
    *end = at + n_bytes;
    return holds;
}

void added_matcher_cut(const added_matcher *matcher, size_t base, size_t n, bool first, piece_list *to) {
    const char *text = to->text.data + base;
    size_t done = 0, next;
    for (size_t at = 0; at < n;) {
        const added_token *token =
            matcher->begins[(unsigned char)text[at]] ? longest_at(matcher, text + at, n - at) : NULL;
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, end = at + token->n_pattern;
        at = end;
        bool in_word = is_char_before(text, start, unicode_is_word, &next) ||
                       is_char_at(text, end, n, unicode_is_word, &next);
        if (token->single_word && in_word) continue;
        while (token->lstrip && start > done && is_char_before(text, start, unicode_is_white_space, &next))
            start = next;
        while (token->rstrip && is_char_at(text, end, n, unicode_is_white_space, &next))
            end = next;
        if (done < start)
            piece_list_append(to, (piece){base + done, base + start, PIECE_IS_TEXT, first && done == 0});
        piece_list_append(to, (piece){base + start, base + end, token->id, first && start == 0});
        done = end;
    }
    piece_list_append(to, (piece){base + done, base + n, PIECE_IS_TEXT, first && done == 0});
}

static void parse_fields(added_token *token, json_object *json, const normalizer *norm) {
    const char *content = json_text(json, "content");
    token->single_word = json_bool(json, "single_word");
    token->lstrip = json_bool(json, "lstrip");
    token->rstrip = json_bool(json, "rstrip");
    token->normalized = json_bool(json, "normalized");
    token->special = json_bool(json, "special");
    if (json->st != STATUS_OK) return;
    text_buffer pattern = {0};
    text_append(&pattern, "", 0);
    bool keeps_first;
    if (token->normalized)
        json_adopt(json, "content", normalizer_apply(norm, content, strlen(content), &pattern, &keeps_first));
    else
        text_append(&pattern, content, strlen(content));
    token->content = mem_copy_text(content, strlen(content));
    token->pattern = pattern.data;
    token->n_pattern = pattern.n;
}

/* Hugging Face tokenizers does not read the ids but gives them anew: that of the model's token of the same
 * content, or the next free one behind the vocabulary's. A file that says otherwise would be read differently
 * there. */
static void parse_id(added_token *token, json_object *json, const vocab *voc, int32_t *next_id) {
    int32_t expected = vocab_find(voc, token->content, strlen(token->content));
    size_t n;
    token->id = (int32_t)json_int(json, "id", 0, INT32_MAX);
    if (expected < 0) expected = (*next_id)++;
    if (token->id != expected)
        json_refuse(json, "id", "%s must have the id %d (it has %d)", utf8_quote(token->content).text,
                    expected, token->id);
    const char *other = vocab_content(voc, token->id, &n);
    if (other && (n != strlen(token->content) || memcmp(other, token->content, n) != 0))
        json_refuse(json, "id", "%s has the id %d of another token", utf8_quote(token->content).text,
                    token->id);
}

void added_tokens_parse(added_tokens *added, json_object *owner, const vocab *voc, const normalizer *norm) {
    static const char key[] = "added_tokens";
    const cJSON *list = json_array_optional(owner, key);
    if (!list) return;
    added->tokens = mem_new((size_t)cJSON_GetArraySize(list), sizeof *added->tokens);
    int32_t next_id = voc->n_tokens;
    json_object json = {0};
    while (json_next_object(owner, key, &json)) {
        added_token *token = &added->tokens[added->n++];
        parse_fields(token, &json, norm);
        if (json.st == STATUS_OK) parse_id(token, &json, voc, &next_id);
    }
    if (owner->st == STATUS_OK) json_adopt(owner, key, order_by_content(added));
    if (owner->st == STATUS_OK) json_adopt(owner, key, matcher_init(&added->raw, added, false));
    if (owner->st == STATUS_OK) json_adopt(owner, key, matcher_init(&added->normalized, added, true));
}

const added_token *added_tokens_find(const added_tokens *added, const char *content) {
    added_token wanted = {.content = (char *)content};
    const added_token *key = &wanted;
    if (added->n == 0) return NULL;
    const added_token **found =
        bsearch(&key, added->by_content, added->n, sizeof *added->by_content, compare_contents);
    return found ? *found : NULL;
}

void added_tokens_free(added_tokens *added) {
    for (size_t i = 0; i < added->n; i++) {
        free(added->tokens[i].content);
        free(added->tokens[i].pattern);
    }
    free(added->tokens);
    free(added->by_content);
    free(added->raw.tokens);
    free(added->normalized.tokens);
    *added = (added_tokens){0};
}
