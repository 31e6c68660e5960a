#include "io/snapshot/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "io/snapshot/attempts.h"
#include "io/snapshot/manifest_private.h"
#include "io/snapshot/snapshot_lock.h"

/* ---- memory ---- */

static void free_sequence(manifest_sequence *s) {
    free(s->id);
    free(s->tokens);
    free(s->extents);
    for (int i = 0; i < s->n_stops; i++)
        free(s->stops[i]);
    free(s->stop_tokens);
    free(s->inexact);
    free(s->pages);
    free(s->prompt_text);
    free(s->text);
    free(s->logprobs);
    free(s->last_logits);
}

void manifest_free(manifest *m) {
    char *texts[] = {m->model_name,   m->model_shape, m->rope,     m->version,
                     m->command_line, m->host,        m->processor};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        free(texts[i]);
    free(m->batch.is_done);
    for (int64_t i = 0; i < m->n_sequences; i++)
        free_sequence(&m->sequences[i]);
    free(m->sequences);
    free(m->segments);
    *m = (manifest){0};
}

const segment_info *manifest_find_coded(const manifest *m) {
    for (int64_t i = 0; i < m->n_segments; i++)
        if (!kv_codec_is_exact(m->segments[i].codec)) return &m->segments[i];
    return NULL;
}

int manifest_format(const manifest *m) {
    for (int64_t i = 0; i < m->n_segments; i++)
        if (m->segments[i].has_base) return 4;
    if (manifest_find_coded(m)) return 3;
    for (int64_t i = 0; i < m->n_segments; i++)
        if (m->segments[i].is_plain) return 2;
    return 1;
}

/* The first of an extent's positions that lies in this segment; -1: none does. */
static int64_t first_in(const segment_info *s, const manifest_extent *e) {
    const int64_t begin = e->row0 > s->row0 ? e->row0 : s->row0;
    if (begin >= e->row0 + e->n_tokens || begin >= s->row0 + s->n_rows) return -1;
    return e->pos0 + (begin - e->row0);
}

/* What is not exact of some positions: the earliest is named, and whether there is any other. */
typedef struct inexact_part {
    char name[MANIFEST_INEXACT_BYTES]; /* "": none yet */
    int64_t first;
    bool has_others;
} inexact_part;

/* Is this codec in the name, in which more may follow it? */
static bool has_codec(const char *name, const char *codec) {
    const size_t n = strlen(codec);
    return strncmp(name, codec, n) == 0 && (name[n] == '\0' || name[n] == ',' || name[n] == ' ');
}

static void add_inexact(inexact_part *p, const char *name, int64_t first) {
    if (p->name[0] && !has_codec(p->name, name)) p->has_others = true;
    if (p->name[0] && first >= p->first) return;
    snprintf(p->name, sizeof p->name, "%s", name);
    p->first = first;
}

char *manifest_inexact_of(const manifest *m, const manifest_sequence *q, int64_t n_tokens, int64_t *n_exact) {
    const int most = (int)(MANIFEST_INEXACT_BYTES - sizeof MANIFEST_AND_OTHERS);
    inexact_part found = {.first = INT64_MAX};
    if (q->inexact && q->n_exact < n_tokens) add_inexact(&found, q->inexact, q->n_exact);
    for (const segment_info *s = m->segments; s < m->segments + m->n_segments; s++) {
        const kv_coding how = segment_coding(s);
        char text[KV_CODING_TEXT_BYTES];
        kv_coding_text(&how, text);
        for (const manifest_extent *e = q->extents; e < q->extents + q->n_extents; e++) {
            const int64_t first = first_in(s, e);
            if (!kv_codec_is_exact(s->codec) && first >= 0 && first < n_tokens)
                add_inexact(&found, text, first);
        }
    }
    *n_exact = found.first;
    if (!found.name[0]) return NULL;
    char *all = mem_new(MANIFEST_INEXACT_BYTES, 1);
    snprintf(all, MANIFEST_INEXACT_BYTES, "%.*s%s", most, found.name,
             found.has_others && !strstr(found.name, MANIFEST_AND_OTHERS) ? MANIFEST_AND_OTHERS : "");
    return all;
}

int64_t manifest_kv_tokens(const manifest_sequence *s) {
    if (s->n_extents == 0) return 0;
    const manifest_extent *last = &s->extents[s->n_extents - 1];
    return last->pos0 + last->n_tokens;
}

