# jobs/codecs/texts.sh: what jobs/codecs.sh and jobs/links.sh share: the texts that they are given, and tables of some
# of them. To be sourced behind jobs/study.sh, with the arguments of the script: --sample TEXT, which there may be
# several of, and --file TEXT are taken out of them; what stays are options of kvarve.
# shellcheck shell=sh disable=SC2034 # what is set here is used there

ranks=1
[ -z "${SLURM_JOB_ID-}" ] || ranks=$SLURM_NTASKS
prepare_ranks "$ranks"

samples='' file=''
for argument in "$@"; do
    shift
    case ${before-} in
    --sample) samples="$samples$argument
" ;;
    --file) file=$argument ;;
    *) case $argument in --sample | --file) ;; *) set -- "$@" "$argument" ;; esac ;;
    esac
    before=$argument
done

# calibrate WINDOWS TOKENS OPTION...: in the study's folder, the tables of the samples, from so many windows of each,
# unless they are there.
# shellcheck disable=SC2154 # open_study sets out
calibrate() {
    n_windows=$1 window=$2
    shift 2
    [ ! -s "$out/tables.kvt" ] || return 0
    while IFS= read -r sample; do
        [ -z "$sample" ] || set -- "$@" --sample "$sample"
    done <<LINES
$samples
LINES
    run calibrate "$ranks" calibrate --windows "$n_windows" --context "$window" --output "$out/tables.part" "$@" &&
        mv "$out/tables.part" "$out/tables.kvt"
}
