/* What a profiler such as Nsight Systems shows of the run: its regions, by the names of the table at the end.
 */
#include <nvtx3/nvToolsExt.h>

#include "kernels/cuda/device/cuda_ops.h"

void cuda_mark(const char *region_name) {
    nvtxRangePop(); /* of the region before; without one it does nothing */
    nvtxRangePushA(region_name);
}
