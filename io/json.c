#include "io/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "src/base/notice.h"
#include "src/base/utf8.h"

/* ---- parsing ---- */

/* The line is told only where there are several. */
static status refuse_at(const char *bytes, size_t n, size_t offset, const char *name, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < offset; i++) {
        column++;
        if (bytes[i] == '\n') {
            line++;
            column = 1;
        }
    }
    if (!memchr(bytes, '\n', n)) return status_refuse("%s: %s at column %zu", name, what, column);
    return status_refuse("%s: %s at line %zu, column %zu", name, what, line, column);
}

/* What cJSON would misread or not survive. A backslash occurs in JSON only inside strings, and there it
 * covers the character behind it. */
static status scan(const char *bytes, size_t n, const char *name) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        if (c == '\0') return refuse_at(bytes, n, i, name, "zero byte");
        if (c == '\\') {
            if (n - i > 5 && memcmp(bytes + i, "\\u0000", 6) == 0)
                return refuse_at(bytes, n, i, name, "zero character \\u0000");
            i++;
            if (i < n && bytes[i] == '\0') return refuse_at(bytes, n, i, name, "zero byte");
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == '{' || c == '[')) {
            if (++depth > JSON_MAX_DEPTH) return refuse_at(bytes, n, i, name, "too deeply nested JSON");
        } else if (!in_string && (c == '}' || c == ']')) {
            depth--;
        }
    }
    return STATUS_OK;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

status json_parse(const char *bytes, size_t n, const char *name, cJSON **out) {
    if (n == 0) return status_refuse("%s: empty, but JSON was expected", name);
    status st = scan(bytes, n, name);
    if (st != STATUS_OK) return st;
    const char *end = bytes;
    cJSON *item = cJSON_ParseWithLengthOpts(bytes, n, &end, false);
    if (!item) return refuse_at(bytes, n, (size_t)(end - bytes), name, "not valid JSON");
    size_t offset = (size_t)(end - bytes);
    while (offset < n && is_space(bytes[offset]))
        offset++;
    if (offset < n) {
        cJSON_Delete(item);
        return refuse_at(bytes, n, offset, name, "not valid JSON: more text behind the value");
    }
    *out = item;
    return STATUS_OK;
}

static int compare_keys(const void *a, const void *b) {
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

/* The key that occurs twice, or NULL. */
static const char *find_duplicate(const cJSON *object) {
    size_t n = 0;
    const cJSON *member;
    cJSON_ArrayForEach(member, object) n++;
    const cJSON **members = mem_new(n, sizeof *members);
    n = 0;
    cJSON_ArrayForEach(member, object) members[n++] = member;
    qsort(members, n, sizeof *members, compare_keys);
    const char *found = NULL;
    for (size_t i = 1; i < n && !found; i++)
        if (strcmp(members[i - 1]->string, members[i]->string) == 0) found = members[i]->string;
    free(members);
    return found;
}

/* NaN and Infinity outside of strings as numbers that overflow; what they are part of else stays no JSON. */
static void append_with_numbers(text_buffer *out, const char *bytes, size_t n) {
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        bool is_nan = !in_string && n - i >= 3 && memcmp(bytes + i, "NaN", 3) == 0;
        bool is_infinity = !in_string && n - i >= 8 && memcmp(bytes + i, "Infinity", 8) == 0;
        if (is_nan || is_infinity) {
            text_append(out, "1e999", 5);
            i += is_nan ? 2 : 7;
            continue;
        }
        if (bytes[i] == '"') in_string = !in_string;
        size_t length = in_string && bytes[i] == '\\' && i + 1 < n ? 2 : 1; /* an escape is taken whole */
        text_append(out, bytes + i, length);
        i += length - 1;
    }
}

/* Of members with one key the last stays. */
static void keep_last(cJSON *item, const char *name) {
    for (const char *twice; cJSON_IsObject(item) && (twice = find_duplicate(item));) {
        notice_add("%s: the key \"%.100s\" occurs twice: the last one is read, as by transformers", name,
                   twice);
        char *key = mem_copy_text(twice, strlen(twice)); /* of a member that goes */
        cJSON_DeleteItemFromObjectCaseSensitive(item, key);
        free(key);
    }
    cJSON *member;
    cJSON_ArrayForEach(member, item) keep_last(member, name);
}

