#!/bin/sh
# tests/check_layers.sh [--self-test | FOLDER]: who may include whom, and how long a file may be.
#
#   layers                 a file includes only from its own and from those before it (`names` below), by full path;
#                          tests include anything
#   circles                no two modules include each other, not even over others; a module is NAME.h, NAME.c and
#                          NAME_private.h
#   a header of a library  only in the parts that are there to hide it (the list with `hide` below)
#   600 lines              at most, but for tests and files that say in their first lines that they are generated
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
        hide("^nccl(_.*)?\\.h$", "^mpi/transport/comm_nccl\\.c$", "mpi/transport/comm_nccl.c")
        hide("^(cuda|cublas|curand|cusparse|nvtx|nvml|cooperative_groups|mma|cub/|cute/|cutlass/|thrust/)",
             "^(kernels/cuda/|mpi/transport/comm_nccl\\.c$)", "kernels/cuda/ and mpi/transport/comm_nccl.c")
        hide("^hwloc(\\.h$|/)", "^mpi/placement/numa_bind\\.c$", "mpi/placement/numa_bind.c")
        hide("^liburing(\\.h$|/)", "^io/tier/page_file_uring\\.c$", "io/tier/page_file_uring.c")
        hide("^(cjson/)?cJSON(_Utils)?\\.h$", "^io/json\\.h$", "io/json.h")
        hide("^(oniguruma|utf8proc)\\.h$", "^src/tokenizer/", "src/tokenizer/")
        hide("^xxh(ash|3)\\.h$", "^(io|src)/", "io/ and src/")
        n_names = split("src/base kernels mpi io src/tokenizer src/model src/timing src/engine src/checkpoint " \
                        "src/command src/study src/snapshot src/generate src tests", names, " ")
        for (i = 1; i < ARGC; i++) exists[ARGV[i]] = 1
    }
    # The headers that match `headers` may be included by paths that match `home`.
    function hide(headers, paths, text) { home[headers] = paths; where[headers] = text }
    # From left to right; 0 for a path outside the house.
    function layer(path,    i) {
        if (path ~ /^jobs\//) return n_names
        for (i = 1; i <= n_names; i++) if (index(path, names[i] "/") == 1) return i
        return 0
    }
    function is_ours(path) { return layer(path) < n_names }
    function module(path) {
        sub(/\.[a-z]+$/, "", path)
        sub(/_private$/, "", path)
        return path
    }
    # Depth first: what is met again on the way to it closes a circle, which is told once.
    function visit(node,    i, n, next_ones, circle) {
        on_way[++depth] = node
        state[node] = 1
        n = split(includes_of[node], next_ones, " ")
        for (i = 1; i <= n; i++) {
            if (state[next_ones[i]] == 1) {
                circle = next_ones[i]
                for (j = depth; on_way[j] != next_ones[i]; j--) circle = on_way[j] " -> " circle
                printf "%s: a circle of modules: %s -> %s\n", next_ones[i], next_ones[i], circle
                bad = 1
            } else if (!state[next_ones[i]]) visit(next_ones[i])
        }
        state[node] = 2
        depth--
    }
    function complain(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; bad = 1 }
    function finish_file() {
        if (n_lines > 600 && is_ours(file) && !generated) {
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
            if (is_ours(FILENAME) && FILENAME !~ home[library])
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
        else if (is_ours(FILENAME) && module(name) != module(FILENAME)) {
            if (!(module(FILENAME) in includes_of)) modules[++n_modules] = module(FILENAME)
            includes_of[module(FILENAME)] = includes_of[module(FILENAME)] " " module(name)
        }
    }
    END {
        finish_file()
        for (m = 1; m <= n_modules; m++) if (!state[modules[m]]) visit(modules[m])
        exit bad
    }' "$@"
}

# --- The check of the check.

self_test() {
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree"/src/base "$tree"/src/tokenizer "$tree"/src/model "$tree"/src/engine "$tree"/kernels/cuda \
        "$tree"/io/tier "$tree"/mpi/transport "$tree"/mpi/placement "$tree"/tests
    : >"$tree/expected"

    put() { # put FILE LINE: add a line that is right
        printf '%s\n' "$2" >>"$tree/$1"
    }
    wrong() { # wrong FILE LINE PART: add a line that must be complained of, in words that have PART
        put "$1" "$2"
        printf '%s:%d:\t%s\n' "$1" "$(wc -l <"$tree/$1")" "$3" >>"$tree/expected"
    }

    # A tree in order, with every permission used once.
    for header in src/base/b.h kernels/k.h mpi/m.h io/i.h src/engine/s.h src/engine/one.h src/engine/two.h \
        src/engine/two_private.h tests/t.h; do put $header '#pragma once'; done
    put kernels/k.h '#include "src/base/b.h"'
    put mpi/m.h '#include "kernels/k.h"'
    put io/i.h '#include "mpi/m.h"'
    put src/engine/s.h ' # include "io/i.h" /* indented, with a comment */'
    put tests/t.h '#include "src/engine/s.h"'
    put mpi/comm.c '#include <mpi.h>'
    put io/json.c '#include <mpi.h>'
    put io/json.c '#include <hdf5.h>'
    put io/json.h '#include <cjson/cJSON.h>'
    put src/tokenizer/load.c '#include <oniguruma.h>'
    put src/tokenizer/load.c '#include <utf8proc.h>'
    put kernels/cuda/device.cu '#include <cuda_runtime.h>'
    put mpi/transport/comm_nccl.c '#include <nccl.h>'
    put mpi/transport/comm_nccl.c '#include <cuda_runtime.h>'
    put mpi/placement/numa_bind.c '#include <hwloc.h>'
    put io/tier/page_file_uring.c '#include <liburing.h>'
    put tests/t.c '#include <mpi.h>'
    put tests/t.c '#include <hdf5.h>'
    put src/engine/talk.c '/* a comment'
    put src/engine/talk.c '#include "nowhere.h" */ int it_ends;'
    put src/engine/table.c '/* Generated by a script. */'
    awk 'BEGIN { for (i = 0; i < 700; i++) print "" }' >>"$tree/src/engine/table.c"
    cp "$tree/src/engine/table.c" "$tree/tests/long.c"
    awk 'BEGIN { for (i = 0; i < 600; i++) print "" }' >"$tree/src/engine/just.c"
    if ! (check_tree "$tree"); then
        echo "self-test: complained of a tree in order"
        return 1
    fi

    # One violation of each kind.
    wrong src/base/b.h '#include "kernels/k.h"' 'src/base must not include kernels'
    wrong src/base/b.h '#include "src/engine/s.h"' 'src/base must not include src/engine'
    wrong kernels/k.h '#include "mpi/m.h"' 'kernels must not include mpi'
    wrong mpi/m.h '#include "io/i.h"' 'mpi must not include io'
    wrong io/i.h '#include "src/engine/s.h"' 'io must not include src/engine'
    wrong src/engine/s.h '#include "tests/t.h"' 'src/engine must not include tests'
    wrong src/engine/s.h '#include "s.h"' 'no full path'
    wrong src/engine/s.h '#include "src/../io/i.h"' 'no full path'
    wrong tests/t.h '#include "t.h"' 'no full path'
    wrong src/engine/s.h '#include "io/absent.h"' 'no full path'
    wrong src/engine/s.h '#include <io/i.h>' 'angle brackets'
    wrong src/engine/s.h '#include HEADER' 'no plain name'
    wrong src/engine/s.h '/* one */ #include <mpi.h>' '<mpi.h> may be known only'
    wrong kernels/k.h '#include "mpi.h"' '<mpi.h> may be known only'
    wrong mpi/m.h '#include <hdf5.h>' '<hdf5.h> may be known only'
    wrong src/engine/s.h '#include <H5Zpublic.h>' '<H5Zpublic.h> may be known only'
    wrong kernels/k.h '#include <cuda_runtime.h>' '<cuda_runtime.h> may be known only'
    wrong mpi/m.h '#include <cublasLt.h>' '<cublasLt.h> may be known only'
    wrong kernels/cuda/device.cu '#include <nccl.h>' '<nccl.h> may be known only'
    wrong mpi/comm.c '#include <hwloc.h>' '<hwloc.h> may be known only'
    wrong io/json.c '#include <liburing.h>' '<liburing.h> may be known only'
    wrong src/engine/s.h '#include <cjson/cJSON.h>' '<cjson/cJSON.h> may be known only'
    wrong io/i.h '#include <cJSON.h>' '<cJSON.h> may be known only'
    wrong io/i.h '#include <oniguruma.h>' '<oniguruma.h> may be known only'
    wrong src/engine/s.h '#include <utf8proc.h>' '<utf8proc.h> may be known only'
    wrong src/engine/just.c '' '601 lines'
    wrong src/model/m.c '#include "src/engine/s.h"' 'src/model must not include src/engine'
    put src/engine/one.c '#include "src/engine/two.h"'
    put src/engine/two_private.h '#include "src/engine/one.h"'
    printf 'src/engine/\ta circle of modules: src/engine/one -> src/engine/two -> src/engine/one\n' >>"$tree/expected"

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
