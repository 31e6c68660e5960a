#include "src/command/version.h"

#include "io/snapshot/manifest.h"
#include "kernels/device.h"
#include "mpi/comm.h"

void version_print(FILE *to) {
    char mpi[256], hdf5[64];
    const char *best = NULL, *isa;
    comm_describe_mpi(mpi, sizeof mpi);
    manifest_describe_hdf5(hdf5, sizeof hdf5);
    fprintf(to, "kvarve %s\n", KVARVE_VERSION);
    fprintf(to, "MPI    %s\nHDF5   %s\nCUDA   %s\nNCCL   %s\nhwloc  %s\nCPU   ", mpi, hdf5,
            KVARVE_CUDA_SUMMARY, KVARVE_NCCL_SUMMARY, KVARVE_HWLOC_SUMMARY);
    for (int i = 0; (isa = cpu_isa_name(i)); i++) {
        fprintf(to, " %s", isa);
        if (!best && cpu_isa_available(isa)) best = isa;
    }
    fprintf(to, "; here: %s\n", best ? best : "none");
}
