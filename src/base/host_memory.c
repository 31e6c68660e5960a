#include "src/base/host_memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Second keys of limits that are no group's: a group's are the numbers of its device, never 0, and inode. */
enum { KEY_HOST, KEY_SLURM };

typedef struct limit_list {
    const char *root;
    host_memory_limit *limits;
    int n;
} limit_list;

/* The next limit, to be filled; NULL: there is no place for more. */
static host_memory_limit *add(limit_list *list, uint64_t limit, uint64_t used) {
    if (list->n == HOST_MEMORY_LIMITS) return NULL;
    host_memory_limit *l = &list->limits[list->n++];
    *l = (host_memory_limit){.room = limit > used ? limit - used : 0, .key = {0, KEY_HOST}};
    return l;
}

static double mib(uint64_t bytes) {
    return (double)bytes / (1024.0 * 1024);
}

static FILE *open_at(const char *root, const char *dir, const char *name) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s%s/%s", root, dir, name);
    return n < (int)sizeof path ? fopen(path, "r") : NULL;
}

/* The number in a file of one number; UINT64_MAX when there is none ("max"). */
static uint64_t read_number(const char *root, const char *dir, const char *name) {
    uint64_t value = UINT64_MAX;
    FILE *f = open_at(root, dir, name);
    if (!f) return UINT64_MAX;
    if (fscanf(f, "%" SCNu64, &value) != 1) value = UINT64_MAX;
    fclose(f);
    return value;
}

/* ---- the host ---- */

static void add_host(limit_list *list) {
    uint64_t available = UINT64_MAX, may_be_committed = UINT64_MAX, committed = 0, kib;
    char line[256];
    FILE *f = open_at(list->root, "/proc", "meminfo");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1) available = kib * 1024;
        if (sscanf(line, "CommitLimit: %" SCNu64 " kB", &kib) == 1) may_be_committed = kib * 1024;
        if (sscanf(line, "Committed_AS: %" SCNu64 " kB", &kib) == 1) committed = kib * 1024;
    }
    if (f) fclose(f);
    host_memory_limit *l = available == UINT64_MAX ? NULL : add(list, available, 0);
    if (l) snprintf(l->text, sizeof l->text, "MemAvailable (/proc/meminfo)");
    /* Where nothing may be promised twice, an allocation counts before it is touched. */
    if (read_number(list->root, "/proc/sys/vm", "overcommit_memory") != 2) return;
    l = may_be_committed == UINT64_MAX ? NULL : add(list, may_be_committed, committed);
    if (l)
        snprintf(l->text, sizeof l->text,
                 "CommitLimit (/proc/meminfo: %.1f MiB, of which %.1f are promised, "
                 "as vm.overcommit_memory is 2)",
                 mib(may_be_committed), mib(committed));
}

/* ---- control groups ---- */

/* How a version's files are called. */
typedef struct group_version {
    const char *mount_type, *controller; /* of /proc/self/mountinfo and /proc/self/cgroup */
    const char *limits[2], *used[2];
    const char *stat_prefix; /* of the lines of memory.stat that count the groups below too */
} group_version;

/* Beyond memory.high a group is slowed down until it stands still. memsw is memory and swap together. */
static const group_version versions[] = {
    {"cgroup2", "", {"memory.max", "memory.high"}, {"memory.current", "memory.current"}, ""},
    {"cgroup",
     "memory",
     {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
     {"memory.usage_in_bytes", "memory.memsw.usage_in_bytes"},
     "total_"},
};

/* What the group counts as used, but would give back: the pages of files. Those of /dev/shm are not among
 * them. */
static uint64_t reclaimable_bytes(const char *root, const char *dir, const group_version *v) {
    static const char *const names[] = {"active_file", "inactive_file", "slab_reclaimable"};
    uint64_t sum = 0, value;
    char line[256], name[128];
    size_t n = strlen(v->stat_prefix);
    FILE *f = open_at(root, dir, "memory.stat");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%127s %" SCNu64, name, &value) != 2 || strncmp(name, v->stat_prefix, n)) continue;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (!strcmp(name + n, names[i])) sum += value;
    }
    if (f) fclose(f);
    return sum;
}

