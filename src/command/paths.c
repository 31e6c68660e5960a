#include "src/command/paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/files.h"
#include "io/snapshot/manifest.h"
#include "io/weights/model_dir.h"
#include "src/base/memory.h"
#include "src/command/options_private.h"

/* What option i names, if it is of this type; NULL: nothing. */
static const char *path_of(const options *o, int i, const option_type *type) {
    const option_spec *spec = &options_table[i];
    if (spec->type != type || !options_have(o, spec)) return NULL;
    return *(const char *const *)((const char *)o + spec->offset);
}

static bool names_stdin(const char *path) {
    static const char *const names[] = {"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(path, names[i])) return true;
    return false;
}

status paths_check_stdin(const comm *c, const options *o) {
    for (int i = 0; comm_size(c) > 1 && i < n_options; i++) {
        const char *path = path_of(o, i, &option_input);
        if (path && names_stdin(path))
            return status_refuse(
                "--%s %s: standard input does not come whole through every launcher: a file, "
                "with mpirun; or one rank, without it",
                options_table[i].name, path);
    }
    return STATUS_OK;
}

/* ---- what is written ---- */

static status check_apart(const options *o, const char *name, const char *path) {
    bool is_behind = false; /* of the two that write one file, one is told */
    for (int i = 0; i < n_options; i++) {
        const char *other = path_of(o, i, &option_input);
        if (!other && !is_behind) other = path_of(o, i, &option_output);
        is_behind = is_behind || !strcmp(options_table[i].name, name);
        if (!other || !strcmp(options_table[i].name, name)) continue;
        if (file_is_same(path, names_stdin(other) ? "/dev/stdin" : other) || !strcmp(path, other))
            return status_refuse("--%s %s: this is also the file of --%s: choose another name", name, path,
                                 options_table[i].name);
    }
    return STATUS_OK;
}

/* Under its name, or another that leads to it. */
static status check_model(const options *o, const char *name, const char *path) {
    status st = STATUS_OK;
    DIR *d = o->model ? opendir(o->model) : NULL;
    if (!d) return STATUS_OK; /* reading it says what is wrong */
    for (struct dirent *entry; st == STATUS_OK && (entry = readdir(d));) {
        if (!model_dir_is_name(entry->d_name)) continue;
        char *file = file_path(o->model, entry->d_name);
        if (file_is_same(path, file))
            st = status_refuse("--%s %s: this is a file of the model, %s: choose another name", name, path,
                               file);
        free(file);
    }
    closedir(d);
    return st;
}

/* Other files may lie there. */
static status check_snapshots(const options *o, const char *name, const char *path) {
    const char *const snapshots[] = {o->save, o->resume}, *slash = strrchr(path, '/');
    char *parent = slash ? mem_copy_text(path, (size_t)(slash - path) + 1) : mem_copy_text(".", 1);
    status st = STATUS_OK;
    for (int i = 0; i < 2 && st == STATUS_OK; i++)
        if (file_is_same(parent, snapshots[i]) && manifest_is_part(slash ? slash + 1 : path))
            st = status_refuse("--%s %s: this is a part of the snapshot %s: choose another name", name, path,
                               snapshots[i]);
    free(parent);
    return st;
}

/* A run that is refused leaves nothing. */
static status check_opens(const char *name, const char *path, bool is_new) {
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return status_refuse("--%s %s: cannot be written: %s", name, path, strerror(errno));
    close(fd);
    if (is_new) unlink(path);
    return STATUS_OK;
}

/* One that is missing is made. What is no file cannot be lost. */
static bool is_file(const char *path, bool *is_new) {
    struct stat info;
    *is_new = stat(path, &info) != 0;
    return *is_new || S_ISREG(info.st_mode) || S_ISDIR(info.st_mode);
}

static status check_written(const options *o, const char *name, const char *path) {
    bool is_new, is_stdout = !strcmp(path, "-") || !strcmp(path, "/dev/stdout");
    if (is_stdout) path = "/dev/stdout";
    if (!is_file(path, &is_new)) return STATUS_OK;
    status st = check_apart(o, name, path);
    if (st != STATUS_OK || is_stdout) return st;
    st = check_model(o, name, path);
    if (st == STATUS_OK) st = check_snapshots(o, name, path);
    return st == STATUS_OK ? check_opens(name, path, is_new) : st;
}

status paths_check_written(const options *o) {
    status st = o->input && !o->output ? check_written(o, "output", "-") : STATUS_OK;
    for (int i = 0; i < n_options && st == STATUS_OK; i++) {
        const char *path = path_of(o, i, &option_output);
        if (path) st = check_written(o, options_table[i].name, path);
    }
    return st;
}
