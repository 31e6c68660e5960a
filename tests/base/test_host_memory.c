/* tests/base/test_host_memory.c: which limits bind a process, in trees of files as systems show them, and
 * whose they are; and what each rank of this run may take. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mpi/placement/memory_share.h"
#include "src/base/host_memory.h"
#include "tests/fixtures/harness.h"

static const uint64_t mib = 1 << 20;
static comm *ranks;

/* ---- trees of files ---- */

static char root[256];

static void write_file(const char *path, const char *text);

/* An empty tree, with a host of 8000 MiB available, and nothing of Slurm. */
static void new_tree(const char *name) {
    static const char *const variables[] = {"SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU",
                                            "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    snprintf(root, sizeof root, "%s/%s", harness_temp_dir(), name);
    mkdir(root, 0700);
    write_file("/proc/meminfo",
               "MemTotal:       16384000 kB\nMemFree:          100 kB\n"
               "MemAvailable:    8192000 kB\nSwapTotal:  99999999 kB\nSwapFree:   99999999 kB\n"
               "CommitLimit:     3072000 kB\nCommitted_AS:    1024000 kB\n"
               "HugePages_Free:     1000\nHugepagesize:       2048 kB\n");
    write_file("/proc/self/statm", "25600 2560 100 10 0 12800 0\n");
}

/* A file of the tree, with all folders on the way. */
static void write_file(const char *path, const char *text) {
    char whole[1024];
    int n_root = snprintf(whole, sizeof whole, "%s", root);
    snprintf(whole + n_root, sizeof whole - (size_t)n_root, "%s", path);
    for (char *at = whole + n_root + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(whole, 0700);
        *at = '/';
    }
    harness_write_file(whole, text, strlen(text));
}

static void write_bytes(const char *dir, const char *name, uint64_t bytes) {
    char path[512], text[32];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(text, sizeof text, "%llu\n", (unsigned long long)bytes);
    write_file(path, text);
}

/* A group of version 2: limit 0 is "max". */
static void write_group(const char *dir, uint64_t limit_mib, uint64_t used_mib) {
    char path[512];
    write_bytes(dir, "memory.current", used_mib * mib);
    snprintf(path, sizeof path, "%s/memory.high", dir);
    write_file(path, "max\n");
    snprintf(path, sizeof path, "%s/memory.max", dir);
    if (limit_mib)
        write_bytes(dir, "memory.max", limit_mib * mib);
    else
        write_file(path, "max\n");
}

static void write_group_v1(const char *dir, uint64_t limit_mib, uint64_t used_mib) {
    write_bytes(dir, "memory.limit_in_bytes", limit_mib ? limit_mib * mib : 9223372036854771712u);
    write_bytes(dir, "memory.usage_in_bytes", used_mib * mib);
}

/* The limit that leaves least, which must be so much of what has this in its text. */
static host_memory_limit check_least(uint64_t room_mib, const char *part) {
    host_memory_limit limits[HOST_MEMORY_LIMITS], least = {.room = UINT64_MAX};
    int n = host_memory_limits(root, limits);
    for (int i = 0; i < n; i++)
        if (limits[i].room < least.room) least = limits[i];
    bool is_right = least.room == room_mib * mib && strstr(least.text, part);
    if (!is_right) printf("%s: %llu MiB, %s\n", part, (unsigned long long)(least.room / mib), least.text);
    CU_ASSERT(is_right);
    return least;
}

static int count_limits(void) {
    host_memory_limit limits[HOST_MEMORY_LIMITS];
    return host_memory_limits(root, limits);
}

/* ---- the host, and the process ---- */

static void test_host(void) {
    new_tree("host");
    host_memory_limit least = check_least(8000, "MemAvailable"); /* no swap, no huge pages */
    CU_ASSERT(!least.is_own && count_limits() == 1);
    write_file("/proc/sys/vm/overcommit_memory", "1\n");
    check_least(8000, "MemAvailable");
    write_file("/proc/sys/vm/overcommit_memory", "2\n");
    check_least(2000, "vm.overcommit_memory is 2");
    new_tree("nothing");
    write_file("/proc/meminfo", "MemFree: 100 kB\n");
    CU_ASSERT(count_limits() == 0);
}

static void test_process(void) {
    static const struct {
        int resource;
        const char *part;
        uint64_t used_mib; /* of the tree's statm, of pages of 4 KiB */
    } rows[] = {{RLIMIT_AS, "ulimit -v", 100}, {RLIMIT_DATA, "ulimit -d", 50}};
    long page_kib = sysconf(_SC_PAGESIZE) / 1024;
    if (harness_is_slow()) {
        harness_skip("a sanitizer has terabytes of addresses: below such a limit it can map nothing");
        return;
    }
    new_tree("process");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct rlimit before, low;
        getrlimit(rows[i].resource, &before);
        low = before;
        low.rlim_cur = 7000 * mib;
        if (before.rlim_cur < low.rlim_cur || setrlimit(rows[i].resource, &low) != 0) {
            harness_skip("this process has a smaller limit already, or may not have one");
            return;
        }
        host_memory_limit least = check_least(7000 - rows[i].used_mib * (uint64_t)page_kib / 4, rows[i].part);
        CU_ASSERT(least.is_own);
        setrlimit(rows[i].resource, &before);
    }
}

