/* tests/mpi/test_nccl_stand_in.c: tests/mpi/test_nccl.c, without GPUs. */
#define STAND_IN
#include "tests/mpi/test_nccl.c"
