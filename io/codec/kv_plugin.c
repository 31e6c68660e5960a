/* The filter as a shared library that HDF5 programs find through HDF5_PLUGIN_PATH. */
#include <H5PLextern.h>

#include "io/codec/kv_filter.h"

__attribute__((visibility("default"))) H5PL_type_t H5PLget_plugin_type(void) {
    return H5PL_TYPE_FILTER;
}

__attribute__((visibility("default"))) const void *H5PLget_plugin_info(void) {
    return &kv_filter_class;
}
