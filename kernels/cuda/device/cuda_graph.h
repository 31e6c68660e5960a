/* kernels/cuda/device/cuda_graph.h: the layers of a decode step as one CUDA graph, so that a step costs the
 * host one launch. A step is recorded when its like comes for the second time. What a recorded kernel was
 * told by value must be the same for all steps with the same key; the rest it reads from the step's tables,
 * whose addresses do not change. Local. */
#pragma once

/* Of a device; NULL is fine to close. What is replayed and recorded: cuda_replay, cuda_record_end
 * (cuda_ops.h). */
struct cuda_graphs *cuda_graphs_open(void);
void cuda_graphs_close(struct cuda_graphs *graphs);
