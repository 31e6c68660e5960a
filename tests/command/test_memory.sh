#!/bin/sh
# tests/command/test_memory.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: plans and runs in a control group within another
# one, of version 1 or 2, whichever the machine has: the smaller limit binds, and is named. Skipped where no group can
# be made.
# tests/base/test_host_memory.c does the same over files of any kind of machine.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"

run_options='--threads 1' # what a rank may take is what this is about

# Where groups of memory are, and how their files are called: $top, $limit_file, $used_file.
find_groups() {
    top=$(sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - cgroup [^ ]* .*\bmemory\b.*/\1/p' /proc/self/mountinfo |
        head -n 1)
    if [ -n "$top" ]; then
        limit_file=memory.limit_in_bytes used_file=memory.usage_in_bytes kills_file=memory.oom_control
        return
    fi
    top=$(sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - cgroup2 .*/\1/p' /proc/self/mountinfo | head -n 1)
    limit_file=memory.max used_file=memory.current kills_file=memory.events
    [ -n "$top" ] && grep -qw memory "$top/cgroup.controllers"
}

# make_groups: $outer, and within it $inner, which becomes a place for processes, and $other, another job's.
make_groups() {
    outer=$top/kvarve-test.$$ inner=$outer/inner other=$outer/other
    if [ $limit_file = memory.max ]; then echo +memory >"$top/cgroup.subtree_control" || return; fi
    mkdir "$outer" || return
    trap 'remove_groups; rm -rf "$all" ${shared:+"$shared"}' EXIT
    if [ $limit_file = memory.max ]; then echo +memory >"$outer/cgroup.subtree_control" || return; fi
    mkdir "$inner" "$other" && echo 400M >"$outer/$limit_file" && echo 800M >"$inner/$limit_file"
}

remove_groups() {
    for group in "$inner" "$other" "$outer"; do
        [ ! -d "$group" ] || wait_for 10 rmdir "$group"
    done
}

# room: MiB that a rank may take, by what the last run said
room() {
    sed -n 's/^kvarve: .* may take \([0-9]*\)[.0-9]* MiB, 90% of what .*/\1/p' "$temp/err"
}

nearly() { # nearly A B: MiB; other programs come and go
    [ "$1" -ge $(($2 - 15)) ] && [ "$1" -le $(($2 + 15)) ]
}

# within GROUP COMMAND...: becomes it, in there
cat >"$all/within" <<'END'
echo $$ >"$1/cgroup.procs" || exit
shift
exec "$@"
END

smallest_limit() {
    run_under="sh $all/within $inner timeout 120"
    run 1 plan --model "$model" --ranks 2 --device cpu
    expect 'plan in a group' 0 || return
    alone=$(room)
    check 'plan in a group: which limit' 'not said' \
        grep -q "^kvarve: assumed: .*90% of what $outer/$limit_file (400.0 MiB, of which .* leaves each of 2 ranks" \
        "$temp/err"
    check 'plan in a group: how much' "$alone MiB" [ "$alone" -gt 100 -a "$alone" -le 180 ]
    check 'plan in a group: what fits' 'not less than is wanted' grep -q '^pool of each rank: .*are wanted' "$temp/out"
    echo 200M >"$inner/$limit_file"
    run 1 plan --model "$model" --ranks 2 --device cpu
    check 'plan where the inner group is smaller' 'not said' \
        grep -q "90% of what $inner/$limit_file (200.0 MiB" "$temp/err"
    run 1 plan --model "$model" --ranks 8 --nodes 8 --device cpu
    check 'plan for several hosts' 'not said' grep -q 'MiB, of which .* leaves a rank$' "$temp/err"
    echo 800M >"$inner/$limit_file"
    run 1 plan --model "$model" --context 8000000 --device cpu
    expect_error 'plan that does not fit the host' 2 "90% of what $outer/$limit_file" 'or raise that' &&
        check 'plan that does not fit the host: shown all the same' 'it is not' grep -q '^needs [0-9.]* MiB' "$temp/out"

    for np in 1 2; do
        generate $np --prompt Hello --max-tokens 8 --ignore-eos --device cpu
        expect "run in a group, $np ranks" 0 || continue
        check "run in a group, $np ranks: which limit" 'not said' \
            grep -q "^kvarve: each rank may take .*90% of what $outer/$limit_file (400.0 MiB" "$temp/err"
    done
    # Its own measurement of the memory's speed would be too much for it, too.
    check 'run in a group: nothing is killed' 'something was' \
        awk '$1 == "oom_kill" && $2 > 0 {exit 1}' "$inner/$kills_file"
    generate 2 --prompt Hello --context 8000000 --max-tokens 7000000 --device cpu
    refused 'run that does not fit' 2 "90% of what $outer/$limit_file" 'or raise that'
    generate 1 --prompt Hello --max-tokens 2 --device cpu --memory-per-rank 2G
    expect 'more than is there, asked for' 0 && check 'more than is there, asked for' 'no NOTE' \
        grep -q "^kvarve: NOTE: --memory-per-rank: 2048.0 MiB are more than .*90% of what $outer/$limit_file" \
        "$temp/err"
}

# The page cache is given back, what programs hold is not, be it this group's or another job's in the same one.
cache_and_others() {
    [ -n "$alone" ] || return
    if [ "$(stat -f -c %T "$temp")" = tmpfs ]; then
        skipped 'the page cache' 'temporary files are in memory'
    else
        run_under="sh $all/within $inner timeout 120"
        sh "$all/within" "$inner" head -c 150M /dev/zero >"$temp/large"
        check 'the page cache is in the group' 'it is not' [ "$(cat "$outer/$used_file")" -gt 150000000 ]
        run 1 plan --model "$model" --ranks 2 --device cpu
        check 'the page cache is not counted' "$(room) MiB, $alone before" nearly "$(room)" "$alone"
        rm "$temp/large"
    fi
    run_under=timeout\ 120
    # What tail holds until its input ends.
    mkfifo "$temp/pipe"
    sh "$all/within" "$other" tail -n 1 <"$temp/pipe" >"$temp/tail" &
    exec 9>"$temp/pipe"
    head -c 100M /dev/zero >&9
    run_under="sh $all/within $inner timeout 120"
    wait_for 10 is_held
    run 1 plan --model "$model" --ranks 2 --device cpu
    exec 9>&-
    check 'what another job of the group holds is counted' "$(room) MiB, $alone before" \
        nearly "$(room)" $((alone - 45))
    wait
}

is_held() {
    [ "$(cat "$other/$used_file")" -gt 100000000 ]
}

groups() {
    if ! find_groups; then
        skipped 'control groups' 'this machine shows none of memory'
    elif ! make_groups 2>"$temp/err"; then
        skipped 'control groups' "none can be made: $(tail -n 1 "$temp/err")"
    else
        smallest_limit
        cache_and_others
    fi
}

run_chain groups
end_test
