#include "mpi/transport/transport.h"

#include <string.h>

#include "mpi/transport/comm_nccl.h"

const char *transport_kind_name(transport_kind kind) {
    static const char *const names[N_TRANSPORT_KINDS] = {
        [TRANSPORT_AUTO] = "auto", [TRANSPORT_MPI] = "mpi", [TRANSPORT_NCCL] = "nccl"};
    return names[kind];
}

/* Whatever loads NCCL costs a run without GPUs time and memory. */
static status load_nccl(const device *dev, const nccl_backend **out) {
    bool is_gpu = !dev->host_memory && !strcmp(dev->ops->name, "cuda");
    if (nccl_is_built() && !is_gpu)
        return status_refuse("NCCL moves data between GPUs, and the device is %s", dev->ops->name);
    return nccl_load(out);
}

static status check_nccl(comm *c, device *dev) {
    const nccl_backend *nccl = NULL;
    status st = load_nccl(dev, &nccl);
    if (comm_any_failed(c, &st)) return st;
    return nccl->check(c, dev);
}

status transport_choose(comm *c, device *dev, transport_kind wanted, transport_kind *out) {
    if (wanted == TRANSPORT_MPI || (wanted == TRANSPORT_AUTO && !nccl_is_built())) {
        *out = TRANSPORT_MPI;
        return STATUS_OK;
    }
    status st = check_nccl(c, dev);
    if (st != STATUS_OK && wanted == TRANSPORT_NCCL) return status_at(st, "--transport nccl");
    *out = st == STATUS_OK ? TRANSPORT_NCCL : TRANSPORT_MPI;
    return STATUS_OK;
}

static status open_nccl(const transport_config *config, transport **out) {
    const nccl_backend *nccl = NULL;
    status st = nccl_load(&nccl);
    return comm_any_failed(config->comm, &st) ? st : nccl->open(config, out);
}

status transport_open(const transport_config *config, transport_kind kind, transport **out) {
    if (kind == TRANSPORT_NCCL) return open_nccl(config, out);
    transport *t = NULL;
    status st = config->dev->host_memory ? transport_mpi_open(config, &t) : transport_staged_open(config, &t);
    if (comm_any_failed(config->comm, &st)) {
        transport_close(t);
        return st;
    }
    *out = t;
    return STATUS_OK;
}

void transport_close(transport *t) {
    if (t) t->ops->close(t);
}
