#!/bin/sh
# jobs/scaling/markdown.sh OUT: the report of the study in OUT, as Markdown to stdout. jobs/scaling/report.sh runs it,
# when the tables and plots that it shows are made. What its reader should know besides may be put into OUT/notes.md,
# and comes before the tables.
set -eu
LC_ALL=C
export LC_ALL
out=$1
setting() { sed -n "s/^$1 //p" "$out/settings"; }

# of_csv FILE PROGRAM [AWK-OPTION...]: over a table with a line of names, which `of` turns into numbers of columns.
of_csv() {
    table=$1 program=$2
    shift 2
    awk -F , "$@" '
        function percent(x) { return x == "nan" ? "" : sprintf("%.1f%%", 100 * x) }
        function off(x) { return x == "nan" ? "" : sprintf("%+.1f%%", 100 * x) }
        function chunks() { return ($of["equal_time"] ? "equal time, at most " : "") $of["chunk_tokens"] }
        /^#/ { next }
        !named { for (i = 1; i <= NF; i++) of[$i] = i; named = 1; next }
        '"$program" "$table"
}

plot() { # plot NAME WHAT
    [ ! -e "$out/plots/$1.png" ] || printf '\n![%s](plots/%s.png)\n' "$2" "$1"
}

# table_head NAME...: the first two lines of a table of numbers.
table_head() {
    printf '\n'
    printf '| %s ' "$@"
    printf '|\n'
    for name; do printf '|--:'; done
    printf '|\n'
}

paragraph() { printf '\n%s\n' "$*"; }

# ---- what was run ----

head_of_report() {
    measured=$(ls "$out"/runs/*.json | head -n 1)
    echo "# Strong scaling over $(setting ranks | sed 's/ /, /g; s/, \([0-9]*\)$/ and \1/') ranks"
    echo
    echo "- Model: $(sed -n 's/^[[:space:]]*"model":[[:space:]]*"\(.*\)",$/\1/p' "$measured")"
    echo "- Machine: $(setting machine); threads of each rank: $(setting threads), whatever the number of ranks"
    echo "- Work: prompts of $(setting contexts | sed 's/ /, /g') tokens; decode of $(setting tokens) tokens behind" \
        "them, of one sequence and of $(setting sequences) together"
    echo "- Runs of each: $(of_csv "$out/summary.csv" '{ print $of["repeats"] }' | sort -nu |
        awk '{ last = $0 } NR == 1 { printf "%s", $0 } END { if (NR > 1) printf " to %s", last }'), in turn; tables" \
        "show medians"
    awk -v threads="$(setting threads)" -v processors="$(setting processors)" '/^ranks / {
        for (i = 2; i <= NF; i++) if ($i * threads > processors)
            printf "- **%d ranks share %d cores**: their times tell of that, not of scaling\n", $i, processors
    }' "$out/settings"
    paragraph "Speedup and efficiency are beside the fewest ranks at their best. *Bound* is the most efficiency that" \
        "a pipeline can have: of prefill E\*, which follows from the chunk-time model below; of decode, sequences" \
        "over ranks. *Predicted* is \`kvarve plan --predict\`, from steps that \`kvarve bench --measure\` timed" \
        "before on as many ranks; *off* is what it differs from the measured figure by."
    plot scaling "Speedup and efficiency of prefill, batch decode, and decode of one sequence"
}

# ---- kinds of work ----

prefill() {
    printf '\n## Prefill\n\nOne prompt, until its first token. The best chunks are bold.\n'
    table_head ranks tokens chunks seconds 'least to most' tokens/s speedup efficiency 'bound E*' 'of bound' \
        predicted off
    of_csv "$out/summary.csv" '$of["kind"] == "prefill" {
        best = $of["best"] ? "**" : ""
        of_bound = $of["bound"] == "nan" ? "nan" : $of["efficiency"] / $of["bound"]
        predicted = $of["predicted_seconds"] == "nan" ? "" : sprintf("%.3f", $of["predicted_seconds"])
        printf "| %d | %d | %s | %s%.3f%s | %.3f to %.3f | %.1f | %.2f | ", $of["ranks"], $of["context"], chunks(),
            best, $of["seconds"], best, $of["least"], $of["most"], $of["tokens_per_second"], $of["speedup"]
        printf "%s | %s | %s | %s | %s |\n", percent($of["efficiency"]), percent($of["bound"]), percent(of_bound),
            predicted, off($of["predicted_off"])
    }'
    plot chunks "Efficiency of prefill by chunks"
}

decode() { # decode KIND TITLE WORDS...
    printf '\n## %s\n' "$2"
    kind=$1
    shift 2
    paragraph "$@"
    table_head ranks 'tokens before' tokens/s 'least to most, s' speedup efficiency bound 'predicted tokens/s' off
    of_csv "$out/summary.csv" '$of["kind"] == kind {
        tokens = $of["tokens_per_second"] * $of["seconds"]
        predicted = $of["predicted_seconds"] == "nan" ? "" : sprintf("%.2f", tokens / $of["predicted_seconds"])
        off_by = $of["predicted_off"] == "nan" ? "nan" : 1 / (1 + $of["predicted_off"]) - 1
        printf "| %d | %d | %.2f | %.3f to %.3f | %.2f | %s | %s | %s | %s |\n", $of["ranks"], $of["context"],
            $of["tokens_per_second"], $of["least"], $of["most"], $of["speedup"], percent($of["efficiency"]),
            percent($of["bound"]), predicted, off(off_by)
    }' -v kind="$kind"
}

saves() {
    printf '\n## Where the time went\n\nSaves of the whole KV cache of a prompt:\n'
    table_head ranks tokens seconds 'least to most' tokens/s
    of_csv "$out/summary.csv" '$of["kind"] == "save" {
        printf "| %d | %d | %.3f | %.3f to %.3f | %.0f |\n", $of["ranks"], $of["context"], $of["seconds"], $of["least"],
            $of["most"], $of["tokens_per_second"]
    }'
    plot time "Time of each rank"
    paragraph "*Compute*: all operations of the model. *Wait*: for the stage before, and for the last stage's tokens." \
        "*Transfer*: until a message to the next stage has room; its travel is part of the next stage's wait. *Save*:" \
        "saving and loading snapshots. *Rest*: what no other part claims. Means over the repeats."
    plot speed "Time to first token, and decode"
}

# ---- model and predictions ----

chunk_model() {
    printf '\n## Chunk-time model\n\n'
    echo "A chunk of x tokens behind L tokens takes a layer \`c + g L + b x + a (2 L x + x^2)\` seconds:"
    table_head 'measured on ranks' c g b a 'mean error'
    of_csv "$out/study.csv" '!seen[$of["ranks"]]++ && $of["c"] != "nan" {
        printf "| %d | %s | %s | %s | %s | %s |\n", $of["ranks"], $of["c"], $of["g"], $of["b"], $of["a"],
            percent($of["fit_error"])
    }'
    plot model "Seconds of a layer for a chunk, measured and fitted"
    of_csv "$out/summary.csv" '
        $of["predicted_off"] == "nan" { next }
        { kind = $of["kind"]; x = $of["predicted_off"]; x = x < 0 ? -x : x; n[kind]++; near[kind] += x <= 0.1 }
        x > worst[kind] { worst[kind] = x }
        END {
            printf "\nSeconds that were predicted within 10%% of what was measured: of %d prefills %d (the worst is ",
                n["prefill"], near["prefill"]
            printf "off by %s), of %d batch decodes %d (%s), of %d decodes of one sequence %d (%s).\n",
                percent(worst["prefill"]), n["batch"], near["batch"], percent(worst["batch"]), n["decode"],
                near["decode"], percent(worst["decode"])
        }'
}

simulated() {
    [ -s "$out/simulated.csv" ] || return 0
    printf '\n## Simulated, not measured\n\n'
    echo "Prefill of one prompt on GPUs, by \`kvarve plan --predict\`; **$(sed -n 's/^# assumed/assumed**/p' \
        "$out/simulated.csv")."
    paragraph "Efficiency is beside one GPU that would have the memory, at its best. SGLang's is what was published" \
        "of its strong scaling, 82.8% at 4 stages and 76.9% at 8, 128K tokens, measured on other models and machines:" \
        "[82.8%](https://www.lmsys.org/blog/2026-01-15-chunked-pipeline) with DeepSeek-V3.1 on H20, 8 GPUs a stage." \
        "Layers that do not divide by the stages cost what *balance* lacks. No simulation knows of stragglers, of" \
        "links that are shared, or of matrices that are slower in small chunks."
    table_head shape tokens GPUs balance 's, equal length' efficiency 's, best equal length' efficiency \
        's, equal time' efficiency 'bound E*' SGLang
    of_csv "$out/simulated.csv" '{
        sglang = $of["context"] == 131072 ? ($of["ranks"] == 4 ? "82.8%" : $of["ranks"] == 8 ? "76.9%" : "") : ""
        printf "| %s | %d | %d | %s%% | %s | %s%% | %s | %s%% | ", $of["shape"], $of["context"], $of["ranks"],
            $of["balance"], $of["seconds"], $of["efficiency"], $of["best_seconds"], $of["best_efficiency"]
        printf "%s | %s%% | %s%% | %s |\n", $of["best_timed_seconds"], $of["best_timed_efficiency"], $of["bound"],
            sglang
    }'
    plot simulated "Simulated efficiency over GPUs"
}

