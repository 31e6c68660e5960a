#!/bin/sh
# jobs/demo/passkey.sh: does the demo model find a number that it was told long ago?
#
#     jobs/demo/passkey.sh [options] TEXT...
#
# Each prompt is a piece of the given texts (novels, say) with
#     The pass key of NAME is 12345. Remember it: 12345 is the pass key of NAME.
# between two sentences at a random place, and at its end
#     What is the pass key of NAME? The pass key of NAME is
# The likeliest continuation must begin with the number. Prints, for each length, how often it did.
#   --lengths "N..."   tokens of a prompt (default "500 1000 2000 4000")
#   --prompts N        prompts of each length (default 50)
#   --ranks N          MPI ranks (default 2)
#   --model DIR        another model (default: the demo model)
#   --seed N           of the pieces, names, numbers and places (default 1)
#   --keep DIR         keep prompts.jsonl, keys.tsv, results.jsonl and the run's log there
set -eu
LC_ALL=C # awk counts bytes
export LC_ALL

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
lengths="500 1000 2000 4000" n_prompts=50 ranks=2 model=$here/model seed=1 keep=
usage() { sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"; }
refuse() {
    echo "passkey: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --help) usage && exit 0 ;;
    --*)
        [ $# -ge 2 ] || refuse "$1 needs a value (see --help)"
        case $1 in
        --lengths) lengths=$2 ;;
        --prompts) n_prompts=$2 ;;
        --ranks) ranks=$2 ;;
        --model) model=$2 ;;
        --seed) seed=$2 ;;
        --keep) keep=$2 ;;
        *) refuse "unknown option $1 (see --help)" ;;
        esac
        shift
        ;;
    *) break ;;
    esac
    shift
