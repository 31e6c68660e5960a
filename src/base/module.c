#include "src/base/module.h"

#include <dlfcn.h>
#include <stddef.h>

bool module_exists(const char *file) {
    void *module = dlopen(file, RTLD_LAZY | RTLD_LOCAL);
    if (module) dlclose(module);
    return module != NULL;
}

status module_load(const char *file, const char *name, const void **out) {
    void *module = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    const void *found = module ? dlsym(module, name) : NULL;
    if (!found) return status_refuse("%s", dlerror());
    *out = found;
    return STATUS_OK;
}
