/* io/weights/weights.h: tensors of a Hugging Face model directory, read from safetensors.
 *
 * One file (model.safetensors) or shards with model.safetensors.index.json. Opening reads and checks the
 * headers only; nothing in them is trusted: offsets, sizes, shapes, dtypes, overlaps, duplicate names and
 * depth are checked. Format: 8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape,
 * data_offsets: [begin, end]}}, then the data, offsets counted from its begin. All functions are Local; an
 * open handle belongs to one thread.
 *
 * Or the tensors of a synthetic model, which are made when they are read. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/synthetic/synthetic.h"
#include "io/weights/tensor.h"
#include "src/base/status.h"

typedef struct weights weights;

/* Open the directory's files, each once. Refuses, naming the file and the tensor. An index says which shards
 * there are, and all their tensors exist, as in transformers: of one that several have, the last is read,
 * with a NOTE. What it names and no file has is refused by weights_expect only, as are tensors of other
 * dtypes than f32, bf16 and f16; the other functions do not see them. A NOTE too where there are both one
 * file, which is read, and an index. */
status weights_open(const char *model_dir, weights **out);

/* These tensors of a synthetic model, the same as those of the files that synthetic_files.h writes, made by
 * n_threads when they are read. Nothing is read from a disk. */
weights *weights_open_synthetic(const synthetic_model *m, const synthetic_tensor *tensors, size_t n_tensors,
                                int n_threads);

void weights_close(weights *w); /* NULL is fine */

/* The directory, or the synthetic model's name; owned by the handle. */
const char *weights_dir(const weights *w);

/* The tensor of this name, or NULL. */
const tensor *weights_find(const weights *w, const char *name);

/* The tensor of this name with exactly this shape (n_cols == 0: one dimension), or a refusal that says what
 * is there. */
status weights_expect(const weights *w, const char *name, int64_t n_rows, int64_t n_cols, const tensor **out);

/* Whether the two tensors are of one dtype and shape and hold the same bytes; reads both as far as they do.
 */
status weights_compare(weights *w, const tensor *a, const tensor *b, bool *same);

/* The names of all tensors that the files have, of any dtype, in order. */
size_t weights_n_names(const weights *w);
const char *weights_name(const weights *w, size_t i);

/* All tensors that can be read in order of (file, offset). */
size_t weights_count(const weights *w);
const tensor *weights_at(const weights *w, size_t i);

/* Read elements [first, first + n) of the tensor into dst (n * dtype_bytes(type), aligned for the type), in
 * large sequential reads. Refuses a short file and a NaN or infinity, naming the tensor and the element. */
status weights_read(weights *w, const tensor *t, int64_t first, int64_t n, void *dst);

/* For devices that make weights themselves: the tensor's elements, which then count as made, are those of
 * *out. False: they must be read. */
bool weights_take_stream(weights *w, const tensor *t, level_stream *out);

/* Bytes of tensor data read, or made, so far through this handle. */
uint64_t weights_bytes_read(const weights *w);