status json_parse_as_python(const char *bytes, size_t n, const char *name, cJSON **out) {
    text_buffer text = {0};
    append_with_numbers(&text, bytes, n);
    status st = json_parse(text.data, text.n, name, out);
    free(text.data);
    if (st == STATUS_OK) keep_last(*out, name);
    return st;
}

/* ---- files ---- */

static status read_open_file(int fd, const char *path, size_t max_bytes, char **bytes, size_t *n) {
    struct stat info;
    if (fstat(fd, &info) != 0) return status_fail("%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return status_refuse("%s: not a regular file", path);
    if ((uint64_t)info.st_size > max_bytes)
        return status_refuse("%s: %lld bytes, more than the %zu that such a file may have", path,
                             (long long)info.st_size, max_bytes);
    size_t wanted = (size_t)info.st_size, done = 0;
    char *data = mem_new(wanted + 1, 1);
    while (done < wanted) {
        ssize_t got = read(fd, data + done, wanted - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status st = status_fail("%s: cannot be read: %s", path, strerror(errno));
            free(data);
            return st;
        }
        if (got == 0) break; /* shrunk meanwhile: what is there is judged by the parser */
        done += (size_t)got;
    }
    data[done] = '\0';
    *bytes = data;
    *n = done;
    return STATUS_OK;
}

status json_read_bytes(const char *path, size_t max_bytes, char **bytes, size_t *n) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us before it is refused */
    if (fd < 0) return status_refuse("%s: cannot be opened: %s", path, strerror(errno));
    char *data = NULL;
    size_t n_data = 0;
    status st = read_open_file(fd, path, max_bytes, &data, &n_data);
    close(fd);
    if (st == STATUS_OK) st = file_refuse_pointer(path, data, n_data);
    if (st != STATUS_OK) {
        free(data);
        return st;
    }
    *bytes = data;
    *n = n_data;
    return STATUS_OK;
}

status json_read_file(const char *path, size_t max_bytes, cJSON **out) {
    char *bytes;
    size_t n;
    status st = json_read_bytes(path, max_bytes, &bytes, &n);
    if (st != STATUS_OK) return st;
    st = json_parse(bytes, n, path, out);
    free(bytes);
    return st;
}

/* ---- objects ---- */

static bool is_control(char c) {
    return (unsigned char)c < 0x20 || c == 0x7F;
}

bool json_is_printable(const char *text) {
    while (*text && !is_control(*text))
        text++;
    return *text == '\0';
}