done
[ $# -gt 0 ] || refuse "name a text to hide the keys in (see --help)"
for text; do [ -r "$text" ] || refuse "cannot read $text"; done
[ -x "$root/build/kvarve" ] || refuse "build kvarve first: jobs/setup.sh"
. "$root/jobs/mpi_env.sh"
mpi_env "$ranks"

dir=$keep
if [ -z "$dir" ]; then
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    trap 'exit 130' INT TERM
fi
mkdir -p "$dir"
cat "$@" | tr -d '\r\001' >"$dir/text"

# make_prompts LENGTHS N BYTES_PER_TOKEN: prompts as JSON lines, and "id length number" lines in keys.tsv.
make_prompts() {
    awk -v lengths="$1" -v n_prompts="$2" -v bytes_per_token="$3" -v seed="$seed" -v keys="$dir/keys.tsv" '
    # The minimal standard generator (Park and Miller 1988), because each awk has a rand() of its own. In [0, 1).
    function random() {
        state = (state * 16807) % 2147483647
        return (state - 1) / 2147483646
    }
    # Where the first sentence that starts after `at` starts; 0 if none does.
    function sentence_after(text, at,    found) {
        found = match(substr(text, at, 10000), /[.!?]"?[ \n]+/)
        return found ? at + found - 1 + RLENGTH : 0
    }
    # About n bytes of whole sentences from a random place.
    function piece(n,    first, last) {
        first = sentence_after(text, 1 + int(random() * (length(text) - n - 1000)))
        for (last = first + n; last > first && substr(text, last, 2) !~ /[.!?][ \n]/; last--)
            ;
        return substr(text, first, last - first + 1)
    }
    function json(string,    n, lines, i, line, out) {
        n = split(string, lines, "\n")
        out = "\""
        for (i = 1; i <= n; i++) {
            line = lines[i]
            if (i > 1) out = out "\\n"
            while (match(line, /["\\\001-\037]/)) {
                out = out substr(line, 1, RSTART - 1) escape[substr(line, RSTART, 1)]
                line = substr(line, RSTART + 1)
            }
            out = out line
        }
        return out "\""
    }
    BEGIN {
        RS = "\001" # not in the text, so the whole is one record
        state = seed * 7919 % 2147483646 + 1
        for (i = 1; i < 32; i++) escape[sprintf("%c", i)] = sprintf("\\u%04x", i)
        escape["\""] = "\\\""
        escape["\\"] = "\\\\"
        n_names = split("Elizabeth Thomas Margaret Henry Charlotte Edward Harriet Arthur Eleanor Frederick Caroline " \
            "Walter Isabella George Lucy Robert Anne Philip Jane William Emma Charles Mary Richard", names, " ")
    }
    { text = $0 }
    END {
        n_lengths = split(lengths, length_of, " ")
        for (l = 1; l <= n_lengths; l++) for (p = 1; p <= n_prompts; p++) {
            name = names[1 + int(random() * n_names)]
            number = 10000 + int(random() * 90000)
            key = "The pass key of " name " is " number ". Remember it: " number " is the pass key of " name "."
            question = "What is the pass key of " name "? The pass key of " name " is"
            n_bytes = int(length_of[l] * bytes_per_token) - length(key question)
            if (n_bytes < 100 || n_bytes + 2000 > length(text)) {
                print "passkey: the text is too short, or the prompts are, for prompts of " length_of[l] " tokens" \
                    | "cat 1>&2"
                exit 2
            }
            novel = piece(n_bytes)
            at = sentence_after(novel, 1 + int(random() * length(novel)))
            if (!at) { novel = novel " "; at = length(novel) + 1 }
            id = length_of[l] "-" p
            printf "{\"id\": \"%s\", \"prompt\": %s}\n", id,
                json(substr(novel, 1, at - 1) key " " substr(novel, at) "\n\n" question)
            printf "%s\t%s\t%s\n", id, length_of[l], number > keys
        }
    }' "$dir/text" >"$dir/prompts.jsonl"
}

# generate MAX_TOKENS: prompts.jsonl to results.jsonl.
generate() {
    "$(mpi_launcher)" -n "$ranks" "$root/build/kvarve" generate --model "$model" --input "$dir/prompts.jsonl" \
        --output "$dir/results.jsonl" --max-tokens "$1" --temperature 0 >"$dir/log" 2>&1 && return
    cat "$dir/log" >&2
    echo "passkey: kvarve failed" >&2
    exit 1
}

# How many bytes this model makes a token of, in this text: seen on a few prompts cut for 4.
make_prompts 500 8 4
generate 0
bytes_per_token=$(awk '
    match($0, /"prompt_tokens": *[0-9]+/) {
        n = split(substr($0, RSTART, RLENGTH), word, /[: ]+/)
        sum += word[n]
        lines++
    }
    END { if (!lines) exit 1; print 4 * 500 * lines / sum }' "$dir/results.jsonl")

# shellcheck disable=SC2086 # one word for each length
n_lengths=$(set -- $lengths && echo $#)
echo "passkey: $((n_lengths * n_prompts)) prompts over $ranks ranks, $bytes_per_token bytes a token"
make_prompts "$lengths" "$n_prompts" "$bytes_per_token"
start=$(date +%s)
generate 8

printf '%10s  %10s  %18s  %10s  %10s\n' length prompts "mean prompt tokens" found rate
awk -v keys="$dir/keys.tsv" '
    BEGIN {
        while ((getline line < keys) > 0) {
            split(line, field, "\t")
            length_of[field[1]] = field[2]
            number[field[1]] = field[3]
            if (!n_prompts[field[2]]++) order[++n_lengths] = field[2]
        }
    }
    {
        if (!match($0, /"id": *"[^"]*"/)) next
        split(substr($0, RSTART, RLENGTH), field, "\"")
        id = field[4]
        if (match($0, /"prompt_tokens": *[0-9]+/)) {
            n = split(substr($0, RSTART, RLENGTH), field, /[: ]+/)
            tokens[length_of[id]] += field[n]
        }
        if (match($0, /"text": *" *[0-9]+/)) {
            n = split(substr($0, RSTART, RLENGTH), field, /[" ]+/)
            found[length_of[id]] += field[n] == number[id]
        }
    }
    END {
        for (l = 1; l <= n_lengths; l++) {
            n = n_prompts[order[l]]
            printf "%10d  %10d  %18.0f  %10d  %9.0f%%\n", order[l], n, tokens[order[l]] / n, found[order[l]],
                100 * found[order[l]] / n
        }
    }' "$dir/results.jsonl"
echo "passkey: $(($(date +%s) - start)) s"
