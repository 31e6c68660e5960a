#include "io/jsonl/prompts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/json.h"
#include "src/base/memory.h"
#include "src/base/notice.h"
#include "src/base/utf8.h"

enum { READ_BYTES = 64 << 10 };

/* What the user should know of lines that are good all the same. */
typedef enum remark { REMARK_METADATA, REMARK_CUSTOM_ID, REMARK_HALF, REMARK_INVALID, N_REMARKS } remark;

static const char *const remarks[N_REMARKS] = {
    [REMARK_METADATA] = "\"metadata\" is not used, and not in the results",
    [REMARK_CUSTOM_ID] = "\"custom_id\" is not used where there is an \"id\" too",
    [REMARK_HALF] = "half a surrogate pair (\\ud800 to \\udfff) is read as U+FFFD",
    [REMARK_INVALID] = "bytes that are not UTF-8 are read as U+FFFD; iconv converts other encodings",
};

struct prompts {
    char *path;
    int64_t n_remarks[N_REMARKS], first_remark[N_REMARKS]; /* lines that it is true of */
    int fd;
    bool at_end; /* of the file */
    int64_t line;
    char *data;
    size_t begin, line_end, next, end, capacity; /* the current line, where the next begins, what is read */
};

/* ---- lines ---- */

status prompts_open(const char *path, prompts **out) {
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (is_stdin) path = "standard input";
    if (fd < 0) return status_refuse("%s: cannot be opened: %s", path, strerror(errno));
    prompts *p = mem_new(1, sizeof *p);
    p->path = mem_copy_text(path, strlen(path));
    p->fd = fd;
    *out = p;
    return STATUS_OK;
}

const char *prompts_name(const prompts *p) {
    return p->path;
}

void prompts_close(prompts *p) {
    if (!p) return;
    close(p->fd);
    free(p->data);
    free(p->path);
    free(p);
}

/* Read more behind the current line, which moves to the front. */
static status fill(prompts *p) {
    if (p->begin) memmove(p->data, p->data + p->begin, p->end - p->begin);
    p->end -= p->begin;
    p->begin = 0;
    if (p->capacity - p->end < READ_BYTES) {
        p->capacity = 2 * p->capacity + READ_BYTES;
        p->data = mem_resize(p->data, p->capacity, 1);
    }
    ssize_t got;
    do
        got = read(p->fd, p->data + p->end, p->capacity - p->end);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EISDIR)
        return status_refuse("%s: is a directory, not a file of prompts", p->path);
    if (got < 0) return status_fail("%s: cannot be read: %s", p->path, strerror(errno));
    p->at_end = got == 0;
    p->end += (size_t)got;
    return STATUS_OK;
}

/* Go to the next line. One that is too long is dropped piece by piece; it is told by *too_long. */
static status read_line(prompts *p, bool *more, bool *too_long) {
    p->begin = p->next;
    *too_long = false;
    for (size_t scanned = 0;;) {
        size_t n = p->end - p->begin;
        const char *newline = n > scanned ? memchr(p->data + p->begin + scanned, '\n', n - scanned) : NULL;
        if (newline || p->at_end) {
            p->line_end = newline ? (size_t)(newline - p->data) : p->end;
            p->next = newline ? p->line_end + 1 : p->end;
            *too_long = *too_long || p->line_end - p->begin > PROMPT_MAX_LINE_BYTES;
            *more = newline || n > 0 || *too_long;
            p->line++;
            return STATUS_OK;
        }
        scanned = n;
        if (n > PROMPT_MAX_LINE_BYTES) {
            *too_long = true;
            p->begin = p->end;
            scanned = 0;
        }
        status st = fill(p);
        if (st != STATUS_OK) return st;
    }
}

static bool is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

/* ---- one line ---- */