static void add_group(limit_list *list, const char *dir, const group_version *v) {
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "%s%s", list->root, dir);
    if (stat(path, &info) != 0) return;
    for (int i = 0; i < 2; i++) {
        uint64_t limit = read_number(list->root, dir, v->limits[i]);
        uint64_t used = read_number(list->root, dir, v->used[i]);
        if (limit >= INT64_MAX / 2) continue; /* v1 writes none as a number that is nearly 2^63 */
        if (used == UINT64_MAX) used = 0;
        uint64_t cache = reclaimable_bytes(list->root, dir, v);
        used -= cache < used ? cache : used;
        host_memory_limit *l = add(list, limit, used);
        if (!l) return;
        l->key[0] = (uint64_t)info.st_dev;
        l->key[1] = (uint64_t)info.st_ino;
        size_t n = strlen(dir), n_left_out = n > 300 ? n - 300 : 0;
        snprintf(l->text, sizeof l->text, "%s%.300s/%s (%.1f MiB, of which %.1f are used)",
                 n_left_out ? "..." : "", dir + n_left_out, v->limits[i], mib(limit), mib(used));
    }
}

/* Is the word in a list with commas between? */
static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; *at; at += *at == ',') {
        size_t length = strcspn(at, ",");
        if (length == n && !strncmp(at, word, n)) return true;
        at += length;
    }
    return n == 0 && !*list;
}

/* The group of this process, as /proc/self/cgroup names it ("ID:CONTROLLERS:PATH"); false: there is none. */
static bool find_own_group(const char *root, const group_version *v, char path[PATH_MAX]) {
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    FILE *f = open_at(root, "/proc/self", "cgroup");
    while (f && !found && getline(&line, &room, f) > 0) {
        char *controllers = strchr(line, ':'), *at = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!at) continue;
        *at++ = '\0';
        at[strcspn(at, "\n")] = '\0';
        found = has_word(controllers + 1, v->controller);
        if (found) snprintf(path, PATH_MAX, "%s", at);
    }
    free(line);
    if (f) fclose(f);
    return found;
}

/* mountinfo writes blanks and the like as \040. */
static void unescape(char *text) {
    char *to = text;
    for (const char *at = text; *at; to++) {
        unsigned code;
        if (*at == '\\' && sscanf(at + 1, "%3o", &code) == 1) {
            *to = (char)code;
            at += 4;
        } else {
            *to = *at++;
        }
    }
    *to = '\0';
}

/* The group and all above it, as far as they can be seen below `mount`, which shows `top` of the hierarchy.
 */
static void add_groups(limit_list *list, const char *mount, const char *top, const char *own,
                       const group_version *v) {
    char dir[PATH_MAX];
    size_t n_top = strcmp(top, "/") ? strlen(top) : 0, n_mount = strlen(mount);
    bool is_below = !strncmp(own, top, n_top) && (own[n_top] == '/' || !own[n_top]);
    /* A container may see another part of the hierarchy than it is named by: then only the top of that. */
    const char *rest = is_below && strcmp(own + n_top, "/") ? own + n_top : "";
    if (snprintf(dir, sizeof dir, "%s%s", mount, rest) >= (int)sizeof dir) return;
    for (;;) {
        add_group(list, dir, v);
        char *last = strrchr(dir, '/');
        if (!last || (size_t)(last - dir) < n_mount) return;
        *last = '\0';
    }
}

