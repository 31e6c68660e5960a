#!/bin/sh
# tests/gpu.sh: what wants a GPU, in two calls.
#
#     tests/gpu.sh right [OPTION...]    under 4 minutes: is it right? Operations, models, ranks, compute-sanitizer
#     tests/gpu.sh fast [OPTION...]     under 5 minutes: is it fast? Steps and kernels beside what they need at least
#
#   --build-dir DIR   a build with CUDA (default: build)
#   --results FILE    what is found is appended to FILE as it is found: a run that is cut short leaves what it had
#   --only WORD       of the steps, those whose name has WORD; any number of times
# It runs here, or in a folder that tests/gpu_folder.sh made elsewhere, on a machine with CUDA and nothing else. Each
# step has a time limit of its own. The last line is "N passed, N failed, N skipped"; without a GPU nothing is run, and
# the exit status is 77. On an emulated GPU, which has ten times the time, nothing is said of speed: sizes are tiny.
set -u
usage() {
    sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"
    exit 2
}
call=${1-} build=build results="" only=""
case $call in right | fast) shift ;; *) usage ;; esac
while [ $# -ge 2 ]; do
    case $1 in
    --build-dir) build=$(cd "$2" && pwd) || exit 2 ;;
    --results) results=$(cd "$(dirname "$2")" && pwd)/$(basename "$2") || exit 2 ;;
    --only) only="$only $2" ;;
    *) usage ;;
    esac
    shift 2
done
[ $# -eq 0 ] || usage

cd "$(dirname "$0")/.." || exit 1
top=$(pwd)
case $build in /*) ;; *) build=$top/$build ;; esac
tests=$build/tests job='' temp=$(mktemp -d) || exit 1
# A shell that has just begun a child, and a `timeout` that has just begun its own, can lose a signal: once more.
stop() {
    rm -rf "$temp"
    [ -z "$job" ] || { kill "$!" && sleep 0.2 && kill -- "-$!"; } 2>/dev/null
}
trap stop EXIT
trap 'exit 1' INT TERM HUP
[ -n "$results" ] || results=$temp/results.md
export KVARVE_TEST_SOURCE="$top"
begin=$(date +%s) n_passed=0 n_failed=0 n_skipped=0
case $call in
right) deadline=$((begin + 230)) ;;
fast) deadline=$((begin + 290)) ;;
esac
gpu='' patience=1 shape=llama-8b
if grep -q '^KVARVE_CUDA:[A-Z]*=EMULATED$' "$build/CMakeCache.txt" 2>/dev/null; then
    gpu=emulated patience=10 shape=tiny
    deadline=$((begin + patience * (deadline - begin)))
fi

# ---- libraries ----

# For our programs alone: those of the system have others in mind.
libraries=${LD_LIBRARY_PATH-}
if [ -d lib ]; then # all of it was made elsewhere
    libraries=$top/lib${libraries:+:$libraries}
    export OPAL_PREFIX="$top/mpi" PMIX_LIBDIR="$top/pmix" HWLOC_PLUGINS_PATH="$top/lib" PATH="$top/mpi/bin:$PATH"
    export OMPI_MCA_mca_base_component_show_load_errors=0 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_pml=ob1
    export OMPI_MCA_plm_rsh_agent='' HOME="${HOME:-$temp}" # which PMIx wants
fi
export OMPI_MCA_ess_singleton_isolated=1 # one rank alone starts no daemon
. jobs/mpi_env.sh
mpi_env 4

missing() {
    LD_LIBRARY_PATH=$libraries find "$build/kvarve" "$build/modules" "$tests" -type f \( -perm -u+x -o -name '*.so' \) \
        -exec ldd {} + 2>&1 | sed -n 's/^[[:space:]]*\(.*not found.*\)/\1/p' | sort -u
}

# Where CUDA may be, beside the folders that the system looks into: of a toolkit, of a container's driver, of Python.
cuda_folders() {
    nvcc=$(command -v nvcc)
    for at in ${CUDA_HOME-} ${nvcc%/bin/nvcc} /usr/local/cuda /usr/local/cuda-*; do
        printf '%s\n' "$at/lib64" "$at/targets/x86_64-linux/lib"
    done
    printf '%s\n' /usr/local/nvidia/lib64 /usr/local/nvidia/lib
    python3 -c 'import glob, nvidia; print(*glob.glob(list(nvidia.__path__)[0] + "/*/lib"), sep="\n")' 2>/dev/null
}

