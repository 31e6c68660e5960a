#!/bin/sh
# tests/bench/predict.sh KVARVE [RANKS] [TOKENS] [MODEL]: measure steps on 1 to RANKS ranks (2) of one thread, predict
# prefill of TOKENS tokens (4096) and decode behind them, run both, and print predicted beside measured. Not a test:
# it needs a machine with a processor for each rank, where nothing else runs; or
#
#     DILATE=N tests/bench/predict.sh ...
#
# which has the CPU backend take N times as long and sleep meanwhile (dilate.c), so that N ranks fit on a processor.
# What they say to each other takes as long as ever.
#
# The model (that of the demo unless given) is taken to hold as many positions as are needed: this is about time.
set -eu
LC_ALL=C
export LC_ALL
[ $# -ge 1 ] || {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
}
kvarve=$1 ranks=${2:-2} tokens=${3:-4096}
top=$(cd "$(dirname "$0")/../.." && pwd)
model=$(cd "${4:-$top/jobs/demo/model}" && pwd)
. "$top/jobs/mpi_env.sh"
mpi_env "$ranks"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/model"
ln -s "$model"/* "$work/model/"
rm "$work/model/config.json"
sed "s/\(\"max_position_embeddings\": *\)[0-9]*/\1$((2 * tokens + 16384))/" "$model/config.json" \
    >"$work/model/config.json"

# The third column of a row of bench's table is in tokens a second.
rate() { # rate FILE WHAT
    awk -v what="$2" 'index($0, what) == 1 { sub(what, ""); sub(/^s?/, ""); print $2 }' "$1"
}

preload=
[ "${DILATE:-1}" = 1 ] || preload="env LD_PRELOAD=$(dirname "$kvarve")/tests/dilate.so KVARVE_DILATE=$DILATE"

prefill_seconds() { # prefill_seconds FILE
    rate "$1" "prefill $tokens tokens" | awk -v n="$tokens" '{ print n / $1 }'
}

compare() { # compare RANKS WHAT PREDICTED MEASURED
    awk -v n="$1" -v what="$2" -v p="$3" -v m="$4" \
        'BEGIN { printf "%5d  %-34s %12.5g %12.5g %+7.1f%%\n", n, what, p, m, 100 * (p / m - 1) }'
}

printf '%5s  %-34s %12s %12s %8s\n' ranks what predicted measured off
for n in $(seq "$ranks"); do
    start="$(mpi_launcher) -n $n $preload $kvarve"
    times=$work/times.$n.json
    common="--model $work/model --threads 1"
    batch="--decode-depths $tokens --batch-depths $tokens --sequences 4"
    # shellcheck disable=SC2086 # words
    {
        $start bench $common --measure "$times" --depths 0,1024,"$tokens" --batch-depths 0,"$tokens" --sequences 4 \
            --repeats "${REPEATS:-2}" >"$work/measure" 2>&1 || { cat "$work/measure"; exit 1; }
        $start bench $common --prefill "$tokens" --depths 0 $batch --repeats "${REPEATS:-2}" >"$work/equal" 2>/dev/null
        $start bench $common --prefill "$tokens" --depths 0 --decode-depths none --batch-depths none \
            --repeats "${REPEATS:-2}" --measured "$times" >"$work/timed" 2>/dev/null
    }
    "$kvarve" plan --model "$work/model" --device cpu --predict --measured "$times" --ranks "$n" --context "$tokens" \
        --sequences 4 >"$work/predicted"
    awk -v n="$n" '$1 != n || $3 !~ /%$/ { next } NF == 5 { print $2, $4; next } { print $4, $7 }' "$work/predicted" \
        >"$work/numbers"
    { read -r equal timed && read -r one many; } <"$work/numbers"
    grep 'which is off' "$work/measure" | sed "s/^/       /"
    compare "$n" "prefill, s" "$equal" "$(prefill_seconds "$work/equal")"
    compare "$n" "prefill in chunks of equal time, s" "$timed" "$(prefill_seconds "$work/timed")"
    compare "$n" "decode, 1 sequence, tokens/s" "$one" "$(rate "$work/equal" 'decode, 1 sequence')"
    compare "$n" "decode, 4 sequences, tokens/s" "$many" "$(rate "$work/equal" 'decode, 4 sequences')"
done