# ---- what else there is ----

failures() {
    for log in "$out"/runs/*.log; do
        name=$(basename "$log" .log)
        case $name in plan-*) made=$out/runs/$name.out ;; *) made=$out/runs/$name.json ;; esac
        [ -s "$made" ] || printf -- '- %s: %s\n' "$name" "$(grep '^kvarve' "$log" | tail -n 1)"
    done >"$out/runs/failures"
    [ -s "$out/runs/failures" ] || return 0
    printf '\n## What failed\n'
    paragraph "These are not in the tables; \`jobs/scaling.sh\` with the same settings tries them again."
    echo
    cat "$out/runs/failures"
}

files() {
    printf '\n## Files\n\n'
    echo "- \`study.csv\`: a line for each rank of each run. \`study.h5\`: the same, a dataset of \`/study\` for each"
    echo "  column. Work: kind, ranks, threads (of a rank), context, chunk_tokens, equal_time, sequences, repeat. The"
    echo "  run: tokens, seconds (to the first token of prefill; of decode; of a save), tokens_per_second,"
    echo "  first_token_seconds, predicted_seconds, bound (E\*), c, g, b, a, fit_error. The rank: rank, and its seconds"
    echo "  in compute, wait, transfer, save, rest. What is not known is nan."
    echo "- \`summary.csv\`: a line for each kind of run, over its repeats."
    echo "- \`plots/\`: each plot as PNG and SVG."
}

head_of_report
[ ! -s "$out/notes.md" ] || { echo && cat "$out/notes.md"; }
prefill
decode batch "Decode of a batch" "$(setting sequences) sequences, in as many groups as there are stages, so that" \
    "all are busy. Each stage reads its weights once for each group: a batch pays when its groups are large."
decode decode "Decode of one sequence" "A token passes all stages before the next one begins: ranks bring memory, not" \
    "speed."
saves
chunk_model
simulated
failures
files
