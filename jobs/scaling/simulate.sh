#!/bin/sh
# jobs/scaling/simulate.sh OUT: what kvarve plan --predict says of prefill over 1 to 64 GPUs, for the shapes of Llama
# 3.1 8B and 70B and prompts of 128K and 1M tokens, to OUT/simulated.csv; jobs/scaling/report.sh OUT then shows it.
#
# NOTHING HERE IS MEASURED: it follows from what is assumed of one GPU and its links, which may be set before.
#   MATRIX_FLOPS      of a matrix product in bf16 (600e12)
#   ATTENTION_FLOPS   of attention in bf16 (400e12)
#   MEMORY_SPEED      bytes a second that K and V are read with (3e12)
#   LAYER_SECONDS     that a layer takes besides, once a chunk: the starts of its kernels (80e-6)
#   NODE_LINK, LINK   within a node of 8 GPUs, and between nodes (200GB/s,5us and 50GB/s,5us)
#   CHUNK             tokens of a chunk, where chunks are of the same length and not the best (4096)
set -eu
LC_ALL=C
export LC_ALL
[ $# -eq 1 ] || {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
}
kvarve=$(cd "$(dirname "$0")/../.." && pwd)/build/kvarve
[ -x "$kvarve" ] || {
    echo "$0: $kvarve is not there: build it (jobs/setup.sh)" >&2
    exit 1
}
out=$1
matrix=${MATRIX_FLOPS:-600e12} attention=${ATTENTION_FLOPS:-400e12} memory=${MEMORY_SPEED:-3e12}
layer=${LAYER_SECONDS:-80e-6} node_link=${NODE_LINK:-200GB/s,5us} link=${LINK:-50GB/s,5us} chunk=${CHUNK:-4096}

# chunk_model WIDTH QUERY_HEADS KV_HEADS HEAD_WIDTH MLP_WIDTH: C,G,B,A. Two operations for each weight and row; two
# products of a head's width for each row and position that it sees, which are half of 2 L x + x^2.
chunk_model() {
    awk -v d="$1" -v h="$2" -v kv="$3" -v k="$4" -v m="$5" -v matrix="$matrix" -v attention="$attention" \
        -v memory="$memory" -v layer="$layer" 'BEGIN {
            weights = 2 * d * h * k + 2 * d * kv * k + 3 * d * m
            printf "%.4g,%.4g,%.4g,%.4g\n", layer, 2 * kv * k * 2 / memory, 2 * weights / matrix, 2 * h * k / attention
        }'
}

# simulate SHAPE CHUNK-MODEL: lines of the table of predictions, as CSV.
simulate() {
    for context in 131072 1048576; do
        "$kvarve" plan --shape "$1" --predict --chunk-model "$2" --ranks 64 --nodes 8 --node-link "$node_link" \
            --link "$link" --context "$context" --sequences 1 --chunk-tokens "$chunk" --memory-per-rank 80G \
            >"$out/simulated.out" 2>"$out/simulated.log" || {
            tail -n 1 "$out/simulated.log" >&2
            exit 1
        }
        awk -v shape="$1" -v context="$context" -v OFS=, '
            /^decode/ { exit }
            $1 ~ /^[0-9]+$/ && NF == 18 {
                gsub(/%/, "")
                print shape, context, $1, $3, $4, $5, $7, $8, $11, $12, $15, $16, $18
            }' "$out/simulated.out"
    done
}

mkdir -p "$out"
{
    echo "# assumed of a GPU: $matrix FLOP/s in matrices, $attention in attention, $memory bytes/s of memory," \
        "$layer s a layer and chunk; links of $node_link in a node of 8, $link between nodes; chunks of $chunk"
    echo "shape,context,ranks,balance,seconds,efficiency,timed_seconds,timed_efficiency,best_seconds,best_efficiency" \
        "best_timed_seconds,best_timed_efficiency,bound" | tr ' ' ,
    simulate llama-8b "$(chunk_model 4096 32 8 128 14336)"
    simulate llama-70b "$(chunk_model 8192 64 8 128 28672)"
} >"$out/simulated.new"
rm -f "$out/simulated.log" "$out/simulated.out"
mv "$out/simulated.new" "$out/simulated.csv"
