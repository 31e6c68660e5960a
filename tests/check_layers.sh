#!/bin/sh
# tests/check_layers.sh [--self-test | FOLDER]: who may include whom, and how long a file may be.
#
#   src/base <- kernels <- mpi <- io <- src     a file includes only from its left, by full path; tests include anything
#   a header of a library                       only in the parts that are there to hide it (the list with `hide` below)
#   600 lines                                   at most, but for tests and files that say in their first lines that they
#                                               are generated
# One line for each violation, and exit status 1 if there are any. --self-test makes one violation of each kind and sees
# that each is found.
set -eu
LC_ALL=C
export LC_ALL

check_tree() { # check_tree FOLDER
    cd "$1"
    # shellcheck disable=SC2046 # one word for each file
    set -- $(find src kernels mpi io tests jobs -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) \
        2>/dev/null | sort)
    [ $# -gt 0 ] || {
        echo "no sources in $(pwd)"
        return 1
    }
    awk '
    BEGIN {
        hide("^mpio?\\.h$", "^(mpi|io)/", "mpi/ and io/")
        hide("^(hdf5|hdf5_hl|H5[A-Za-z]*)\\.h$", "^io/", "io/")
        hide("^nccl(_.*)?\\.h$", "^mpi/comm_nccl\\.c$", "mpi/comm_nccl.c")
        hide("^(cuda|cublas|curand|cusparse|nvtx|nvml|cooperative_groups|mma|cub/|cute/|cutlass/|thrust/)",
             "^(kernels/cuda/|mpi/comm_nccl\\.c$)", "kernels/cuda/ and mpi/comm_nccl.c")
        hide("^hwloc(\\.h$|/)", "^mpi/numa_bind\\.c$", "mpi/numa_bind.c")
        hide("^(cjson/)?cJSON(_Utils)?\\.h$", "^(io/|src/tokenizer)", "io/ and src/tokenizer*")
        hide("^(oniguruma|utf8proc)\\.h$", "^src/tokenizer", "src/tokenizer*")
        hide("^xxh(ash|3)\\.h$", "^(io|src)/", "io/ and src/")
        split("src/base kernels mpi io src tests", names, " ")
        for (i = 1; i < ARGC; i++) exists[ARGV[i]] = 1
    }
    # The headers that match `headers` may be included by paths that match `home`.
    function hide(headers, paths, text) { home[headers] = paths; where[headers] = text }
    # From left to right; 0 for a path outside the house.
    function layer(path) {
        if (path ~ /^src\/base\//) return 1
        if (path ~ /^kernels\//) return 2
        if (path ~ /^mpi\//) return 3
        if (path ~ /^io\//) return 4
        if (path ~ /^src\//) return 5
        if (path ~ /^(tests|jobs)\//) return 6
        return 0
    }
    function complain(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; bad = 1 }
    function finish_file() {
        if (n_lines > 600 && layer(file) < 6 && !generated) {
            printf "%s:%d: %d lines: a file of more than 600 holds more than one idea\n", file, n_lines, n_lines
            bad = 1
        }
    }
    # The line without comments; a comment may go on in the next line.
    function uncommented(line,    at, rest) {
        if (in_comment) {
            if (!(at = index(line, "*/"))) return ""
            in_comment = 0
            line = substr(line, at + 2)
        }
        while ((at = index(line, "/*"))) {
            rest = substr(line, at + 2)
            line = substr(line, 1, at - 1)
            if (!(at = index(rest, "*/"))) { in_comment = 1; return line }
            line = line " " substr(rest, at + 2)
        }
        return line
    }
    FNR == 1 {
        finish_file()
        file = FILENAME; n_lines = generated = in_comment = 0
    }
    { n_lines = FNR }
    FNR <= 5 && /[Gg]enerated by/ { generated = 1 }
    {
        line = uncommented($0)
        if (line !~ /^[ \t]*#[ \t]*include/) next
        sub(/^[ \t]*#[ \t]*include[ \t]*/, "", line)
        quote = substr(line, 1, 1)
        name = substr(line, 2)
        if (!(quote == "<" && sub(/>.*/, "", name) || quote == "\"" && sub(/".*/, "", name))) {
            complain("an include that is no plain name: " line)
            next
        }
        for (library in home) if (name ~ library) {
            if (layer(FILENAME) < 6 && FILENAME !~ home[library])
                complain("<" name "> may be known only in " where[library] " (and in tests)")
            next
        }
        if (quote == "<") {
            if (name in exists) complain("our own \"" name "\" in angle brackets")
            next
        }
        if (!(name in exists)) {
            complain("\"" name "\" is no full path of a file here")
            next
        }
        if (layer(name) > layer(FILENAME))
            complain(names[layer(FILENAME)] " must not include " names[layer(name)] ": \"" name "\"")
    }
    END { finish_file(); exit bad }' "$@"
}

# --- The check of the check.

self_test() {
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree"/src/base "$tree"/kernels/cuda "$tree"/mpi "$tree"/io "$tree"/tests
    : >"$tree/expected"

    put() { # put FILE LINE: add a line that is right
        printf '%s\n' "$2" >>"$tree/$1"
    }
    wrong() { # wrong FILE LINE PART: add a line that must be complained of, in words that have PART
        put "$1" "$2"
        printf '%s:%d:\t%s\n' "$1" "$(wc -l <"$tree/$1")" "$3" >>"$tree/expected"
    }

    # A tree in order, with every permission used once.
    for header in src/base/b.h kernels/k.h mpi/m.h io/i.h src/s.h tests/t.h; do put $header '#pragma once'; done
    put kernels/k.h '#include "src/base/b.h"'
    put mpi/m.h '#include "kernels/k.h"'
    put io/i.h '#include "mpi/m.h"'
    put src/s.h ' # include "io/i.h" /* indented, with a comment */'
    put tests/t.h '#include "src/s.h"'
    put mpi/comm.c '#include <mpi.h>'
    put io/json.c '#include <mpi.h>'
    put io/json.c '#include <hdf5.h>'
    put io/json.c '#include <cjson/cJSON.h>'
    put src/tokenizer_load.c '#include <cjson/cJSON.h>'
    put src/tokenizer_load.c '#include <oniguruma.h>'
    put src/tokenizer_load.c '#include <utf8proc.h>'
    put kernels/cuda/device.cu '#include <cuda_runtime.h>'
    put mpi/comm_nccl.c '#include <nccl.h>'
    put mpi/comm_nccl.c '#include <cuda_runtime.h>'
    put mpi/numa_bind.c '#include <hwloc.h>'
    put tests/t.c '#include <mpi.h>'
    put tests/t.c '#include <hdf5.h>'
    put src/talk.c '/* a comment'
    put src/talk.c '#include "nowhere.h" */ int it_ends;'
    put src/table.c '/* Generated by a script. */'
    awk 'BEGIN { for (i = 0; i < 700; i++) print "" }' >>"$tree/src/table.c"
    cp "$tree/src/table.c" "$tree/tests/long.c"
    awk 'BEGIN { for (i = 0; i < 600; i++) print "" }' >"$tree/src/just.c"
    if ! (check_tree "$tree"); then
        echo "self-test: complained of a tree in order"
        return 1
    fi

    # One violation of each kind.
    wrong src/base/b.h '#include "kernels/k.h"' 'src/base must not include kernels'
    wrong src/base/b.h '#include "src/s.h"' 'src/base must not include src'
    wrong kernels/k.h '#include "mpi/m.h"' 'kernels must not include mpi'
    wrong mpi/m.h '#include "io/i.h"' 'mpi must not include io'
    wrong io/i.h '#include "src/s.h"' 'io must not include src'
    wrong src/s.h '#include "tests/t.h"' 'src must not include tests'
    wrong src/s.h '#include "s.h"' 'no full path'
    wrong src/s.h '#include "src/../io/i.h"' 'no full path'
    wrong tests/t.h '#include "t.h"' 'no full path'
    wrong src/s.h '#include "io/absent.h"' 'no full path'
    wrong src/s.h '#include <io/i.h>' 'angle brackets'
    wrong src/s.h '#include HEADER' 'no plain name'
    wrong src/s.h '/* one */ #include <mpi.h>' '<mpi.h> may be known only'
    wrong kernels/k.h '#include "mpi.h"' '<mpi.h> may be known only'
    wrong mpi/m.h '#include <hdf5.h>' '<hdf5.h> may be known only'
    wrong src/s.h '#include <H5Zpublic.h>' '<H5Zpublic.h> may be known only'
    wrong kernels/k.h '#include <cuda_runtime.h>' '<cuda_runtime.h> may be known only'
    wrong mpi/m.h '#include <cublasLt.h>' '<cublasLt.h> may be known only'
    wrong kernels/cuda/device.cu '#include <nccl.h>' '<nccl.h> may be known only'
    wrong mpi/comm.c '#include <hwloc.h>' '<hwloc.h> may be known only'
    wrong src/s.h '#include <cjson/cJSON.h>' '<cjson/cJSON.h> may be known only'
    wrong mpi/m.h '#include <cJSON.h>' '<cJSON.h> may be known only'
    wrong io/i.h '#include <oniguruma.h>' '<oniguruma.h> may be known only'
    wrong src/s.h '#include <utf8proc.h>' '<utf8proc.h> may be known only'
    wrong src/just.c '' '601 lines'

    if (check_tree "$tree") >"$tree/found"; then
        echo "self-test: violations, but the exit status says that there are none"
        return 1
    fi
    awk -F '\t' -v found="$tree/found" '
        BEGIN { while ((getline line < found) > 0) lines[++n] = line }
        {
            hits = 0
            for (i = 1; i <= n; i++) if (index(lines[i], $1) == 1 && index(lines[i], $2)) { hits++; used[i] = 1 }
            if (hits != 1) { printf "self-test: found %d times instead of once: %s %s\n", hits, $1, $2; bad = 1 }
        }
        END {
            for (i = 1; i <= n; i++) if (!used[i]) { print "self-test: not expected: " lines[i]; bad = 1 }
            if (!bad) printf "self-test: %d violations of %d found, and nothing else\n", NR, NR
            exit bad
        }' "$tree/expected"
}

case ${1-} in
--self-test) self_test ;;
-*)
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
*) check_tree "${1:-$(dirname "$0")/..}" ;;
esac