/* ---- control groups ---- */

static const char mount_v2[] =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

static void test_nested(void) {
    const char *job = "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7";
    new_tree("nested");
    write_file("/proc/self/mountinfo", mount_v2);
    write_file("/proc/self/cgroup", "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n");
    write_group("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/user/task_0", 0, 10);
    write_group("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0", 4000, 10);
    write_group("/sys/fs/cgroup/system.slice", 0, 5000);
    check_least(3990, "job_7/step_0/memory.max (4000.0 MiB, of which 10.0 are used)");
    write_group(job, 3000, 1000); /* what other steps of the job use is used */
    host_memory_limit of_job = check_least(2000, "slurmstepd.scope/job_7/memory.max");
    CU_ASSERT(!of_job.is_own && of_job.key[0] != 0);
    write_group(job, 3000, 3500); /* over the limit already: nothing, not a negative number */
    check_least(0, "job_7/memory.max");
    write_group(job, 3000, 1000);
    write_bytes(job, "memory.high", 2500 * mib);
    check_least(1500, "job_7/memory.high");
    write_group("/sys/fs/cgroup/system.slice", 5500, 5000);
    check_least(500, "system.slice/memory.max");
    /* Others are not ours. */
    write_group("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_8", 10, 9);
    write_group("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_1", 10, 9);
    check_least(500, "system.slice/memory.max");
}

