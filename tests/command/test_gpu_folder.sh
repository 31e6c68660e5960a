#!/bin/sh
# tests/command/test_gpu_folder.sh KVARVE MPIEXEC MODEL_DIR SOURCE_DIR BUILD_DIR: the folder that tests/gpu_folder.sh
# makes works where it is moved to, with libraries of its own, on an emulated GPU; and its tests/gpu.sh tells what it
# finds as it finds it.
# shellcheck source=tests/fixtures/command_test.sh
. "$(dirname "$0")/../fixtures/command_test.sh"
build=$1
folder=$all/elsewhere/gpu

# become_gpu OPTION...: this shell becomes `tests/gpu.sh right`, with nothing of its environment.
become_gpu() {
    exec env -i PATH=/usr/bin:/bin LD_DEBUG=files LD_DEBUG_OUTPUT="$temp/loaded" sh "$folder/tests/gpu.sh" right \
        --results "$temp/results.md" "$@" >"$temp/out" 2>"$temp/err"
}

gpu() {
    (become_gpu "$@")
    status=$?
}

has_row() { grep -q "^| $1 | [0-9]* | $2: " "$temp/results.md"; }

made() {
    check 'made' 'it cannot be' sh "$source/tests/gpu_folder.sh" "$build" "$all/gathered"
    mkdir "$all/elsewhere"
    mv "$all/gathered" "$folder"
    check 'refused' 'a folder that is there' eval '! sh "$source/tests/gpu_folder.sh" "$build" "$all/elsewhere"'
}

# What our program loads, alone and as one of two ranks, but for what every system has.
strangers() {
    grep -l "initialize program: $folder/build/kvarve" "$temp"/loaded.* >"$temp/ours"
    [ "$(wc -l <"$temp/ours")" -ge 3 ] || echo 'too few runs of it'
    xargs sed -n 's/.*calling init: //p' <"$temp/ours" | grep -v "^$folder/" |
        grep -v '/lib\(c\|m\|mvec\|dl\|rt\|pthread\|util\|resolv\|gcc_s\|stdc++\)\.so\|/ld-linux'
}

moved() {
    gpu --only two
    expect 'moved' 0 || return
    check 'moved: GPU' 'it is not said to be emulated' grep -q '^## .*, right, emulated GPU, commit ' "$temp/results.md"
    check 'moved: row' 'there is none' has_row 'two ranks start' passed
    check 'moved: last line' 'another' [ "$(tail -n 1 "$temp/out")" = '1 passed, 0 failed, 0 skipped' ]
    strangers >"$temp/strangers"
    check 'moved: libraries' "some are this machine's: $(tr '\n' ' ' <"$temp/strangers")" [ ! -s "$temp/strangers" ]
}

step_runs() { cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -q "^$folder/build/tests/"; }

cut_short() {
    rm "$temp/results.md"
    (become_gpu --only operations --only choices) &
    job=$!
    check 'cut short: first row' 'it does not come' wait_for 300 has_row operations passed
    kill "$job"
    wait "$job"
    check 'cut short: what it left' 'another row' eval '! has_row choices "[a-zA-Z]*"'
    check 'cut short: the step' 'it runs on' wait_for 5 eval '! step_runs'
}

broken() {
    printf '#!/bin/sh\necho broken on purpose >&2\nexit 5\n' >"$folder/mpi/bin/mpirun"
    gpu --only two
    expect 'broken step' 1 || return
    check 'broken step: row' 'not said to have failed' has_row 'two ranks start' 'FAILED (5)'
    check 'broken step: why' 'it is not shown' grep -q '^broken on purpose' "$temp/results.md"
    mv "$folder/build/modules/kvarve_cuda.so" "$temp"
    gpu --only two
    expect 'no module' 1 || return
    check 'no module: why' 'it is not shown' grep -q 'kvarve_cuda.so: cannot open' "$temp/results.md"
}

run_chain made moved cut_short broken
end_test