find_cuda() {
    wanted=$(missing | sed -n 's/^\(lib[^ ]*\) => .*/\1/p')
    ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1 ' || wanted="$wanted libcuda.so.1"
    for library in $wanted; do
        for folder in $(cuda_folders); do
            if [ -e "$folder/$library" ]; then
                libraries=${libraries:+$libraries:}$folder
                break
            fi
        done
    done
}

# ---- what is found ----

is_in_table=no

say() { # to the terminal and the results
    printf '%s\n' "$*" | tee -a "$results"
}

# row CELLS: of a table whose heads are $heads, which begins anew behind anything else.
row() {
    if [ $is_in_table = no ]; then say "
$heads
$(echo "$heads" | sed 's/[^|]\{1,\}/---/g')"; fi
    is_in_table=yes
    say "$1"
}

# block COMMAND...: its output, as it is.
block() {
    say '
```'
    "$@" | tee -a "$results"
    say '```'
    is_in_table=no
}

is_wanted() {
    for word in $only; do
        case $1 in *"$word"*) return 0 ;; esac
    done
    [ -z "$only" ]
}

# attempt NAME SECONDS COMMAND...: what it prints goes to $out, the file it is appended to; $said is how it ended, and
# $seconds how long it took.
attempt() {
    name=$1 limit=$(($2 * patience)) left=$((deadline - $(date +%s))) start=$(date +%s) status=''
    shift 2
    [ $limit -le $left ] || limit=$left
    : >"$temp/errors"
    if [ "$limit" -ge 1 ]; then
        job=begun
        timeout -k 2 "$limit" env LD_LIBRARY_PATH="$libraries" "$@" >>"$out" 2>"$temp/errors" &
        wait $!
        status=$? job=''
    fi
    seconds=$(($(date +%s) - start))
    case $status in
    0) said=passed n_passed=$((n_passed + 1)) ;;
    77) said=skipped n_skipped=$((n_skipped + 1)) ;;
    *) said="FAILED ($status)" n_failed=$((n_failed + 1)) ;;
    esac
    case $status in
    '') said='FAILED (no time was left)' ;;
    124 | 137) said='FAILED (it took too long)' ;;
    esac
    [ "$said" = passed ]
}

# skip NAME WHY
skip() {
    is_wanted "$1" || return
    n_skipped=$((n_skipped + 1))
    row "| $1 | | skipped: $2 |"
}

show_errors() { block tail -n 25 "$@"; }

# check NAME SECONDS COMMAND...: a step that is right or not, as a row with the last line that it prints.
check() {
    is_wanted "$1" || return 0
    out=$temp/out
    : >"$out"
    attempt "$@"
    row "| $name | $seconds | $said: $(tail -n 1 "$out" | tr '|' ' ') |"
    case $said in FAILED*)
        cat "$temp/errors" >>"$out"
        if [ -s "$out" ]; then show_errors "$out"; fi
        ;;
    esac
}

finish() {
    say "
$(($(date +%s) - begin)) s in all:
$n_passed passed, $n_failed failed, $n_skipped skipped"
    [ $n_failed -eq 0 ]
    exit
}

# ---- is there a GPU? ----

[ -n "$gpu" ] || gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
commit=$(cat commit 2>/dev/null || git describe --always --dirty 2>/dev/null || echo unknown)
say "
## $(date -u +%F), $call, ${gpu:-unknown} GPU, commit $commit"

