#include "mpi/transport/comm_nccl.h"
#include "src/base/module.h"

#ifdef KVARVE_HAVE_NCCL

bool nccl_is_built(void) {
    return true;
}

status nccl_load(const nccl_backend **out) {
    const void *backend = NULL;
    status st = module_load("kvarve_nccl.so", "kvarve_nccl_backend", &backend);
    if (st != STATUS_OK) return status_at(st, "NCCL cannot be loaded");
    *out = backend;
    return STATUS_OK;
}

#else

bool nccl_is_built(void) {
    return false;
}

status nccl_load(const nccl_backend **out) {
    (void)out;
    return status_refuse("this kvarve was built without NCCL");
}

#endif
