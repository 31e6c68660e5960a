/* src/base/module.h: parts of the program that are loaded when they are wanted: the libraries that they need
 * are large, and are not on every machine. Local. */
#pragma once

#include <stdbool.h>

#include "src/base/status.h"

/* The object called `name` of the module `file`, which stays loaded. It is looked for where the program's
 * RUNPATH says. Refuses, with the loader's reason, what cannot be loaded. Any number of times, in any
 * thread. */
status module_load(const char *file, const char *name, const void **out);

/* Whether the system's loader finds a library of this name. */
bool module_exists(const char *file);
