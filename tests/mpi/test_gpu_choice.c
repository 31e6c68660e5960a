/* tests/mpi/test_gpu_choice.c: which GPU a rank takes, for every launcher and every list of visible ones. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/placement/gpu_choice.h"
#include "src/base/host.h"
#include "tests/fixtures/harness.h"

static comm *ranks;

static const char *const launchers[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                        "MV2_COMM_WORLD_LOCAL_RANK", "PALS_LOCAL_RANKID", "SLURM_LOCALID"};
enum { N_LAUNCHERS = sizeof launchers / sizeof *launchers };

static void forget_launcher(void) {
    for (int i = 0; i < N_LAUNCHERS; i++)
        unsetenv(launchers[i]);
}

static void told_by_the_launcher(void) {
    forget_launcher();
    CU_ASSERT(gpu_choice_launched_rank() == -1);
    for (int i = N_LAUNCHERS - 1; i >= 0; i--) { /* from the last to the first, which counts most */
        char number[8];
        snprintf(number, sizeof number, "%d", 10 + i);
        setenv(launchers[i], number, 1);
        CU_ASSERT(gpu_choice_launched_rank() == 10 + i);
    }
    static const char *const wrong[] = {"", "-1", "1x", " 1", "0x1", "1.5", "99999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv(launchers[0], wrong[i], 1);
        CU_ASSERT(gpu_choice_launched_rank() == 11);
    }
    forget_launcher();
}

/* The ranks of this test are on one host. */
static void different_on_all_ranks(void) {
    char number[8];
    int rank = comm_rank(ranks), size = comm_size(ranks);
    forget_launcher();
    CU_ASSERT(gpu_choice_local_rank(ranks) == rank);
    snprintf(number, sizeof number, "%d", size - 1 - rank);
    setenv("MPI_LOCALRANKID", number, 1);
    CU_ASSERT(gpu_choice_local_rank(ranks) == size - 1 - rank);
    forget_launcher();
    setenv("SLURM_LOCALID", "0", 1); /* the batch script's, on all */
    CU_ASSERT(gpu_choice_local_rank(ranks) == rank);
    forget_launcher();
    if (rank > 0) setenv("SLURM_LOCALID", number, 1); /* one does not know */
    CU_ASSERT(gpu_choice_local_rank(ranks) == rank);
    forget_launcher();
}

static void lists_of_visible_gpus(void) {
    static const struct {
        const char *text;
        int n;
    } right[] = {{NULL, -1},
                 {"0", 1},
                 {"3", 1},
                 {"0,1,2,3", 4},
                 {"7,0", 2},
                 {"12,1,2", 3},
                 {"GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1},
                 {"GPU-8932f937,GPU-77aa", 2},
                 {"MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f,MIG-0a", 2},
                 {"MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/2", 1}};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        int n = -2;
        CHECK_OK(gpu_choice_read_visible(right[i].text, &n));
        CU_ASSERT(n == right[i].n);
    }
    static const struct {
        const char *text, *why;
    } wrong[] = {{"", "set to nothing"},
                 {"-1", "entry 1 is \"-1\""},
                 {"0,", "entry 2 is \"\""},
                 {",0", "entry 1 is \"\""},
                 {"0,,1", "entry 2 is \"\""},
                 {"0, 1", "entry 2 is \" 1\""},
                 {"0 1", "entry 1"},
                 {"all", "entry 1 is \"all\""},
                 {"NoDevFiles", "entry 1"},
                 {"0-3", "entry 1"},
                 {"0x1", "entry 1"},
                 {"1,1", "\"1\" is listed twice"},
                 {"1,2,01", "\"01\" is listed twice"},
                 {"GPU-", "entry 1"},
                 {"GPU-a,GPU-a", "listed twice"},
                 {"gpu-8932f937", "entry 1"},
                 {"GPU-xyz", "entry 1"},
                 {"9999999", "entry 1"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int n = -2;
        CHECK_REFUSED(gpu_choice_read_visible(wrong[i].text, &n), wrong[i].why);
        CU_ASSERT(n == -2);
    }
}

static void gpus_in_turn(void) {
    int index = -1;
    unsetenv("CUDA_VISIBLE_DEVICES");
    for (int n_visible = 1; n_visible <= 8; n_visible++)
        for (int local_rank = 0; local_rank < 20; local_rank++) {
            CHECK_OK(gpu_choice_index(local_rank, n_visible, &index));
            CU_ASSERT(index == local_rank % n_visible);
        }
    CHECK_REFUSED(gpu_choice_index(0, 0, &index), "no GPU is visible on this host");

    setenv("CUDA_VISIBLE_DEVICES", "5,7", 1);
    CHECK_OK(gpu_choice_index(3, 2, &index));
    CU_ASSERT(index == 1);
    CHECK_REFUSED(gpu_choice_index(3, 1, &index), "5,7: 2 GPUs, but only 1 of them");
    CHECK_REFUSED(gpu_choice_index(3, 0, &index), "none of the GPUs of CUDA_VISIBLE_DEVICES=5,7");
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    CHECK_REFUSED(gpu_choice_index(0, 0, &index), "set to nothing");
    unsetenv("CUDA_VISIBLE_DEVICES");
    CU_ASSERT(index == 1);
}

/* No GPU is needed: any PCI device will do, if this machine shows one. */
static void bound_near_a_device(void) {
    char text[128] = "", bus[16] = "";
    CU_ASSERT(!gpu_choice_bind_near("9999:99:1f.0", text, sizeof text));
    CU_ASSERT(strstr(text, "not bound to processors near the GPU: ") == text);
    CU_ASSERT(!gpu_choice_bind_near("nonsense", text, sizeof text) && *text);
    FILE *list = popen("ls /sys/bus/pci/devices 2>/dev/null", "r");
    bool found = list && fgets(bus, sizeof bus, list);
    if (list) pclose(list);
    if (!found) return;
    bus[strcspn(bus, "\n")] = '\0';
    uint64_t before[HOST_MASK_WORDS], after[HOST_MASK_WORDS];
    int n_before = host_processor_mask(before);
    bool bound = gpu_choice_bind_near(bus, text, sizeof text);
    int n_after = host_processor_mask(after);
    if (comm_rank(ranks) == 0) printf("%s: %s\n", bus, text);
    CU_ASSERT(bound == (strstr(text, "bound to ") == text) && n_after > 0 && n_after <= n_before);
    for (int i = 0; i < HOST_MASK_WORDS; i++)
        CU_ASSERT((after[i] & ~before[i]) == 0);
}

int main(int argc, char **argv) {
    CU_TestInfo tests[] = {
        {"told by the launcher", told_by_the_launcher},   {"different on all ranks", different_on_all_ranks},
        {"lists of visible GPUs", lists_of_visible_gpus}, {"GPUs in turn", gpus_in_turn},
        {"bound near a device", bound_near_a_device},     CU_TEST_INFO_NULL,
    };
    if (comm_open(&argc, &argv, &ranks) != STATUS_OK) return 1;
    int code = harness_run(&argc, &argv, "gpu choice", tests);
    comm_close(ranks);
    return code;
}