static void refuse_unknown_keys(json_object *o) {
    static const char *const own[] = {"id",
                                      "custom_id",
                                      "prompt",
                                      "tokens",
                                      "n",
                                      "stop",
                                      "stop_token_ids",
                                      "add_special_tokens",
                                      "prompt_token_ids",
                                      "metadata"};
    enum { N_OWN = sizeof own / sizeof *own, N_KNOWN = N_OWN + N_SAMPLING_FIELDS };
    const char *known[N_KNOWN];
    for (int i = 0; i < N_KNOWN; i++)
        known[i] = i < N_OWN ? own[i] : sampling_fields[i - N_OWN].name;
    if (json_find(o, "messages"))
        json_refuse(o, "messages",
                    "chats are not rendered: give the text that the model's chat template makes of them as "
                    "\"prompt\" (transformers: tokenizer.apply_chat_template(messages, tokenize=False, "
                    "add_generation_prompt=True))");
    const cJSON *member;
    cJSON_ArrayForEach(member, o->item) {
        int i = 0;
        while (i < N_KNOWN && strcmp(member->string, known[i]) != 0)
            i++;
        if (i < N_KNOWN) continue;
        text_buffer list = {0};
        for (int k = 0; k < N_KNOWN; k++) {
            if (k) text_append(&list, ", ", 2);
            text_append(&list, known[k], strlen(known[k]));
        }
        json_refuse(o, member->string, "this key is not known; known are %s", list.data);
        free(list.data);
        return;
    }
}

/* Also of a line that will be refused: false when it has none. Any value of JSON is an id, but null counts
 * less than a "custom_id". A text that our texts cannot hold stays as it was written. */
static bool read_id(const char *text, size_t n, prompt_line *out) {
    char number[32];
    const char *id = number;
    size_t n_id = (size_t)snprintf(number, sizeof number, "%lld", (long long)out->line);
    bool found = json_find_written(text, n, "id", &id, &n_id);
    if (!found || (n_id == 4 && !memcmp(id, "null", 4)))
        found = json_find_written(text, n, "custom_id", &id, &n_id) || found;
    cJSON *item = NULL;
    text_buffer written = {0};
    out->id_is_json = *id != '"' || json_parse(id, n_id, "id", &item) != STATUS_OK;
    if (out->id_is_json) utf8_append_repaired(&written, id, n_id);
    out->id = out->id_is_json ? mem_copy_text(written.data, written.n)
                              : mem_copy_text(item->valuestring, strlen(item->valuestring));
    free(written.data);
    cJSON_Delete(item);
    return found;
}

static void read_tokens(json_object *o, const char *key, int32_t **out, size_t *n) {
    const cJSON *list = json_find(o, key), *item;
    if (!list) return;
    if (!cJSON_IsArray(list)) {
        json_refuse(o, key, "an array of token ids was expected");
        return;
    }
    *out = mem_new((size_t)cJSON_GetArraySize(list), sizeof **out);
    cJSON_ArrayForEach(item, list) {
        int64_t id;
        if (!json_item_is_int(item, 0, INT32_MAX, &id)) {
            json_refuse(o, key, "element %zu is not a token id", *n);
            return;
        }
        (*out)[(*n)++] = (int32_t)id;
    }
}

static void read_prompt(json_object *o, prompt_line *out) {
    const cJSON *text = json_find(o, "prompt"), *tokens = json_find(o, "tokens");
    if (text && tokens) {
        json_refuse(o, "tokens", "a line has \"prompt\" or \"tokens\", not both");
    } else if (tokens) {
        read_tokens(o, "tokens", &out->tokens, &out->n_tokens);
        if (out->n_tokens == 0) json_refuse(o, "tokens", "an array with at least one token id was expected");
    } else if (*json_text(o, "prompt") == '\0') {
        json_refuse(o, "prompt", "it is empty");
    } else {
        out->n_text = strlen(text->valuestring);
        out->text = mem_copy_text(text->valuestring, out->n_text);
    }
}

