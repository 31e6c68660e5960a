/* io/codec/kv_tables_search.h: tables for programs that read our files through HDF5's filter, which knows
 * neither the file nor what else there is: they lie beside the file, as every snapshot keeps its tables.
 * Tables that were found stay, as HDF5 has no end of a filter's use: state of the process. Local. */
#pragma once

#include "io/codec/kv_tables.h"

/* Tables of this digest: the file that KVARVE_TABLES names, or one by its name (kv_tables_name) in the folder
 * that it names, or in that of a file which this process has open. NULL: there are none; the first time, a
 * line on stderr says so. From any thread. */
const kv_tables *kv_tables_search(uint64_t digest);
