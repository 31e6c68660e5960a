/* mpi/placement/gpu_choice.h: which GPU of its host a rank takes, and which processors are near it.
 *
 * The ranks of a host take its GPUs in turn: rank i among them takes GPU i modulo the number of GPUs that it
 * sees. A launcher that shows each rank one GPU of its own (CUDA_VISIBLE_DEVICES) is served by the same rule.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "mpi/comm.h"

/* This process's number among those of its host, as the launcher says it in the environment (Open MPI, MPICH
 * and its kin, MVAPICH2, PALS, Slurm, in this order); -1 when none does. Local. */
int gpu_choice_launched_rank(void);

/* The same, on all ranks of a host different: what the launcher says, or where it says nothing, or two ranks
 * the same, what MPI says. Collective. */
int gpu_choice_local_rank(comm *c);

/* CUDA_VISIBLE_DEVICES as the runtime reads it: numbers, or names that begin with GPU- or MIG-, with commas
 * between. *n_listed is how many, -1 when `text` is NULL (all GPUs are visible). Refuses a list that is
 * empty, malformed, or has one twice, where the runtime would show fewer GPUs or none without a word. Local.
 */
status gpu_choice_read_visible(const char *text, int *n_listed);

/* The GPU, as the runtime counts, of this host's rank local_rank, when the runtime shows n_visible of them.
 * Refuses when there is none, and when CUDA_VISIBLE_DEVICES is wrong or lists more than that. Local. */
status gpu_choice_index(int local_rank, int n_visible, int *index);

/* Bind all threads of this process to those of its processors that are near the PCI device ("0000:17:00.0").
 * Writes into text (at most n bytes) what was done, "bound to 16 processors of NUMA node 1", or why nothing
 * was. True when it is bound. Local. */
bool gpu_choice_bind_near(const char *pci_bus_id, char *text, size_t n);
