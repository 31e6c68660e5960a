#!/bin/sh
# tests/check_style.sh PART: what a reader should not have to see. Exit 0 good, 1 bad, 77 skipped.
#   text     no tab, no space at the end of a line, no line beyond 120 characters, a newline at the end of a file
#   format   clang-format, where the version is here that this project is formatted with (versions differ in taste)
#   shell    shellcheck over the scripts, where it is here
set -u
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")/.." || exit 1
format_version=14

find_sources() {
    find src kernels mpi io tests jobs -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) | sort
}
find_scripts() { find jobs tests .ci/run -type f \( -name '*.sh' -o -name '*.sbatch' -o -name run \) | sort; }

check_text() {
    { find_sources && find_scripts; } | xargs awk '
        function complain(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; bad = 1 }
        /\t/ && FILENAME !~ /\.sh$/ { complain("tab") }
        /[ \t\r]$/                  { complain("space at the end of the line") }
        { line = $0; gsub(/[\200-\277]/, "", line) }   # count characters, not the bytes that continue one
        length(line) > 120          { complain("longer than 120 characters") }
        END { exit bad }' || return 1
    for file in $(find_sources && find_scripts); do
        [ -z "$(tail -c 1 "$file")" ] || {
            echo "$file: no newline at the end"
            return 1
        }
    done
}

check_format() {
    have=$(clang-format --version 2>/dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
    if [ "${have:-0}" -ne $format_version ]; then
        echo "skipped: clang-format $format_version is not here (${have:+version $have is})" | sed 's/ ()//'
        return 77
    fi
    find_sources | xargs clang-format --dry-run -Werror
}

check_shell() {
    command -v shellcheck >/dev/null || {
        echo "skipped: shellcheck is not here"
        return 77
    }
    find_scripts | xargs shellcheck -x -S warning
}

case ${1-} in
text | format | shell) "check_$1" ;;
*)
    sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