find_cuda
missing | grep -v nccl >"$temp/missing"
[ ! -s "$temp/missing" ] || {
    say "
Our programs cannot start here. They lack what is in none of the system's folders and none of
$(cuda_folders | sort -u | sed 's/^/    /')"
    block cat "$temp/missing"
    exit 1
}
out=$temp/out
: >"$out"
attempt 'a GPU' 60 "$build/kvarve" plan --shape tiny --device cuda --context 64 || {
    show_errors "$temp/errors"
    if grep -q 'cannot be loaded' "$temp/errors" || ! grep -q 'no usable GPU' "$temp/errors"; then exit 1; fi
    say 'skipped: no GPU here'
    exit 77
}
n_passed=0 # it was no step
say "
$(sed -n 's/.*\(GPU 0 of this host has [^,;]*\).*/\1/p' "$temp/errors" | head -n 1)"

# ---- right ----

sanitize() { # sanitize TOOL PROGRAM TEST...: of its tests, those that run kernels of ours
    tool=$1 program=$2
    shift 2
    for test; do
        shift
        set -- "$@" --only "$test"
    done
    check "compute-sanitizer $tool, $program" 45 "$sanitizer" --tool "$tool" --error-exitcode 1 \
        --target-processes all "$tests/$program" "$@"
}

right() {
    heads='| step | seconds | result |'
    check 'two ranks start' 20 mpirun -n 2 "$build/kvarve" plan --shape tiny --device cuda --context 64
    check 'attention' 40 "$tests/test_cuda_attend"
    check 'products' 40 "$tests/test_cuda_matmul"
    check 'operations' 40 "$tests/test_device_ops"
    check 'choices' 40 "$tests/test_device_choose"
    check 'the KV cache, and replay' 40 "$tests/test_device_attend"
    check 'KV pages that leave memory' 40 "$tests/test_kv_tier"
    check 'steps through such pages' 40 "$tests/test_kv_walk"
    check 'ten times the pages of memory' 60 "$tests/test_model_tiers"
    check 'chunks of the codec kvarve' 40 "$tests/test_varve_device"
    check 'snapshots into pages' 40 "$tests/test_loader" cuda
    check 'golden logits of all models' 40 "$tests/test_golden" cuda
    for n in 1 3; do check "engine, ranks: $n" 40 mpirun -n $n "$tests/test_engine" cuda; done
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
    if [ "$gpu" = emulated ] || [ -z "$sanitizer" ]; then
        skip 'compute-sanitizer' "$([ "$gpu" = emulated ] && echo 'nothing for it here' || echo 'it is not here')"
    else
        for tool in memcheck racecheck; do
            sanitize $tool test_cuda_attend values extremes long
            sanitize $tool test_cuda_matmul few gated 'top logits' 'top logits, special'
            sanitize $tool test_varve_device damaged
            sanitize $tool test_device_choose 'sizes and filters' 'special rows' extremes
        done
    fi
    check 'saved on the GPU, gone on from on the CPU and back' 60 sh tests/command/test_devices.sh "$build/kvarve" \
        "$(command -v mpirun)" jobs/demo/model "$top"
    check 'KV pages of int8' 60 sh tests/generate/test_kv_gpu.sh "$build/kvarve" "$(command -v mpirun)" \
        jobs/demo/model "$top"
    check 'KV pages in host memory and on a disk' 60 sh tests/generate/test_kv_host.sh "$build/kvarve" \
        "$(command -v mpirun)" jobs/demo/model "$top"
    if [ -x "$tests/test_nccl" ] && [ -z "$(missing)" ]; then
        check 'NCCL, as far as one GPU shows' 40 mpirun -n 2 "$tests/test_nccl"
    else
        skip 'NCCL' 'it is not built in, or not here'
    fi
}

# ---- fast ----

# beside NAME MILLISECONDS ROOFLINE-ARGUMENTS...: a row.
beside() {
    step=$1 ms=$2
    shift 2
    LD_LIBRARY_PATH=$libraries "$tests/roofline" "${gpu:-unnamed}" $shape "$@" >"$temp/floor"
    read -r of floor predicted <"$temp/floor"
    heads="| step | measured, ms | floor $of, ms | predicted, ms | floor of measured |"
    row "| $step | $ms | $floor | $predicted | $(awk "BEGIN { printf \"%.1f%%\", 100 * $floor / $ms }") |"
}

