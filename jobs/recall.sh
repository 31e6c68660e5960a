#!/bin/sh
# jobs/recall.sh: does a model find a number that it was told long ago, and still when its cache has been changed?
#
#     jobs/recall.sh [options] TEXT... [-- OPTION OF kvarve perplexity...]
#
# Prompts are pieces of the texts (novels, say), at each of some depths of which stands, for another NAME and number,
#     The pass key of NAME is 12345. Remember it: 12345 is the pass key of NAME.
# Behind the piece each is asked for, in a prompt of its own:
#     What is the pass key of NAME? The pass key of NAME is
# A key is found when the number is the likeliest continuation. kvarve perplexity asks for it behind the exact cache and
# behind one that is changed as the options behind -- say, such as --kv int8, or --context-codec kvarve:small:3 --tables
# FILE. Others that it takes may stand there, too, and go for both: --add-bos, --device, ...
#
# Prints, for each length and depth, how many were found; and bytes of the cache of a token, and how much worse the
# tokens behind the pieces are foretold (nats a token, with half of the 95% interval over pieces).
#   --lengths "N..."   tokens of a piece and what is behind it (default "500 1000 2000 4000")
#   --depths "N..."    percent of the text before each key, rising (default "10 30 50 70 90")
#   --prompts "N..."   pieces of each length in turn, the last for those left (default 10), or as many as the texts have
#   --scored N         tokens behind each piece, at least those of the question (default 64)
#   --ranks N          MPI ranks (default 1, or those of the job of Slurm)
#   --model DIR        the model (default: the demo's)
#   --csv FILE         the table, with all figures, a line for each length and depth
#   --keep DIR         keep reports and logs there; the same line again runs only what is missing
#   KVARVE_LAUNCHER, KVARVE_ROOT, modules, GPUs: see jobs/slurm_env.sh
#SBATCH --job-name=recall
#SBATCH --ntasks=1
#SBATCH --open-mode=append
#SBATCH --output=%x.log
set -u
command=$0
[ -z "${SLURM_JOB_ID-}" ] || command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
command=$(dirname "${command%%recall.sh*}.")/
. "${KVARVE_ROOT:-$command..}/jobs/study.sh"

lengths="500 1000 2000 4000" depths="10 30 50 70 90" n_prompts=10 n_scored=64 ranks=${SLURM_NTASKS:-1} csv='' keep=''
model=$kvarve_root/jobs/demo/model
while [ $# -gt 0 ]; do
    case $1 in
    --help) sed -n '2,/^#SBATCH/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    --) break ;;
    --*)
        [ $# -ge 2 ] || refuse "$1 needs a value (see --help)"
        case $1 in
        --lengths) lengths=$2 ;;
        --depths) depths=$2 ;;
        --prompts) n_prompts=$2 ;;
        --scored) n_scored=$2 ;;
        --ranks) ranks=$2 ;;
        --model) model=$2 ;;
        --csv) csv=$2 ;;
        --keep) keep=$2 ;;
        *) refuse "unknown option $1 (see --help)" ;;
        esac
        shift
        ;;
    *) break ;;
    esac
    shift
done
for number in $lengths $depths $n_prompts "$n_scored" "$ranks"; do
    case $number in
    '' | *[!0-9]*) refuse "$number: --lengths, --depths, --prompts, --scored and --ranks are numbers (see --help)" ;;
    esac
done
prepare_ranks "$ranks"

temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
trap 'exit 130' INT TERM
open_study "${keep:-$temp}" "$model, $lengths, $depths, $n_prompts, $n_scored: $*"
: >"$temp/text"
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    cat "$1" >>"$temp/text" 2>/dev/null || refuse "cannot read $1"
    shift
done
[ -s "$temp/text" ] || refuse "name a text to hide the keys in (see --help)"
[ $# -eq 0 ] || shift
case " $* " in # what changes the cache
*" --context-codec"[\ =]* | *" --evict"[\ =]*) is_changed=1 ;;
*" --kv"[\ =]bf16" "*) is_changed=0 ;;
*" --kv"[\ =]*) is_changed=1 ;;
*) is_changed=0 ;;
esac
[ $is_changed = 1 ] || set -- --context-codec none "$@"

table=$out/recall.csv
{
    printf 'length,depth,keys,found,changed_found,bytes_per_token,changed_bytes_per_token,'
    printf 'nll_change,nll_change_half,divergence,divergence_half\n'
} >"$table"
for length in $lengths; do
    [ "$length" -gt "$n_scored" ] || refuse "--lengths $length: expected more than --scored, $n_scored"
    windows=${n_prompts%% *} n_prompts=${n_prompts#* }
    measure "$length" "$ranks" perplexity --model "$model" --file "$temp/text" --context $((length - n_scored)) \
        --scored "$n_scored" --windows "$windows" --key-depths "$(echo "$depths" | tr -s ' ' ,)" "$@" || continue
    report=$runs/$length.json
    bytes=$(number "$report" bytes_per_token) changed_bytes=$(number "$report" changed_bytes_per_token)
    [ $is_changed = 1 ] || changed_bytes=$bytes # not what files would take
    figures=$bytes,$changed_bytes
    for figure in nll_change divergence; do
        figures=$figures,$(mean "$report" $figure),$(half "$report" $figure)
    done
    awk -F '[:,}]' -v length_="$length" -v figures="$figures" -v OFS=, '
        /^ *{"percent":/ { print length_, $2 + 0, $4 + 0, $6 + 0, $8 + 0, figures }' "$report" >>"$table"
done
[ -z "$csv" ] || cp "$table" "$csv" || refuse "--csv $csv: cannot be written"
[ "$(wc -l <"$table")" -gt 1 ] || exit 1 # no run has succeeded

awk -F , -v is_changed=$is_changed '
    function row(length_, depth, keys, exact, changed) {
        printf "%8s  %6s  %6d  %6d  %5.0f%%", length_, depth, keys, exact, 100 * exact / keys
        if (is_changed) printf "  %8d  %5.0f%%", changed, 100 * changed / keys
        printf "\n"
    }
    NR == 1 {
        printf "%8s  %6s  %6s  %6s  %6s", "length", "depth", "keys", "exact", ""
        if (is_changed) printf "  %8s", "changed"
        printf "\n"
        next
    }
    {
        row($1, $2 "%", $3, $4, $5)
        keys += $3
        exact += $4
        changed += $5
        if (!($1 in bytes)) order[++n] = $1
        bytes[$1] = $6
        other[$1] = $7
        nll[$1] = sprintf("%+.4f +- %s", $8, $9 == "null" ? "nan" : sprintf("%.4f", $9))
    }
    END {
        row("all", "", keys, exact, changed)
        for (i = 1; i <= n; i++) {
            printf "%8s  %.0f bytes a token", order[i], bytes[order[i]]
            if (is_changed) printf "; changed %.0f, negative log-likelihood %s", other[order[i]], nll[order[i]]
            printf "\n"
        }
    }' "$table"
[ $n_failed -eq 0 ]