/* ---- the arrays ---- */

static const struct {
    const char *name;
    size_t element_bytes;
} array_table[N_MANIFEST_ARRAYS] = {
    [MANIFEST_TOKENS] = {"/tokens", sizeof(int32_t)},
    [MANIFEST_TEXT] = {"/text", 1},
    [MANIFEST_LOGPROBS] = {"/logprobs", sizeof(manifest_logprob)},
    [MANIFEST_IS_DONE] = {"/batch/is_done", 1},
    [MANIFEST_LAST_LOGITS] = {"/last_logits", sizeof(float)},
};

const char *manifest_array_name(manifest_array a) {
    return array_table[a].name;
}

size_t manifest_element_bytes(manifest_array a) {
    return array_table[a].element_bytes;
}

/* ---- files ---- */

char *manifest_path(const char *dir) {
    return file_path(dir, MANIFEST_NAME);
}

/* Whatever hinders looking counts as a manifest: reading it will say what is wrong, and nobody takes its
 * place for free. */
bool manifest_exists(const char *dir) {
    char *path = manifest_path(dir);
    struct stat info;
    bool exists = stat(path, &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
    free(path);
    return exists;
}

static bool is_named(const manifest *m, const char *name) {
    uint64_t digest = 0;
    const bool is_tables = kv_tables_parse_name(name, &digest);
    for (int64_t i = 0; m && i < m->n_segments; i++)
        if (is_tables ? m->segments[i].tables_digest == digest : strcmp(m->segments[i].name, name) == 0)
            return true;
    return false;
}

/* Is this the name of a segment or of tables while they are written, ".NAME.tmp"? */
static bool is_temporary(const char *name) {
    static const char end[] = ".tmp";
    const size_t n = strlen(name), n_end = sizeof end - 1;
    char inner[SEGMENT_NAME_BYTES];
    if (*name != '.' || n <= n_end + 1 || n - n_end > sizeof inner || strcmp(name + n - n_end, end) != 0)
        return false;
    memcpy(inner, name + 1, n - n_end - 1);
    inner[n - n_end - 1] = '\0';
    segment_info info;
    int64_t save_number;
    uint64_t digest;
    return segment_parse_name(inner, &info, &save_number) || kv_tables_parse_name(inner, &digest);
}

bool manifest_is_part(const char *name) {
    segment_info info;
    int64_t save_number;
    uint64_t digest;
    return segment_parse_name(name, &info, &save_number) || kv_tables_parse_name(name, &digest) ||
           is_temporary(name) || !strcmp(name, MANIFEST_NAME) || !strcmp(name, MANIFEST_TEMPORARY_NAME) ||
           !strcmp(name, MANIFEST_OLD_NAME) || !strcmp(name, ATTEMPTS_NAME) || snapshot_lock_is_name(name);
}

/* What file systems have of their own. */
static bool is_of_the_system(const char *name) {
    return !strcmp(name, ".") || !strcmp(name, "..") || !strncmp(name, ".nfs", 4) ||
           !strcmp(name, "lost+found");
}

status manifest_check_dir(const char *dir) {
    DIR *d = manifest_exists(dir) ? NULL : opendir(dir);
    status st = STATUS_OK;
    if (!d) return st;
    for (struct dirent *entry; st == STATUS_OK && (entry = readdir(d));)
        if (!manifest_is_part(entry->d_name) && !is_of_the_system(entry->d_name))
            st = status_refuse(
                "%s: is no snapshot, but a directory that holds other files (%s): choose the name "
                "of a new one",
                dir, entry->d_name);
    closedir(d);
    return st;
}

void manifest_remove_unnamed_files(const char *dir, const manifest *m) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *entry; (entry = readdir(d));) {
        segment_info info;
        int64_t save_number;
        uint64_t digest;
        const char *name = entry->d_name;
        bool can_be_named =
            segment_parse_name(name, &info, &save_number) || kv_tables_parse_name(name, &digest);
        if ((can_be_named && !is_named(m, name)) || is_temporary(name) ||
            strcmp(name, MANIFEST_TEMPORARY_NAME) == 0 || strcmp(name, MANIFEST_OLD_NAME) == 0)
            (void)unlinkat(dirfd(d), name, 0);
    }
    closedir(d);
}
