/* tests/test_nccl_stand_in.c: tests/test_nccl.c, without GPUs. */
#define STAND_IN
#include "tests/test_nccl.c"
