#!/bin/sh
# tests/command/test_readme.sh REPOSITORY KVARVE: run every example of README.md as it stands, with KVARVE as
# build/kvarve, but for /tmp: a folder of its own has that part.
set -u
repository=$1 kvarve=$2
. "$repository/jobs/mpi_env.sh"
mpi_env 3 # the most ranks of an example
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The examples see the repository's files, and this build.
mkdir "$work/top" "$work/top/build"
for entry in "$repository"/*; do
    [ "$(basename "$entry")" = build ] || ln -s "$entry" "$work/top/"
done
ln -s "$kvarve" "$work/top/build/kvarve"

sed "s|/tmp/kvarve|$work/kvarve|g" "$repository/README.md" |
    awk -v dir="$work" '/^```sh$/ { n++; on = 1; next } /^```$/ { on = 0 } on { print > (dir "/example" n ".sh") }'
passed=0 failed=0
for example in "$work"/example*.sh; do
    if (cd "$work/top" && timeout 120 sh -e "$example") >"$work/out" 2>"$work/err"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: an example of README.md\n'
        cat "$example" "$work/err"
    fi
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -ge 10 ]
