/* src/command/version.h: what this program is, and what it was built with. Local. */
#pragma once

#include <stdio.h>

/* For `kvarve --version`: a line for each part. */
void version_print(FILE *to);