__attribute__((format(printf, 1, 2))) static status refuse_printable(const char *format, ...) {
    char text[STATUS_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if (is_control(*c)) *c = '?';
    return status_refuse("%s", text);
}

/* Why the item cannot be viewed, or NULL. */
static const char *object_problem(const cJSON *item, char *text, size_t bytes) {
    if (!cJSON_IsObject(item)) return "an object {...} was expected";
    const char *twice = find_duplicate(item);
    if (!twice) return NULL;
    snprintf(text, bytes, "the key \"%.100s\" occurs twice", twice);
    return text;
}

json_object json_view(const cJSON *item, const char *file) {
    char text[160];
    const char *problem = object_problem(item, text, sizeof text);
    if (problem) return (json_object){.file = file, .st = refuse_printable("%s: %s", file, problem)};
    return (json_object){.item = item, .file = file};
}

const cJSON *json_find(const json_object *object, const char *key) {
    const cJSON *item = object->item ? cJSON_GetObjectItemCaseSensitive(object->item, key) : NULL;
    return cJSON_IsNull(item) ? NULL : item;
}

json_object json_view_member(json_object *parent, const char *key) {
    char text[160];
    const cJSON *item = json_find(parent, key);
    const char *problem = object_problem(item, text, sizeof text);
    if (problem) json_refuse(parent, key, "%s", problem);
    json_object object = {.item = problem ? NULL : item, .file = parent->file, .st = parent->st};
    int n = snprintf(object.path, sizeof object.path, "%s%s.", parent->path, key);
    if (n >= (int)sizeof object.path) object.path[sizeof object.path - 2] = '.'; /* cut, still a path */
    return object;
}

void json_refuse(json_object *object, const char *key, const char *format, ...) {
    if (object->st != STATUS_OK) return;
    char text[STATUS_TEXT_BYTES / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    object->st = refuse_printable("%s: %s%.150s: %s", object->file, object->path, key, text);
    object->item = NULL;
}

/* ---- members ---- */

/* What is there instead, short enough for a message. */
static void describe(const cJSON *item, char *text, size_t bytes) {
    if (!item)
        snprintf(text, bytes, "it is missing");
    else if (cJSON_IsString(item))
        snprintf(text, bytes, "it is \"%.60s\"", item->valuestring);
    else if (cJSON_IsNumber(item) && !isfinite(item->valuedouble))
        snprintf(text, bytes, "it is not finite");
    else if (cJSON_IsNumber(item))
        snprintf(text, bytes, "it is %.17g", item->valuedouble);
    else
        snprintf(text, bytes, "it is %s",
                 cJSON_IsArray(item)    ? "an array"
                 : cJSON_IsObject(item) ? "an object"
                 : cJSON_IsTrue(item)   ? "true"
                                        : "false");
}

static void refuse_member(json_object *object, const char *key, const cJSON *item, const char *wanted) {
    char found[100];
    describe(item, found, sizeof found);
    json_refuse(object, key, "%s was expected, but %s", wanted, found);
}

bool json_item_is_int(const cJSON *item, int64_t min, int64_t max, int64_t *out) {
    if (!cJSON_IsNumber(item)) return false;
    double value = item->valuedouble;
    if (!(fabs(value) <= (double)JSON_MAX_EXACT) || value != floor(value)) return false;
    if ((int64_t)value < min || (int64_t)value > max) return false;
    *out = (int64_t)value;
    return true;
}

bool json_item_is_neutral(const cJSON *item, double neutral) {
    if (!item || cJSON_IsNull(item)) return true;
    if (cJSON_IsObject(item)) return !item->child;
    if (cJSON_IsBool(item)) return cJSON_IsTrue(item) == (neutral != 0);
    if (cJSON_IsNumber(item)) return fabs(item->valuedouble - neutral) <= 1e-6 * fabs(neutral);
    const cJSON *member;
    cJSON_ArrayForEach(member, item) if (!json_item_is_neutral(member, neutral)) return false;
    return cJSON_IsArray(item);
}

int64_t json_int(json_object *object, const char *key, int64_t min, int64_t max) {
    const cJSON *item = json_find(object, key);
    int64_t value = min;
    if (json_item_is_int(item, min, max, &value)) return value;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "an integer from %lld to %lld", (long long)min, (long long)max);
    refuse_member(object, key, item, wanted);
    return min;
}

int64_t json_int_or(json_object *object, const char *key, int64_t min, int64_t max, int64_t fallback) {
    return json_find(object, key) ? json_int(object, key, min, max) : fallback;
}

int64_t json_int64(json_object *object, const char *key) {
    const cJSON *item = json_find(object, key);
    if (!cJSON_IsString(item)) return json_int(object, key, -JSON_MAX_EXACT, JSON_MAX_EXACT);
    char text[32];
    const int64_t value = strtoll(item->valuestring, NULL, 10);
    snprintf(text, sizeof text, "%" PRId64, value);
    if (strcmp(text, item->valuestring) != 0) json_refuse(object, key, "not a whole number of 64 bits");
    return value;
}

double json_number(json_object *object, const char *key, double min, double max) {
    const cJSON *item = json_find(object, key);
    if (cJSON_IsNumber(item) && item->valuedouble >= min && item->valuedouble <= max)
        return item->valuedouble;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
    refuse_member(object, key, item, wanted);
    return min;
}

double json_number_or(json_object *object, const char *key, double min, double max, double fallback) {
    return json_find(object, key) ? json_number(object, key, min, max) : fallback;
}

bool json_bool_or(json_object *object, const char *key, bool fallback) {
    const cJSON *item = json_find(object, key);
    if (!item) return fallback;
    if (!cJSON_IsBool(item)) refuse_member(object, key, item, "true or false");
    return cJSON_IsTrue(item);
}

const char *json_text(json_object *object, const char *key) {
    const cJSON *item = json_find(object, key);
    if (cJSON_IsString(item)) return item->valuestring;
    refuse_member(object, key, item, "a text");
    return "";
}

const char *json_text_or(json_object *object, const char *key, const char *fallback) {
    return json_find(object, key) ? json_text(object, key) : fallback;
}
