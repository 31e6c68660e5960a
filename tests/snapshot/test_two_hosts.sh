#!/bin/sh
# tests/snapshot/test_two_hosts.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR: a snapshot on the disk of one of two hosts, that
# rank 1 loads over the network between them: a real link, whose speed the kernel limits.
#
#   any_speed  the same text as where all see it, however fast the link is, and however that changes meanwhile
#   speed      what must cross the link takes its time, which may be longer than --peer-timeout, or is computed
#   saves      into a directory that one host does not see are refused before anything is computed
# shellcheck source=tests/fixtures/snapshot_test.sh
. "$(dirname "$0")/../fixtures/snapshot_test.sh"
. "$(dirname "$0")/../fixtures/two_hosts.sh"

obstacle=$(hosts_obstacle)
if [ -n "$obstacle" ]; then
    echo "skipped: $obstacle"
    exit 77
fi
trap 'hosts_stop; rm -rf "$all" ${shared:+"$shared"}' EXIT

disk=$all/disk saved=$all/disk/saved.kvs
pages 6 >"$all/text"
run_options='--threads 1 --memory-per-rank 300M'

go_on() { # go_on NP OPTIONS...
    np=$1
    shift
    generate "$np" --prompt-file "$all/text" --max-tokens 40 --ignore-eos --temperature 0 --resume "$saved" "$@"
}

prepare() {
    mkdir "$disk"
    generate 2 --prompt-file "$all/text" --max-tokens 0 --save "$saved"
    expect 'a snapshot' 0
    go_on 1
    expect 'all on one host' 0 && cp "$temp/out" "$all/whole"
    far=$("$kvarve" snapshot info "$saved" | sed -n 's/^\(L004[^ ]*\.h5\) .*/\1/p')
    far_bytes=$(file_bytes "$saved/$far")
    hosts_start "$disk" >"$temp/err" 2>&1 || failed 'two hosts' 'they cannot be made'
}

# tenths_of COMMAND...: how long it took, in tenths of a second.
tenths_of() {
    begin=$(date +%s%N)
    "$@"
    tenths=$((($(date +%s%N) - begin) / 100000000))
}

any_speed() {
    hosts_link 400mbit
    go_on 2
    ends_as 'a fast link' 0 "$all/whole"
    check 'a fast link: said' 'it is not' grep -q 'NOTE: .*1 of 2 ranks do not see it: rank 1 (rank 0 reads' "$temp/err"
    for how in full auto; do
        hosts_link 40mbit
        start 2 --prompt-file "$all/text" --max-tokens 40 --ignore-eos --temperature 0 --resume "$saved" --load $how
        wait_for 60 grep -q 'holds [0-9]* of' "$started/err"
        hosts_link 4mbit
        sleep 1
        hosts_link 40mbit
        wait_job
        ends_as "a link that breaks down and recovers, $how" 0 "$all/whole"
    done
}

speed() {
    hosts_link 4mbit
    least=$((far_bytes * 8 / 400000)) # tenths of a second
    tenths_of go_on 2 --peer-timeout 2
    ends_as 'a slow link' 0 "$all/whole"
    check 'a slow link: all came over it' "$tenths tenths of a second, of $least" [ $tenths -ge $((least * 9 / 10)) ]
    go_on 2 --load auto --load-log "$temp/log.csv"
    ends_as 'a slow link, auto' 0 "$all/whole"
    check 'a slow link, auto: computed' "$(cat "$temp/log.csv")" grep -q '^0,1,.*,computed,' "$temp/log.csv"
}

saves() {
    go_on 2 --save "$disk/new.kvs"
    refused 'a save that one host does not see' 2 "rank 1 on far: --save $disk/new.kvs: this rank cannot write there"
    go_on 2 --save "$all/new.kvs"
    ends_as 'a save that both see' 0 "$all/whole"
    check 'a save that both see: verified' 'it is not' is_verified "$all/new.kvs"
}

run_chain prepare
[ ! -x "$all/mpiexec" ] || run_chain any_speed speed saves
end_test
