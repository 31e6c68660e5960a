#!/bin/sh
# jobs/pages.sh: what changes of the KV cache do to a model: bytes of a token against how the tokens behind a context
# are foretold, and how many of the numbers in it are still found (jobs/recall.sh), as a table and a plot.
#
#     jobs/pages.sh MODEL TEXT... [-- OPTION OF kvarve perplexity...]
#     sbatch [-n 8 ...] jobs/pages.sh MODEL TEXT... [-- OPTION...]
#
# The options behind -- go to all runs: --device, --weights, ...
#
# The folder OUT gets pages.csv (a line for each setting and length, behind those of the exact cache), pages.png
# and pages.svg, which want gnuplot (jobs/setup.sh --plots), and in runs a folder for each setting. A run that fails is
# reported and left out. The same line again runs only what is missing, also with more SETTINGS. What may be set before:
#   SETTINGS          lines of a name and the options that change the cache (those below)
#   LENGTHS           tokens of a context and what is scored behind it (1024 4096 8192)
#   SCORED            tokens behind each (256)
#   WINDOWS           contexts of each length in turn, the last for those left (8 4 2)
#   DEPTHS            of the keys in each (10 30 50 70 90)
#   OUT               the folder (pages)
#   RESULTS           a name: the table and the plot also become jobs/pages/results/NAME.csv and .svg, to be committed
#   KVARVE_LAUNCHER, KVARVE_ROOT, modules, GPUs: see jobs/slurm_env.sh
#SBATCH --job-name=pages
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --output=%x.log
set -u
# All that changes the cache and needs no calibration: a line for each format and policy.
settings=${SETTINGS:-'int8 --kv int8
int4 --kv int4
expected --evict expected:0.5
h2o --evict h2o:0.5
snapkv --evict snapkv:0.5
pyramid --evict pyramid:0.5'}
lengths=${LENGTHS:-1024 4096 8192} scored=${SCORED:-256} windows=${WINDOWS:-8 4 2} depths=${DEPTHS:-10 30 50 70 90}

command=$0
[ -z "${SLURM_JOB_ID-}" ] || command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
command=$(dirname "${command%%pages.sh*}.")/
. "${KVARVE_ROOT:-$command..}/jobs/study.sh"
export KVARVE_ROOT="$kvarve_root"

[ $# -ge 2 ] || refuse "name a model and a text (see the first lines of jobs/pages.sh)"
model=$1
shift
case " $* " in *" -- "*) ;; *) set -- "$@" -- ;; esac
open_study "${OUT:-pages}" "$model $lengths, $scored, $windows, $depths
$*"

table=$out/pages.csv
: >"$runs/keys.csv"
while read -r setting options; do
    [ -n "$setting" ] || continue
    say "$setting"
    # shellcheck disable=SC2086 # several words
    "$kvarve_root/jobs/recall.sh" --model "$model" --lengths "$lengths" --scored "$scored" --prompts "$windows" \
        --depths "$depths" --keep "$runs/$setting" "$@" $options </dev/null >"$runs/$setting.out" ||
        n_failed=$((n_failed + 1))
    sed "1d; s/^/$setting,/" "$runs/$setting/recall.csv" >>"$runs/keys.csv"
done <<LINES
$settings
LINES
[ -s "$runs/keys.csv" ] || refuse "no run has succeeded; their logs are in $runs"

# Every run has the exact cache beside its own: that of the first is shown.
awk -F , -v OFS=, '
    function add(row, figures, n_keys, n_exact, n_found) {
        if (!(row in keys)) order[++n] = row
        of[row] = figures
        keys[row] += n_keys
        exact[row] += n_exact
        found[row] += n_found
    }
    {
        if (!($2 in first)) first[$2] = $1
        if (first[$2] == $1) add("exact" OFS $2, $7 OFS 0 OFS 0 OFS 0 OFS 0, $4, $5, $5)
        add($1 OFS $2, $8 OFS $9 OFS $10 OFS $11 OFS $12, $4, $5, $6)
    }
    END {
        print "setting", "length", "bytes_per_token", "nll_change", "nll_change_half", "divergence", "divergence_half",
            "keys", "exact_found", "found"
        for (is_exact = 1; is_exact >= 0; is_exact--)
            for (i = 1; i <= n; i++)
                if ((order[i] ~ /^exact,/) == is_exact)
                    print order[i], of[order[i]], keys[order[i]], exact[order[i]], found[order[i]]
    }' "$runs/keys.csv" >"$table"

awk -F , '
    NR == 1 { printf "  %-20s %7s %9s  %20s  %11s\n", "setting", "length", "bytes", "nll per token", "found"; next }
    { printf "  %-20s %7d %9.0f  %+10.4f +- %6s  %5d of %d\n", $1, $2, $3, $4, $5 == "null" ? "nan" : \
        sprintf("%.4f", $5), $10, $8 }' "$table"
draw pages "$table"
if [ -n "${RESULTS-}" ]; then
    results=$kvarve_root/jobs/pages/results
    mkdir -p "$results"
    for form in csv svg; do
        cp "$out/pages.$form" "$results/$RESULTS.$form" || refuse "RESULTS $RESULTS: $results does not get pages.$form"
    done
fi
[ $n_failed -eq 0 ]
