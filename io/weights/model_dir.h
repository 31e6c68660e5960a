/* io/weights/model_dir.h: what was given as a model's directory, when a file of a model is not in it. Local.
 */
#pragma once

#include <stdbool.h>

#include "src/base/status.h"

/* Is it the name of a file that makes a directory that of a model? */
bool model_dir_is_name(const char *name);

/* Refuse the path for the file that is missing in it ("config.json", for the message), and say what it seems
 * to be instead (a model's name, a cache, a snapshot, an adapter, another format) and what to do. */
status model_dir_refuse(const char *dir, const char *missing);
