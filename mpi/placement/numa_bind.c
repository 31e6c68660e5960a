/* The processors near a GPU, by hwloc where it is there (KVARVE_HAVE_HWLOC). */
#include <stdio.h>

#include "mpi/placement/gpu_choice.h"

static bool say(const char *what, char *text, size_t n) {
    snprintf(text, n, "not bound to processors near the GPU: %s", what);
    return false;
}

#ifdef KVARVE_HAVE_HWLOC

#include <hwloc.h>

/* The processors near the device that this process may use; NULL, with the reason, when that is no choice. */
static hwloc_bitmap_t find_near(hwloc_topology_t topology, const char *pci_bus_id, int *node,
                                const char **why) {
    hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, pci_bus_id);
    hwloc_obj_t parent = device ? hwloc_get_non_io_ancestor_obj(topology, device) : NULL;
    hwloc_bitmap_t mine = hwloc_bitmap_alloc(), near = NULL;
    *why = NULL;
    if (!parent || !parent->cpuset || !parent->nodeset) {
        *why = "where it is attached is not known";
    } else if (hwloc_get_cpubind(topology, mine, HWLOC_CPUBIND_PROCESS) != 0) {
        *why = "which processors are this process's own is not known";
    } else if (!hwloc_bitmap_intersects(mine, parent->cpuset)) {
        *why = "all of them are others' (see the launcher's binding)";
    } else if (hwloc_bitmap_weight(parent->nodeset) != 1) {
        *why = "it is near to all of them";
    } else {
        near = hwloc_bitmap_alloc();
        hwloc_bitmap_and(near, mine, parent->cpuset);
        *node = hwloc_bitmap_first(parent->nodeset);
    }
    hwloc_bitmap_free(mine);
    return near;
}

static bool bind_near(hwloc_topology_t topology, const char *pci_bus_id, char *text, size_t n) {
    int node = -1;
    const char *why;
    hwloc_bitmap_t near = find_near(topology, pci_bus_id, &node, &why);
    if (!near) return say(why, text, n);
    int n_near = hwloc_bitmap_weight(near);
    bool bound = hwloc_set_cpubind(topology, near, HWLOC_CPUBIND_PROCESS) == 0;
    hwloc_bitmap_free(near);
    if (!bound) return say("the system does not allow it", text, n);
    snprintf(text, n, "bound to %d processor%s of NUMA node %d", n_near, n_near == 1 ? "" : "s", node);
    return true;
}

bool gpu_choice_bind_near(const char *pci_bus_id, char *text, size_t n) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return say("hwloc does not work here", text, n);
    bool is_read = hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_ALL) == 0 &&
                   hwloc_topology_load(topology) == 0;
    bool bound =
        is_read ? bind_near(topology, pci_bus_id, text, n) : say("hwloc cannot read this machine", text, n);
    hwloc_topology_destroy(topology);
    return bound;
}

#else

bool gpu_choice_bind_near(const char *pci_bus_id, char *text, size_t n) {
    (void)pci_bus_id;
    return say("this kvarve was built without hwloc", text, n);
}

#endif
