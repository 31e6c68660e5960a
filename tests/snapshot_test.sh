# tests/snapshot_test.sh: what the tests of snapshots share beyond tests/command_test.sh. To be sourced like that one.
# shellcheck shell=sh disable=SC2034,SC2154 # what is set here is used there
# shellcheck source=tests/command_test.sh
. "$(dirname "$0")/command_test.sh"

# ---- runs ----

# ends_as NAME STATUS FILE: the last run ended so, with this text on stdout.
ends_as() {
    expect "$1" "$2" || return
    if cmp -s "$temp/out" "$3"; then ok "$1"; else failed "$1" 'another text than without a stop'; fi
}

# results_as NAME STATUS RESULTS FILE: the last run ended so, and these results are those of FILE, in any order.
results_as() {
    expect "$1" "$2" || return
    sort "$3" >"$temp/sorted"
    if cmp -s "$temp/sorted" "$4"; then ok "$1"; else failed "$1" 'other results than without a stop'; fi
}

# pages N: a long text: the demo's page, N times, with the numbers of the times between.
pages() {
    n_pages=0
    while [ $n_pages -lt "$1" ]; do
        n_pages=$((n_pages + 1))
        printf 'Page %d. ' $n_pages
        cat "$page"
    done
}

# wait_for_file FILE: until it is there, or the started job is over.
wait_for_file() {
    until [ -e "$1" ] || ! kill -0 "$job" 2>/dev/null; do sleep 0.01; done
}

# is_reported FILE KEY LEAST: a number of a report.
is_reported() {
    n=$(sed -n "s/^.*\"$2\":[[:space:]]*\([0-9]*\).*/\1/p" "$1")
    [ "${n:-0}" -ge "$3" ]
}

# Who is who in the run that saves to $dir, before it begins: rank 0 holds the lock, and says so in it.
find_ranks() {
    wait_for 60 [ -e "$dir/lock" ]
    rank_0=$(sed 's/.* pid=\([0-9]*\) .*/\1/' "$dir/lock")
    all_ranks=$(ranks_of "$dir")
    other_rank=$(echo "$all_ranks" | grep -vx "$rank_0" | tail -n 1)
}

# The launcher of the started job: below it may be others that start the ranks of a host.
launcher() {
    above=$rank_0
    while [ "$above" -gt 1 ] && [ "$above" -ne "$job" ]; do
        below=$above
        above=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$below/status")
    done
    echo "$below"
}

# ---- snapshots ----

segments_of() { # segments_of DIR: the names of its files of K and V
    "$kvarve" snapshot info "$1" | sed -n 's/^\(L[^ ]*\.h5\) .*/\1/p' | sort
}

n_segments_of() {
    segments_of "$1" | wc -l
}

is_verified() { # is_verified DIR
    "$kvarve" snapshot verify "$1" --threads 1
}

has_state() { # has_state DIR STATE: a sequence is "reading", "generating", ...
    "$kvarve" snapshot info "$1" | grep -q " $2\$"
}

# holds_only_named DIR: exactly the manifest and what it names.
holds_only_named() {
    {
        echo manifest.h5
        segments_of "$1"
    } | sort >"$temp/named"
    # shellcheck disable=SC2012 # names of our own
    ls -A "$1" | sort >"$temp/there"
    diff "$temp/named" "$temp/there"
}

# ---- damage ----

flip() { # flip FILE OFFSET: one bit of the byte there is another one now
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059 # the format is the byte
    printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

file_bytes() {
    wc -c <"$1" | tr -d ' '
}