static void read_stops(json_object *o, prompt_line *out) {
    const cJSON *item = json_find(o, "stop");
    if (!item) return;
    bool is_list = cJSON_IsArray(item);
    out->has_stops = true;
    for (const cJSON *stop = is_list ? item->child : item; stop; stop = is_list ? stop->next : NULL) {
        if (!cJSON_IsString(stop) || *stop->valuestring == '\0') {
            json_refuse(o, "stop", "a text, or an array of texts, none of them empty, was expected");
            return;
        }
        if (out->n_stops == PROMPT_MAX_STOPS) {
            json_refuse(o, "stop", "more than %d texts", PROMPT_MAX_STOPS);
            return;
        }
        out->stops[out->n_stops++] = mem_copy_text(stop->valuestring, strlen(stop->valuestring));
    }
}

/* Other programs write -1 for all of the likeliest tokens, and true for one logprob. */
static void read_sampling(json_object *o, sampling_options *s) {
    for (const sampling_field *f = sampling_fields; f < sampling_fields + N_SAMPLING_FIELDS; f++) {
        void *value = sampling_value(s, f);
        if (f->kind == SAMPLING_REAL)
            *(double *)value = json_number_or(o, f->name, f->least, f->most, *(double *)value);
        if (f->kind == SAMPLING_FLAG) *(bool *)value = json_bool_or(o, f->name, *(bool *)value);
        if (f->kind != SAMPLING_INTEGER) continue;
        int64_t *n = value;
        const cJSON *item = json_find(o, f->name);
        if (n == &s->n_logprobs && cJSON_IsBool(item))
            *n = !cJSON_IsTrue(item) ? 0 : *n > 0 ? *n : 1;
        else
            *n = json_int_or(o, f->name, n == &s->top_k ? -1 : (int64_t)f->least, (int64_t)f->most, *n);
    }
    if (s->top_k < 0) s->top_k = 0;
}

/* What becomes of a prompt's text, and what is told of it. */
static void read_special(json_object *o, prompt_line *out) {
    bool adds = json_bool_or(o, "add_special_tokens", false);
    if (json_find(o, "add_special_tokens")) out->special = adds ? SPECIAL_ALL : SPECIAL_NONE;
    if (adds && out->tokens) json_refuse(o, "add_special_tokens", "tokens are taken as they are");
    out->tells_prompt = json_bool_or(o, "prompt_token_ids", false);
}

static void count_remark(prompts *p, remark which, bool is_true) {
    if (is_true && p->n_remarks[which]++ == 0) p->first_remark[which] = p->line;
}

/* name is what messages call this line. The text is changed. */
static status parse_line(prompts *p, char *text, size_t n, const char *name, prompt_line *out) {
    cJSON *document = NULL;
    bool has_id = read_id(text, n, out);
    bool has_halves = json_mend_halves(text, n), has_invalid = utf8_count_valid(text, n) < n;
    status st = json_parse(text, n, name, &document);
    if (st != STATUS_OK) return st;
    json_object o = json_view(document, name);
    bool has_metadata = json_find(&o, "metadata"),
         has_ids = json_find(&o, "id") && json_find(&o, "custom_id");
    if (!has_id && (json_find(&o, "id") || json_find(&o, "custom_id")))
        json_refuse(&o, "id", "it is not a value of JSON");
    refuse_unknown_keys(&o);
    int64_t n_texts = json_int_or(&o, "n", 1, INT32_MAX, 1);
    if (n_texts > 1)
        json_refuse(&o, "n", "%lld texts of one prompt: a line makes one; repeat the line with other ids",
                    (long long)n_texts);
    read_prompt(&o, out);
    read_sampling(&o, &out->sampling);
    read_stops(&o, out);
    read_tokens(&o, "stop_token_ids", &out->stop_tokens, &out->n_stop_tokens);
    read_special(&o, out);
    cJSON_Delete(document);
    if (o.st == STATUS_OK) o.st = status_at(sampling_check(&out->sampling), "%s", name);
    if (o.st != STATUS_OK) return o.st;
    count_remark(p, REMARK_METADATA, has_metadata);
    count_remark(p, REMARK_CUSTOM_ID, has_ids);
    count_remark(p, REMARK_HALF, has_halves);
    count_remark(p, REMARK_INVALID, has_invalid);
    return STATUS_OK;
}