# milliseconds WHAT TOKENS: that so many tokens take, by the row of `kvarve bench` in $out.
milliseconds() {
    awk -v what="$1" -v n="$2" 'index($0, what) == 1 { printf "%.3f", 1000 * n / $(NF - 4) }' "$out"
}

# steps CHUNK TOKENS SEQUENCES CONTEXT: prefill, and decode behind a context.
steps() {
    is_wanted "prefill and decode" || return
    out=$temp/out
    : >"$out"
    of_one=0
    [ "$3" -gt 1 ] || of_one=$4
    attempt "prefill and decode" 75 "$build/kvarve" bench --shape $shape --device cuda --chunk-tokens "$1" \
        --prefill "$2" --depths 0 --decode-depths "$of_one" --batch-depths "$4" --sequences "$3"
    result=$said
    ms=$(milliseconds "prefill $2 tokens" "$2")
    [ -z "$ms" ] || beside "prefill of $2 in chunks of $1" "$ms" prefill "$1" "$2"
    ms=$(milliseconds "decode, $3 sequence" "$3")
    [ -z "$ms" ] || beside "decode at $4, sequences: $3" "$ms" decode "$3" "$4"
    block sed -n '/rank 0.s time/,$p' "$out"
    [ "$result" = passed ] || show_errors "$temp/errors"
}

# link: bytes a second of it at best, in GB/s, for people.
link() {
    nvidia-smi --query-gpu=pcie.link.gen.max,pcie.link.width.max --format=csv,noheader 2>/dev/null |
        awk -F ', *' 'NR == 1 && $1 > 0 { printf "%.1f", 0.985 * 2 ^ ($1 - 3) * $2 }'
}

# host_pages CHUNK TOKENS NEW PAGE_TOKENS KV_MEMORY: decode behind a context of which memory holds a part.
host_pages() {
    is_wanted "KV pages in host memory" || return
    out=$temp/out
    : >"$out"
    awk -v n="$2" -v n_new="$3" 'BEGIN {
        printf "{\"id\": 0, \"max_tokens\": %d, \"ignore_eos\": true, \"tokens\": [1", n_new
        for (k = 1; k < n; k++) printf ", %d", 10 + k % 200
        print "]}"
    }' >"$temp/line.jsonl"
    attempt "KV pages in host memory" 60 "$build/kvarve" generate --shape $shape --device cuda --sequences 1 \
        --input "$temp/line.jsonl" --output "$temp/results.jsonl" --chunk-tokens "$1" --page-tokens "$4" \
        --kv-memory "$5" --kv-host 8G
    result=$said
    rate=$(sed -n 's/.*KV pages in host memory:.* read (\([0-9.]*\) GB.s.*/\1/p' "$temp/errors")
    best=$(link)
    heads='| step | measured, GB/s | the link, GB/s | measured of the link |'
    [ -z "$rate" ] || row "| KV pages from host memory, $2 tokens | $rate | ${best:-unknown} | $(
        awk -v rate="$rate" -v best="${best:-0}" 'BEGIN { if (best > 0) printf "%.1f%%", 100 * rate / best }'
    ) |"
    block sed -n '/region, seconds/,$p' "$temp/errors"
    [ "$result" = passed ] || show_errors "$temp/errors"
}

kernels() {
    is_wanted kernels || return
    say ''
    is_in_table=no out=$results
    n_lines=$(wc -l <"$results")
    attempt kernels 110 "$tests/bench_device" cuda 0.2 $divisor "$gpu"
    tail -n +$((n_lines + 1)) "$results"
    [ "$said" = passed ] || show_errors "$temp/errors"
}

fast() {
    divisor=1
    if [ "$gpu" = emulated ]; then
        divisor=32
        steps 16 64 1 16
        kernels
        host_pages 16 200 4 32 180K
        return
    fi
    steps 512 32768 1 1024
    kernels
    host_pages 4096 32768 32 64 1G
    steps 4096 32768 64 4096
}

$call
finish
