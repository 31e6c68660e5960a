/* io/codec/varve_device.h: tables and chunks of the codec kvarve as a device takes them
 * (kernels/varve_code.h): what is in their bytes is checked here, once, so that the device reads nothing that
 * is not there. Local. */
#pragma once

#include "io/codec/varve.h"

/* The tables of layers [first_layer, last_layer) for chunks of a kind: appended to `bytes`, which the caller
 * copies to where out->bytes is to be. */
void varve_image_make(const varve_tables *t, varve_kind kind, int first_layer, int last_layer,
                      text_buffer *bytes, varve_image *out);

/* The first n_planes of a chunk, none of which is trusted, as varve_decode takes them: the same, but where
 * its rooms are, and its places. */
status varve_job_make(const varve_tables *t, const varve_plane *planes, int n_planes,
                      const varve_chunk *chunk, text_buffer *bytes, varve_job *out);

/* Room that a job needs beside its bytes: components, then turns. */
size_t varve_job_room(const varve_job *job, const varve_image *image);

/* Give a job its tables, and its place there: its bytes, and its room. The verdict's is the caller's. */
void varve_job_settle(varve_job *job, const varve_image *image, const char *bytes, char *room);
