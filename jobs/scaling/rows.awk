# jobs/scaling/rows.awk: runs of a study, as reports of kvarve generate (JSON, a line for each number), become its
# table: a line of CSV for each rank of each run. What else is known of the runs comes before them, from their plans.
#
#     awk -v threads=N -v n_batch=SEQUENCES -v list=FILES -f rows.awk
#
# FILES names first plans, then reports, one a line.
#
# A plan is called plan-r2-n4096-c512.out, a report KIND-r2-n4096-c512-1.json: ranks, context, most tokens of a chunk
# (c; t for chunks of equal time), and which of the repeats. What is not known is nan.

function base_name(path) { sub(/.*\//, "", path); sub(/\.[a-z]*$/, "", path); return path }

# The number behind a key, which is between the first quotes.
function value() { sub(/^[^:]*:[ \t]*/, ""); return $0 + 0 }
function key(line) { sub(/^[^"]*"/, "", line); sub(/".*/, "", line); return line }

function known(table, at) { return at in table ? table[at] : "nan" }

BEGIN {
    ARGC = 1
    while ((getline file < list) > 0) ARGV[ARGC++] = file
    print "kind,ranks,threads,context,chunk_tokens,equal_time,sequences,repeat,tokens,seconds,tokens_per_second," \
        "first_token_seconds,predicted_seconds,bound,c,g,b,a,fit_error,rank,compute,wait,transfer,save,rest"
    n = split("embed,norm,qkv matrix,rope and append,attention,output matrix,mlp,head,sample", names, ",")
    for (i = 1; i <= n; i++) part_of[names[i]] = "compute"
    part_of["wait for stage before"] = part_of["wait for last stage"] = "wait"
    part_of["wait to send"] = "transfer"
    part_of["snapshot save"] = part_of["snapshot load"] = "save"
}

FNR == 1 {
    name = base_name(FILENAME)
    split(name, words, "-")
    kind = words[1]
    ranks = substr(words[2], 2)
    where = words[2] "-" words[3]
    in_rank = 0
}

# ---- a plan ----

kind == "plan" && /^a layer takes/ {
    c[ranks] = $4; g[ranks] = $9; b[ranks] = $15; a[ranks] = $20
}
kind == "plan" && /^measured on/ {
    sub(/^.*off by /, "")
    fit[ranks] = $1 / 100
}
kind == "plan" && $1 == ranks && NF >= 18 {
    equal_length[where "-" words[4]] = $4
    equal_time[where "-" words[4]] = $7
    bound[where] = $NF / 100
}
kind == "plan" && $1 == ranks && NF == 5 && $3 ~ /%$/ {
    one_rate[where] = $2
    batch_rate[where] = $4
}
kind == "plan" { next }

# ---- a report ----

function predicted(    at) {
    at = where "-c" substr(words[4], 2)
    if (kind == "prefill") return words[4] ~ /^t/ ? known(equal_time, at) : known(equal_length, at)
    at = where
    if (kind == "batch" && batch_rate[at] > 0) return tokens / batch_rate[at]
    if (kind == "decode" && one_rate[at] > 0) return tokens / one_rate[at]
    return "nan"
}

function print_rank() {
    seconds = of["prefill_seconds"]
    tokens = substr(words[3], 2)
    if (kind == "prefill") seconds = of["first_token_seconds"]
    if (kind == "save") seconds = of["save_seconds"]
    if (kind == "batch" || kind == "decode") {
        seconds = of["decode_seconds"]
        tokens = of["decode_tokens_per_second"] * seconds
    }
    printf "%s,%d,%d,%d,%d,%d,%d,%d,", kind, ranks, threads, substr(words[3], 2), substr(words[4], 2), \
        (words[4] ~ /^t/), (kind == "batch" ? n_batch : 1), words[5]
    printf "%.0f,%.6f,%.3f,%.6f,", tokens, seconds, (seconds > 0 ? tokens / seconds : 0), of["first_token_seconds"]
    printf "%s,%s,%s,%s,%s,%s,%s,", predicted(), known(bound, where), known(c, ranks), known(g, ranks), \
        known(b, ranks), known(a, ranks), known(fit, ranks)
    printf "%d,%.6f,%.6f,%.6f,%.6f,%.6f\n", rank, part["compute"], part["wait"], part["transfer"], part["save"], \
        part["rest"]
}

/"per_rank":/ { in_rank = 1 }
/"region_seconds":/ { split("", part); in_regions = 1; next }
in_regions && /}/ { in_regions = 0; print_rank(); next }
in_regions { what = key($0); part[what in part_of ? part_of[what] : "rest"] += value(); next }
in_rank && /"rank":/ { rank = value(); next }
!in_rank && /":[ \t]*-?[0-9]/ { what = key($0); of[what] = value() }