/* The mounts of a version: "ID PARENT DEVICE TOP MOUNT OPTIONS ... - TYPE SOURCE SUPER-OPTIONS". */
static void add_version(limit_list *list, const group_version *v) {
    char own[PATH_MAX], top[PATH_MAX], mount[PATH_MAX], type[64], options[256], *line = NULL;
    size_t room = 0;
    if (!find_own_group(list->root, v, own)) return;
    FILE *f = open_at(list->root, "/proc/self", "mountinfo");
    while (f && getline(&line, &room, f) > 0) {
        const char *behind = strstr(line, " - ");
        if (!behind || strlen(line) >= PATH_MAX || sscanf(line, "%*s %*s %*s %s %s", top, mount) != 2)
            continue;
        if (sscanf(behind, " - %63s %*s %255s", type, options) != 2 || strcmp(type, v->mount_type)) continue;
        if (*v->controller && !has_word(options, v->controller)) continue;
        unescape(top);
        unescape(mount);
        add_groups(list, mount, top, own, v);
    }
    free(line);
    if (f) fclose(f);
}

/* ---- Slurm, which may watch without control groups ---- */

/* A number of MiB, or of what is named behind it; 0: none. */
static uint64_t slurm_bytes(const char *variable) {
    const char *text = getenv(variable), *units = "KMGT";
    char *end;
    if (!text || *text < '0' || *text > '9') return 0;
    uint64_t n = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, *end & ~0x20) : units + 1;
    return unit && n < (uint64_t)1 << 23 ? n << 10 * (unit - units + 1) : 0;
}

/* What the job may take on this node: --mem as it is (0: all there is), the others times what it has here. */
static void add_slurm(limit_list *list) {
    static const struct {
        const char *memory, *count, *what;
    } rules[] = {
        {"SLURM_MEM_PER_NODE", NULL, "--mem"},
        {"SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE", "--mem-per-cpu"},
        {"SLURM_MEM_PER_GPU", "SLURM_GPUS_ON_NODE", "--mem-per-gpu"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const char *count = rules[i].count ? getenv(rules[i].count) : "1";
        uint64_t n = count ? strtoull(count, NULL, 10) : 0, bytes = slurm_bytes(rules[i].memory);
        host_memory_limit *l = bytes && n && n < 65536 ? add(list, bytes * n, 0) : NULL;
        if (!l) continue;
        l->key[1] = KEY_SLURM;
        int used = snprintf(l->text, sizeof l->text, "Slurm's %s (%s=%.20s", rules[i].what, rules[i].memory,
                            getenv(rules[i].memory));
        if (rules[i].count)
            snprintf(l->text + used, sizeof l->text - (size_t)used, ", %s=%.20s)", rules[i].count, count);
        else
            snprintf(l->text + used, sizeof l->text - (size_t)used, ")");
    }
}

/* ---- the process ---- */

static void add_own(limit_list *list) {
    enum { ADDRESSES = 0, DATA = 5, N_FIELDS = 6 }; /* of /proc/self/statm, in pages */
    static const struct {
        int resource, field;
        const char *text;
    } rules[] = {
        {RLIMIT_AS, ADDRESSES, "addresses of a process (ulimit -v)"},
        {RLIMIT_DATA, DATA, "data of a process (ulimit -d)"},
    };
    uint64_t pages[N_FIELDS] = {0}, page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *f = open_at(list->root, "/proc/self", "statm");
    for (int i = 0; f && i < N_FIELDS; i++)
        if (fscanf(f, "%" SCNu64, &pages[i]) != 1) pages[i] = 0;
    if (f) fclose(f);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        struct rlimit limit;
        if (getrlimit(rules[i].resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) continue;
        uint64_t used = pages[rules[i].field] * page_bytes;
        host_memory_limit *l = add(list, limit.rlim_cur, used);
        if (!l) return;
        l->is_own = true;
        snprintf(l->text, sizeof l->text, "the limit of %s (%.1f MiB, of which %.1f are used)", rules[i].text,
                 mib(limit.rlim_cur), mib(used));
    }
}

int host_memory_limits(const char *root, host_memory_limit out[HOST_MEMORY_LIMITS]) {
    limit_list list = {root, out, 0};
    add_host(&list);
    add_own(&list);
    add_slurm(&list);
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        add_version(&list, &versions[i]);
    return list.n;
}
