#include "mpi/transport.h"

#include "mpi/comm_nccl.h"

const char *transport_kind_name(transport_kind kind) {
    static const char *const names[N_TRANSPORT_KINDS] = {
        [TRANSPORT_AUTO] = "auto", [TRANSPORT_MPI] = "mpi", [TRANSPORT_NCCL] = "nccl"};
    return names[kind];
}

#ifdef KVARVE_HAVE_NCCL

bool transport_nccl_is_built_in(void) {
    return true;
}

#else

bool transport_nccl_is_built_in(void) {
    return false;
}

status transport_nccl_check(comm *c, device *dev) {
    (void)c, (void)dev;
    return status_refuse("this kvarve was built without NCCL");
}

status transport_nccl_open(const transport_config *config, transport **out) {
    (void)out;
    return transport_nccl_check(config->comm, config->dev);
}

const char *transport_nccl_version(void) {
    return "none";
}

#endif

status transport_choose(comm *c, device *dev, transport_kind wanted, transport_kind *out) {
    if (wanted == TRANSPORT_MPI || (wanted == TRANSPORT_AUTO && !transport_nccl_is_built_in())) {
        *out = TRANSPORT_MPI;
        return STATUS_OK;
    }
    status st = transport_nccl_check(c, dev);
    if (st != STATUS_OK && wanted == TRANSPORT_NCCL) return status_at(st, "--transport nccl");
    *out = st == STATUS_OK ? TRANSPORT_NCCL : TRANSPORT_MPI;
    return STATUS_OK;
}

status transport_open(const transport_config *config, transport_kind kind, transport **out) {
    if (kind == TRANSPORT_NCCL) return transport_nccl_open(config, out);
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
