#include "src/base/module.h"

#include <dlfcn.h>
#include <stddef.h>

status module_load(const char *file, const char *name, const void **out) {
    void *module = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    const void *found = module ? dlsym(module, name) : NULL;
    if (!found) return status_refuse("%s", dlerror());
    *out = found;
    return STATUS_OK;
}