/* The page cache goes when memory is wanted; what is in /dev/shm, and what programs hold, does not. */
static void test_cache(void) {
    new_tree("cache");
    write_file("/proc/self/mountinfo", mount_v2);
    write_file("/proc/self/cgroup", "0::/a\n");
    write_group("/sys/fs/cgroup/a", 1000, 900);
    write_file(
        "/sys/fs/cgroup/a/memory.stat",
        "anon 104857600\nfile 943718400\nshmem 104857600\ninactive_anon 209715200\ninactive_file 419430400\n"
        "active_file 209715200\nunevictable 1048576\nslab_reclaimable 104857600\nworkingset_refault_file "
        "5\n");
    check_least(800, "of which 200.0 are used");
    /* More cache than there is used: the figures are not of one moment. */
    write_group("/sys/fs/cgroup/a", 1000, 100);
    check_least(1000, "a/memory.max");

    new_tree("cache_v1");
    write_file("/proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    write_file("/proc/self/cgroup", "4:memory:/a\n");
    write_group_v1("/sys/fs/cgroup/memory/a", 1000, 900);
    write_file("/sys/fs/cgroup/memory/a/memory.stat", /* groups below count too: total_ */
               "cache 1\ninactive_file 1048576\nactive_file 1048576\ntotal_inactive_file 419430400\n"
               "total_active_file 209715200\ntotal_shmem 104857600\n");
    check_least(700, "of which 300.0 are used");
}

static void test_v1(void) {
    const char *job = "/sys/fs/cgroup/memory/slurm/uid_0/job_7";
    new_tree("v1");
    write_file("/proc/self/mountinfo",
               "25 30 0:22 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
               "26 30 0:23 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n"
               "27 30 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
               "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
    write_file("/proc/self/cgroup", "11:cpu,cpuacct:/elsewhere\n10:memory:/slurm/uid_0/job_7/step_batch\n"
                                    "1:name=systemd:/system.slice\n0::/system.slice\n");
    write_group_v1("/sys/fs/cgroup/memory/slurm/uid_0/job_7/step_batch", 0, 50);
    write_group_v1("/sys/fs/cgroup/memory", 0, 9999);
    write_group_v1("/sys/fs/cgroup/cpu,cpuacct/elsewhere", 1, 1);
    check_least(8000, "MemAvailable");
    write_group_v1(job, 600, 100);
    check_least(500, "/sys/fs/cgroup/memory/slurm/uid_0/job_7/memory.limit_in_bytes");
    /* With what lies in swap less is left of memory and swap together. */
    write_bytes(job, "memory.memsw.limit_in_bytes", 600 * mib);
    write_bytes(job, "memory.memsw.usage_in_bytes", 300 * mib);
    check_least(300, "job_7/memory.memsw.limit_in_bytes");
}

/* A container: what it is called outside, and what it sees. */
static void test_containers(void) {
    new_tree("namespace"); /* of its own: everything begins at its group */
    write_file("/proc/self/mountinfo", mount_v2);
    write_file("/proc/self/cgroup", "0::/\n");
    write_group("/sys/fs/cgroup", 512, 12);
    check_least(500, "/sys/fs/cgroup/memory.max");

    new_tree("shown"); /* no namespace, but only its part of the hierarchy is mounted */
    write_file("/proc/self/mountinfo",
               "9 1 0:32 /docker/5f\\040a\\134x2d /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    write_file("/proc/self/cgroup", "4:memory:/docker/5f a\\x2d/inner\n");
    write_group_v1("/sys/fs/cgroup/memory/inner", 700, 0);
    check_least(700, "memory/inner/memory.limit_in_bytes");
    write_group_v1("/sys/fs/cgroup/memory", 600, 0);
    check_least(600, "/sys/fs/cgroup/memory/memory.limit_in_bytes");

    new_tree("other_part"); /* a part that it is not named by: only the top of that counts */
    write_file("/proc/self/mountinfo",
               "9 1 0:32 /docker/5fa /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    write_file("/proc/self/cgroup", "4:memory:/docker/5fab/inner\n");
    write_group_v1("/sys/fs/cgroup/memory", 600, 0);
    write_group_v1("/sys/fs/cgroup/memory/inner", 10, 0);
    write_group_v1("/sys/fs/cgroup/memoryb/inner", 10, 0);
    check_least(600, "/sys/fs/cgroup/memory/memory.limit_in_bytes");
}

/* Nothing of it is trusted to be there, short, or well formed. */
static void test_odd_files(void) {
    char line[6000];
    new_tree("odd");
    write_file("/proc/self/cgroup", "0::/gone/away\nnonsense\n7:\n");
    write_file("/proc/self/mountinfo", "nonsense\n - cgroup2\n30 23 0:26 / /nowhere rw - cgroup2\n");
    CU_ASSERT(count_limits() == 1);
    write_file("/proc/self/mountinfo", mount_v2); /* only what is above the group is there */
    write_group("/sys/fs/cgroup/gone", 300, 0);
    check_least(300, "/gone/memory.max");
    write_bytes("/sys/fs/cgroup/gone", "memory.max", 0); /* a number, and it says what it says */
    check_least(0, "/gone/memory.max");
    memset(line, 'x', sizeof line - 1);
    memcpy(line, "0::/", 4);
    line[sizeof line - 1] = '\0';
    write_file("/proc/self/cgroup", line);
    CU_ASSERT(count_limits() >= 1);
    /* Deeper than there is place for. */
    int n = snprintf(line, sizeof line, "0::");
    for (int i = 0; i < 60; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, "/d");
    write_file("/proc/self/cgroup", line);
    char dir[512];
    for (int i = 60; i > 0; i--) {
        snprintf(dir, sizeof dir, "/sys/fs/cgroup%.*s", 2 * i, line + 3);
        write_group(dir, 400, 0);
    }
    CU_ASSERT(count_limits() == HOST_MEMORY_LIMITS);
}

/* ---- Slurm ---- */

static void test_slurm(void) {
    static const struct {
        const char *variable, *value, *count, *count_value;
        uint64_t room_mib;
        const char *part;
    } rows[] = {
        {"SLURM_MEM_PER_NODE", "3000", NULL, NULL, 3000, "Slurm's --mem (SLURM_MEM_PER_NODE=3000)"},
        {"SLURM_MEM_PER_NODE", "2G", NULL, NULL, 2048, "SLURM_MEM_PER_NODE=2G"},
        {"SLURM_MEM_PER_NODE", "0", NULL, NULL, 8000, "MemAvailable"}, /* all that the node has */
        {"SLURM_MEM_PER_NODE", "much", NULL, NULL, 8000, "MemAvailable"},
        {"SLURM_MEM_PER_CPU", "500", "SLURM_CPUS_ON_NODE", "4", 2000,
         "SLURM_MEM_PER_CPU=500, SLURM_CPUS_ON_NODE=4"},
        {"SLURM_MEM_PER_CPU", "500", NULL, NULL, 8000, "MemAvailable"}, /* of how many is not known */
        {"SLURM_MEM_PER_GPU", "1000", "SLURM_GPUS_ON_NODE", "3", 3000, "Slurm's --mem-per-gpu"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        new_tree("slurm");
        setenv(rows[i].variable, rows[i].value, 1);
        if (rows[i].count) setenv(rows[i].count, rows[i].count_value, 1);
        check_least(rows[i].room_mib, rows[i].part);
    }
    new_tree("end");
}

/* ---- ranks ---- */

/* On this host, whatever binds here: all ranks get the same, and together not more than is there. */
static void test_shares(void) {
    memory_share share = memory_share_find(ranks), alone = memory_share_of_host(1);
    memory_share first = share;
    comm_broadcast(ranks, &first, sizeof first, 0);
    CU_ASSERT(!memcmp(&first, &share, sizeof share));
    CU_ASSERT(share.bytes > 0 && share.bytes < UINT64_MAX && strstr(share.text, " leaves "));
    /* Memory comes and goes meanwhile; ranks that share it get a part. */
    CU_ASSERT((double)share.bytes * comm_node_size(ranks) < 1.5 * (double)alone.bytes);
    char part[64];
    snprintf(part, sizeof part, " leaves each of %d ranks there", comm_node_size(ranks));
    CU_ASSERT_PTR_NOT_NULL(strstr(share.text, comm_node_size(ranks) > 1 ? part : " leaves a rank"));
}

/* Slurm's limit is one for all ranks of the host, that of a process for one. */
static void test_who_shares(void) {
    int n = comm_node_size(ranks);
    setenv("SLURM_MEM_PER_NODE", "12", 1);
    memory_share share = memory_share_find(ranks), planned = memory_share_of_host(3);
    CU_ASSERT(share.bytes == 12 * mib / (uint64_t)n && planned.bytes == 4 * mib);
    CU_ASSERT(strstr(share.text, "Slurm's --mem") && strstr(planned.text, "each of 3 ranks there"));
    unsetenv("SLURM_MEM_PER_NODE");
}

/* Only the last rank has one: its share is everybody's, and whole. */
static void test_own_limit(void) {
    const uint64_t room = (harness_is_slow() ? 1024 : 64) * mib; /* a sanitizer may need some at any time */
    struct rlimit before, low;
    unsigned long data = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    int n_read = f ? fscanf(f, "%*u %*u %*u %*u %*u %lu", &data) : 0;
    if (f) fclose(f);
    getrlimit(RLIMIT_DATA, &before);
    low = before;
    low.rlim_cur = data * (uint64_t)sysconf(_SC_PAGESIZE) + room;
    bool is_last = comm_rank(ranks) == comm_size(ranks) - 1;
    int64_t is_possible = n_read == 1 && memory_share_of_host(comm_size(ranks)).bytes > room;
    if (comm_min(ranks, is_possible) == 0) {
        harness_skip("too little memory is left here");
        return;
    }
    if (is_last) setrlimit(RLIMIT_DATA, &low);
    memory_share share = memory_share_find(ranks);
    if (is_last) setrlimit(RLIMIT_DATA, &before);
    CU_ASSERT(share.bytes > room / 2 && share.bytes <= room);
    CU_ASSERT(strstr(share.text, "ulimit -d") && strstr(share.text, " leaves a rank"));
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"the host", test_host},
        {"the process", test_process},
        {"groups in groups", test_nested},
        {"the page cache", test_cache},
        {"version 1", test_v1},
        {"containers", test_containers},
        {"odd files", test_odd_files},
        {"Slurm", test_slurm},
        {"shares of ranks", test_shares},
        {"who shares a limit", test_who_shares},
        {"a limit of one rank", test_own_limit},
        CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "host_memory", tests);
    comm_close(ranks);
    return code;
}