/* ---- the file ---- */

/* Without its byte order mark. */
static void trim_line(prompts *p) {
    static const char mark[] = "\xEF\xBB\xBF";
    if (p->line_end - p->begin >= 3 && memcmp(p->data + p->begin, mark, 3) == 0) p->begin += 3;
}

static void fill_line(prompts *p, bool too_long, const sampling_options *defaults, prompt_line *out) {
    char name[STATUS_TEXT_BYTES / 2], *text = p->data + p->begin;
    size_t n = p->line_end - p->begin;
    snprintf(name, sizeof name, "%.400s: line %lld", p->path, (long long)p->line);
    *out = (prompt_line){.line = p->line, .sampling = *defaults};
    status st = too_long ? status_refuse("%s: longer than %d bytes", name, PROMPT_MAX_LINE_BYTES)
                         : parse_line(p, text, n, name, out);
    if (too_long) (void)read_id(text, 0, out); /* only its end is there */
    if (st != STATUS_OK) out->error = mem_copy_text(status_text(), strlen(status_text()));
}

static bool is_compressed(const char *data, size_t n) {
    return (n >= 2 && !memcmp(data, "\x1F\x8B", 2)) || (n >= 4 && !memcmp(data, "\x28\xB5\x2F\xFD", 4));
}

/* Does the line say that the file is of another format? One refusal tells more than one for each line. */
static status check_first_line(const prompts *p) {
    const char *data = p->data + p->begin, *found = utf8_other_encoding(data, p->end - p->begin, true);
    size_t n = p->line_end - p->begin;
    if (found)
        return status_refuse(
            "%s: is in %s, but prompts are read as UTF-8: convert it first, with iconv -f %s -t UTF-8",
            p->path, found, found);
    if (is_compressed(data, p->end - p->begin))
        return status_refuse("%s: is compressed: unpack it first, as with zcat or zstdcat, into --input -",
                             p->path);
    for (; n > 0 && is_blank(data + n - 1, 1); n--)
        continue;
    if (n > 0 && ((data[0] == '[' && data[n - 1] != ']') || (data[0] == '{' && n == 1)))
        return status_refuse(
            "%s: is JSON over several lines, but prompts are one JSON object a line: convert it "
            "first, with jq -c %s",
            p->path, data[0] == '[' ? "'.[]'" : ".");
    return STATUS_OK;
}

static void tell_remarks(prompts *p) {
    for (int i = 0; i < N_REMARKS; i++)
        if (p->n_remarks[i] > 0)
            notice_add("%s: %s (%lld of the lines, the first is line %lld)", p->path, remarks[i],
                       (long long)p->n_remarks[i], (long long)p->first_remark[i]);
    memset(p->n_remarks, 0, sizeof p->n_remarks);
}

status prompts_next(prompts *p, const sampling_options *defaults, prompt_line *out, bool *more) {
    for (;;) {
        bool too_long, found;
        status st = read_line(p, &found, &too_long);
        if (st != STATUS_OK) return st;
        if (found && !too_long) trim_line(p);
        if (found && p->line == 1) st = check_first_line(p);
        if (st != STATUS_OK) return st;
        if (!found) tell_remarks(p);
        if (found && !too_long && is_blank(p->data + p->begin, p->line_end - p->begin)) continue;
        *more = found;
        if (found) fill_line(p, too_long, defaults, out);
        return STATUS_OK;
    }
}

void prompt_line_free(prompt_line *line) {
    free(line->error);
    free(line->id);
    free(line->text);
    free(line->tokens);
    for (int i = 0; i < line->n_stops; i++)
        free(line->stops[i]);
    free(line->stop_tokens);
    *line = (prompt_line){0};
}
