# jobs/scaling/summary.awk: study.csv, a line for each rank of each run, becomes a line for each kind of run: the median
# of its repeats; speedup and efficiency beside the fewest ranks at their best, whatever their chunks; and the
# bound of efficiency. `best` is 1 for the chunks that are fastest for their work and ranks.
#
#     awk -f summary.awk study.csv >summary.csv
#
# Columns are found by their names in the first line. Lines come in the order of study.csv.

function number(name) { return $column[name] }

# The median of the numbers of a list, "3 1 2 "; least and most of them are in `least` and `most`.
function median(list,    v, n, i, k, x) {
    n = split(list, v, " ")
    for (i = 2; i <= n; i++) {
        x = v[i] + 0
        for (k = i - 1; k >= 1 && v[k] + 0 > x; k--) v[k + 1] = v[k]
        v[k + 1] = x
    }
    least = v[1]
    most = v[n]
    return n % 2 ? v[(n + 1) / 2] + 0 : (v[n / 2] + v[n / 2 + 1]) / 2
}

# The most efficiency that a pipeline can have over one rank: of a prompt E*, which depends on how long chunks take. Of
# n sequences that decode, only n stages are busy at a time.
function limit(kind, ranks, n, of_prompt) {
    if (kind == "prefill") return of_prompt
    if (kind == "save") return "nan"
    return n < ranks ? n / ranks : 1
}

BEGIN { FS = OFS = "," }
NR == 1 {
    for (i = 1; i <= NF; i++) column[$i] = i
    next
}
number("rank") != 0 { next }
{
    kind = number("kind")
    at = kind OFS number("ranks") OFS number("context") OFS number("chunk_tokens") OFS number("equal_time") OFS \
        number("sequences")
    if (!(at in seconds)) at_line[++n_lines] = at
    seconds[at] = seconds[at] number("seconds") " "
    tokens[at] = number("tokens")
    predicted[at] = number("predicted_seconds")
    bound[at] = limit(kind, number("ranks"), number("sequences"), number("bound"))
    n_repeats[at]++
}
END {
    for (i = 1; i <= n_lines; i++) {
        at = at_line[i]
        middle[at] = median(seconds[at])
        range[at] = least OFS most
        split(at, of, OFS)
        work = of[1] OFS of[3]
        if (!(work in base_ranks) || of[2] + 0 < base_ranks[work]) {
            base_ranks[work] = of[2] + 0
            base[work] = middle[at]
        } else if (of[2] + 0 == base_ranks[work] && middle[at] < base[work]) {
            base[work] = middle[at]
        }
        group = work OFS of[2]
        if (!(group in best) || middle[at] < middle[best[group]]) best[group] = at
    }
    print "kind,ranks,context,chunk_tokens,equal_time,sequences,repeats,seconds,least,most,tokens_per_second,speedup," \
        "efficiency,bound,predicted_seconds,predicted_off,best"
    for (i = 1; i <= n_lines; i++) {
        at = at_line[i]
        split(at, of, OFS)
        work = of[1] OFS of[3]
        if (middle[at] <= 0) continue
        speedup = base_ranks[work] * base[work] / middle[at]
        off = predicted[at] == "nan" ? "nan" : predicted[at] / middle[at] - 1
        print at, n_repeats[at], middle[at], range[at], tokens[at] / middle[at], speedup, speedup / of[2], bound[at],
            predicted[at], off, best[work OFS of[2]] == at
    }
}
