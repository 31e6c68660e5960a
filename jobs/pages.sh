#!/bin/sh
# jobs/pages.sh: what changes of the KV cache do to a model: bytes of a token against how the tokens behind a context
# are foretold, and how many of the numbers in it are still found (jobs/recall.sh), as a table and a plot.
#
#     jobs/pages.sh MODEL TEXT... [-- OPTION OF kvarve perplexity...]
#     sbatch [-n 8 ...] jobs/pages.sh MODEL TEXT... [-- OPTION...]
#
# The options behind -- go to all runs: --device, --weights, ...
#
# The folder OUT gets pages.csv (a line for each setting and length), pages.png and pages.svg, which want gnuplot
# (jobs/setup.sh --plots), and in runs a folder for each setting. A run that fails is reported and left out.
# The same line again runs only what is missing, also with more SETTINGS. What may be set before:
#   SETTINGS          lines of a name and the options that change the cache (those below)
#   LENGTHS           tokens of a context and what is scored behind it (1024 4096 8192)
#   SCORED            tokens behind each (256)
#   WINDOWS           contexts of each length (8)
#   DEPTHS            of the keys in each (10 30 50 70 90)
#   OUT               the folder (pages)
#   KVARVE_LAUNCHER, KVARVE_ROOT, modules, GPUs: see jobs/slurm_env.sh
#SBATCH --job-name=pages
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --output=%x.log
set -u
settings=${SETTINGS:-'exact'}

command=$0
[ -z "${SLURM_JOB_ID-}" ] || command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
command=$(dirname "${command%%pages.sh*}.")/
. "${KVARVE_ROOT:-$command..}/jobs/study.sh"
export KVARVE_ROOT="$kvarve_root"

[ $# -ge 2 ] || refuse "name a model and a text (see the first lines of jobs/pages.sh)"
model=$1
shift
case " $* " in *" -- "*) ;; *) set -- "$@" -- ;; esac
open_study "${OUT:-pages}" "$model ${SCORED:-256} ${WINDOWS:-8} ${DEPTHS:-10 30 50 70 90}
$*"

table=$out/pages.csv
echo setting,length,bytes_per_token,nll_change,nll_change_half,divergence,divergence_half,keys,exact_found,found \
    >"$table"
while read -r setting options; do
    [ -n "$setting" ] || continue
    say "$setting"
    # shellcheck disable=SC2086 # several words
    "$kvarve_root/jobs/recall.sh" --model "$model" --lengths "${LENGTHS:-1024 4096 8192}" --scored "${SCORED:-256}" \
        --prompts "${WINDOWS:-8}" --depths "${DEPTHS:-10 30 50 70 90}" --keep "$runs/$setting" "$@" $options \
        </dev/null >"$runs/$setting.out" || n_failed=$((n_failed + 1))
    awk -F , -v OFS=, -v setting="$setting" '
        NR > 1 {
            if (!($1 in keys)) order[++n] = $1
            keys[$1] += $3
            exact[$1] += $4
            found[$1] += $5
            figures[$1] = $7 OFS $8 OFS $9 OFS $10 OFS $11
        }
        END {
            for (i = 1; i <= n; i++)
                print setting, order[i], figures[order[i]], keys[order[i]], exact[order[i]], found[order[i]]
        }' "$runs/$setting/recall.csv" >>"$table"
done <<LINES
$settings
LINES
[ "$(wc -l <"$table")" -gt 1 ] || refuse "no run has succeeded; their logs are in $runs"

awk -F , '
    NR == 1 { printf "  %-20s %7s %9s  %20s  %11s\n", "setting", "length", "bytes", "nll per token", "found"; next }
    { printf "  %-20s %7d %9.0f  %+10.4f +- %6s  %5d of %d\n", $1, $2, $3, $4, $5 == "null" ? "nan" : \
        sprintf("%.4f", $5), $10, $8 }' "$table"
draw pages "$table"
[ $n_failed -eq 0 ]
