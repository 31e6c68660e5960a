#include "src/study/linear.h"

#include <stddef.h>

#include "src/base/module.h"

status linear_load(const linear **out) {
    const void *functions = NULL;
    status st = module_load("kvarve_linear.so", "kvarve_linear", &functions);
    if (st == STATUS_OK) *out = functions;
    return st;
}
