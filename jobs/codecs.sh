#!/bin/sh
# jobs/codecs.sh: what the codecs of the KV cache do to a model: bits of an element against how far the tokens behind a
# context go astray, as a table and a plot.
#
#     jobs/codecs.sh --sample TEXT [--sample TEXT ...] --file TEXT [kvarve's options]
#     sbatch [-n 8 ...] jobs/codecs.sh --sample TEXT --file TEXT --model DIR [kvarve's options]
#
# Tables are calibrated on the samples, and every codec is judged by the same windows of the file, which should be
# another text. Other options go to all runs: --model (otherwise the demo's), --device, --weights, ...
#
# The folder OUT gets tables.kvt, codecs.csv (a line for each codec, with half of each 95% interval over the windows),
# codecs.png and codecs.svg, which want gnuplot (jobs/setup.sh --plots). A run that fails is reported and left out; its
# log is in OUT/runs. The same line again runs only what is missing. What may be set before, as in CONTEXT=4096
# jobs/codecs.sh:
#   CONTEXT           tokens of a context (1024)
#   SCORED            tokens behind each (256)
#   WINDOWS           contexts (4)
#   KEYS              pass keys asked for behind each (0)
#   CODECS            all there are, at some of their levels
#   CALIBRATED        windows of each sample (4), of CONTEXT tokens, but at most 1024
#   OUT               the folder (codecs)
#   KVARVE_LAUNCHER, KVARVE_ROOT, modules, GPUs: see jobs/slurm_env.sh
#SBATCH --job-name=codecs
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --output=%x.log
set -u
command=$0
[ -z "${SLURM_JOB_ID-}" ] || command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
command=$(dirname "${command%%codecs.sh*}.")/
. "${KVARVE_ROOT:-$command..}/jobs/study.sh"
. "$kvarve_root/jobs/codecs/texts.sh"

context=${CONTEXT:-1024} scored=${SCORED:-256} windows=${WINDOWS:-4} keys=${KEYS:-0}
codecs=${CODECS:-cachegen:1 cachegen:2 cachegen:3 cachegen:4 kvarve:fast:1 kvarve:fast:2 kvarve:fast:3 kvarve:fast:4
    kvarve:fast:5 kvarve:small:1 kvarve:small:2 kvarve:small:3 kvarve:small:4 kvarve:small:5 kvarve:small:6}

[ -n "$samples" ] || refuse "--sample TEXT is missing: what tables are calibrated on"
[ -n "$file" ] || refuse "--file TEXT is missing: what codecs are judged by"
case " $* " in *" --model"[\ =]*) ;; *) set -- "$@" --model "$kvarve_root/jobs/demo/model" ;; esac
open_study "${OUT:-codecs}" "$context $scored $windows $keys
$file
$*"
calibrate "${CALIBRATED:-4}" $((context < 1024 ? context : 1024)) "$@" || exit 1

table=$out/codecs.csv
{
    printf 'codec,bits_per_element,divergence,divergence_half,perplexity_change,perplexity_change_half,'
    printf 'same_likeliest,pass_keys,answered_keys,coded_answered_keys\n'
} >"$table"
for codec in $codecs; do
    name=$(printf %s "$codec" | tr : -)
    report=$runs/$name.json
    measure "$name" "$ranks" perplexity "$@" --file "$file" --context "$context" --scored "$scored" \
        --windows "$windows" --keys "$keys" --context-codec "$codec" --tables "$out/tables.kvt" || continue
    answered=,
    [ "$keys" = 0 ] || answered=$(number "$report" answered_keys),$(number "$report" changed_answered_keys)
    printf '%s,' "$codec" "$(number "$report" bits_per_element)" "$(mean "$report" divergence)" \
        "$(half "$report" divergence)" "$(mean "$report" perplexity_change)" "$(half "$report" perplexity_change)" \
        "$(number "$report" same_likeliest)" "$(number "$report" pass_keys)" >>"$table"
    printf '%s\n' "$answered" >>"$table"
done

awk -F , 'NR == 1 { printf "  %-16s %8s  %22s  %20s\n", "codec", "bits", "divergence", "perplexity"; next }
    { printf "  %-16s %8.3f  %10.2e +- %8.1e  %+8.2f%% +- %6.2f%%\n", $1, $2, $3, $4, 100 * $5, 100 * $6 }' "$table"
draw codecs "$table" "published='$kvarve_root/jobs/codecs/published.csv'" # warns of codecs that are not there
[ $n_failed -eq 0 ]
