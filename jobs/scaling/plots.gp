# jobs/scaling/plots.gp: the plots of a study. jobs/scaling/report.sh runs it, once for PNG and once for SVG:
#
#     gnuplot -e "form='png'; data='DIR'; plots='DIR'; ranks='1 2'; contexts='512 2048'; chunks='128 512'" ... plots.gp
#
# In `data` are summary.csv (see summary.awk) and what report.sh makes of the rest: stacks.csv and steps.csv.

set datafile separator ','
set datafile missing NaN

# ---- one look for all ----

if (form eq 'png') {
    base = "pngcairo noenhanced font 'DejaVu Sans,11' background '#ffffff'"
} else {
    base = "svg noenhanced font 'DejaVu Sans,12' background '#ffffff'"
}
begin(name, width, height) = \
    sprintf("set terminal %s size %d, %d; set output '%s/%s.%s'", base, width, height, plots, name, form)

ink = '#333a45'
soft = '#9aa3b0'
series = '#1f5f8b #d9722e #3a8f5c #8a5a9e #b0942a #5aa3c4 #a33b4a #4a4f57'
color(i) = word(series, (i - 1) % words(series) + 1)

set border 3 linewidth 1 linecolor rgb ink
set grid ytics linewidth 1 linetype 1 linecolor rgb '#e4e7eb'
set tics nomirror scale 0.5 textcolor rgb ink
set key textcolor rgb ink samplen 2 spacing 1.15 reverse Left
set style line 1 linewidth 2.5 pointtype 7 pointsize 1.1
set style line 2 linewidth 2.5 pointtype 9 pointsize 1.3
set style line 3 linewidth 2 dashtype 3
name_panel(title, x, y) = sprintf("set title '%s' textcolor rgb ink offset 0, -0.4; \
    set xlabel '%s' textcolor rgb ink; set ylabel '%s' textcolor rgb ink", title, x, y)

# ---- what is in summary.csv ----

summary = data . '/summary.csv'
n_contexts = words(contexts)
context(i) = int(word(contexts, i))
named(i) = word(contexts, i) . ' tokens'
fewest = int(word(ranks, 1))
most = int(word(ranks, words(ranks)))

# kind 1, ranks 2, context 3, chunk_tokens 4, equal_time 5, seconds 8, tokens_per_second 11, speedup 12, efficiency 13,
# bound 14, predicted_seconds 15, best 17
of(kind, i, value) = strcol(1) eq kind && $3 == context(i) && $17 == 1 ? value : NaN
at_most(kind, i, equal_time, value) = \
    strcol(1) eq kind && $2 == most && $3 == context(i) && $5 == equal_time ? value : NaN

rank_axis = "set logscale x 2; set xrange [fewest * 0.85 : most * 1.18]; set xtics ('' fewest);"
do for [r in ranks] { rank_axis = rank_axis . sprintf("set xtics add ('%s' %s);", r, r) }

# ---- scaling: speedup above, efficiency below; a column for each kind of work ----

kinds = 'prefill batch decode'
titles = "'prefill of one prompt' 'decode of a batch' 'decode of one sequence'"

eval(begin('scaling', 1200, 760))
set multiplot layout 2, 3 margins 0.06, 0.985, 0.075, 0.95 spacing 0.055, 0.12
eval(rank_axis)
do for [row = 1:2] {
    do for [k = 1:3] {
        kind = word(kinds, k)
        if (row == 1) {
            eval(name_panel(word(titles, k), 'ranks', k == 1 ? 'speedup' : ''))
            set logscale y 2
            set yrange [* : 4 * most / fewest]
            set ytics autofreq format '%g'
            set key top left
        } else {
            eval(name_panel('', 'ranks', k == 1 ? 'efficiency' : ''))
            unset logscale y
            set yrange [0 : 1.15]
            set ytics 0.2 format '%.1f'
            set key bottom left
        }
        scale(x) = row == 1 ? x / fewest : 1
        n_bounds = k == 1 ? n_contexts : 1
        plot scale(x) with lines linewidth 1.5 dashtype 2 linecolor rgb soft title 'ideal', \
            for [i = 1:n_bounds] summary using 2:(of(kind, i, $14 * scale($2))) with lines linestyle 3 \
                linecolor rgb (k == 1 ? color(i) : ink) \
                title (k == 1 ? 'bound E*, ' . named(i) : 'bound of a pipeline'), \
            for [i = 1:n_contexts] summary using 2:(of(kind, i, (row == 1 ? $12 : $13))) with linespoints linestyle 1 \
                linecolor rgb color(i) title named(i)
    }
}
unset multiplot

# ---- speed: what a user feels ----

eval(begin('speed', 1200, 420))
set multiplot layout 1, 2 margins 0.065, 0.985, 0.14, 0.9 spacing 0.08, 0
eval(rank_axis)
set ytics autofreq format '%g'
set yrange [0 : *]
set offsets 0, 0, graph 0.4, 0
set key top left
eval(name_panel('time to first token', 'ranks', 'seconds'))
plot for [i = 1:n_contexts] summary using 2:(of('prefill', i, $8)) with linespoints linestyle 1 \
    linecolor rgb color(i) title named(i)
eval(name_panel('decode', 'ranks', 'tokens/s'))
plot for [i = 1:n_contexts] summary using 2:(of('batch', i, $11)) with linespoints linestyle 1 \
        linecolor rgb color(i) title 'a batch behind ' . named(i), \
    for [i = 1:n_contexts] summary using 2:(of('decode', i, $11)) with linespoints linestyle 2 \
        linecolor rgb color(i) title 'one sequence behind ' . named(i)
unset multiplot
set offsets

# ---- time: where it went, on each rank ----

# stacks.csv: kind, rank of ranks, compute, wait, transfer, save, rest
parts = 'compute wait transfer save rest'
part_colors = '#1f5f8b #ccd2da #d9722e #3a8f5c #8a5a9e'
stack_kinds = 'save batch decode'
stack_titles = sprintf("'prefill of %d tokens, and its save' 'decode of a batch behind them' \
'decode of one sequence behind them'", longest)
eval(begin('time', 1200, 440))
set multiplot layout 1, 3 margins 0.055, 0.985, 0.235, 0.9 spacing 0.05, 0
unset logscale
set style data histograms
set style histogram rowstacked
set style fill solid 1 border rgb '#ffffff'
set boxwidth 0.8
set xtics autofreq
do for [k = 1:3] {
    eval(name_panel(word(stack_titles, k), 'rank of ranks', k == 1 ? 'seconds' : ''))
    if (k == 2) {
        set key horizontal samplen 1 at screen 0.5, 0.05 center center
    } else {
        unset key
    }
    stack = sprintf("grep '^%s,' '%s/stacks.csv'", word(stack_kinds, k), data)
    n_bars = int(system(stack . ' | wc -l'))
    if (n_bars == 0) { continue }
    set xrange [-0.7 : n_bars - 0.3]
    plot for [j = 1:5] ('< ' . stack) using (column(j + 2)):xtic(2) linecolor rgb word(part_colors, j) \
        title word(parts, j)
}
unset multiplot

# ---- chunks: their size, and chunks of equal time, over the most ranks ----

eval(begin('chunks', 1200, 420))
set margins 9, 34, 3.5, 2
eval(name_panel(sprintf('prefill over %d ranks', most), 'tokens of a chunk', 'efficiency'))
set yrange [0 : 1.1]
set ytics 0.2 format '%.1f'
n_chunks = words(chunks)
set xrange [0.6 : n_chunks + 1.4]
set xtics ('equal time' n_chunks + 1)
do for [j = 1:n_chunks] { eval(sprintf("set xtics add ('%s' %d)", word(chunks, j), j)) }
place(size) = sum [j = 1:n_chunks] (int(word(chunks, j)) == size ? j : 0)
set key outside vertical right center samplen 2
plot for [i = 1:n_contexts] summary using (n_chunks + 1):(at_most('prefill', i, 1, $14)):(0.35) with xerrorbars \
        linewidth 1.5 pointsize 0 linecolor rgb color(i) title 'bound E*, ' . named(i), \
    for [i = 1:n_contexts] summary using (place($4)):(at_most('prefill', i, 0, $13 * $8 / $15)) with lines \
        linewidth 1.5 dashtype 2 linecolor rgb color(i) title named(i) . ', predicted', \
    for [i = 1:n_contexts] summary using (place($4)):(at_most('prefill', i, 0, $13)) with linespoints linestyle 1 \
        linecolor rgb color(i) title named(i) . ', measured', \
    for [i = 1:n_contexts] summary using (n_chunks + 1):(at_most('prefill', i, 1, $13)) with points linestyle 1 \
        linecolor rgb color(i) notitle

# ---- model: seconds of a layer for a chunk, measured on the fewest ranks, and the four numbers fitted to it ----

# steps.csv: tokens of the chunk, of its history, and milliseconds of a layer
if (exists('c')) {
    sizes = system("cut -d , -f 1 '" . data . "/steps.csv' | sort -nu | tr '\n' ' '")
    seconds(history, rows) = c + g * history + b * rows + a * (2 * history * rows + rows ** 2)
    eval(begin('model', 1200, 420))
    eval(name_panel('chunks on ' . fewest . (fewest == 1 ? ' rank' : ' ranks'), 'tokens before the chunk', \
        'ms in a layer'))
    set logscale y
    set xrange [0 : *]
    set yrange [* : *]
    set xtics autofreq
    set ytics autofreq format '%g'
    set key outside vertical right center title 'tokens of a chunk' textcolor rgb ink
    n_sizes = words(sizes)
    plot for [j = n_sizes:1:-1] seconds(x, int(word(sizes, j))) * 1000 with lines linewidth 1.5 \
            linecolor rgb color(j) notitle, \
        for [j = n_sizes:1:-1] data . '/steps.csv' using 2:($1 == int(word(sizes, j)) ? $3 : NaN) with points \
            linestyle 1 linecolor rgb color(j) title word(sizes, j)
}

# ---- simulated: only where report.sh found it ----

# shape 1, context 2, ranks 3, efficiency of chunks of equal length 6, of the best chunks of equal time 12, bound 13
$sglang << EOD
4,0.828
8,0.769
EOD
if (exists('simulated')) {
    shapes = "'llama-8b' 'llama-70b'"
    lengths = '131072 1048576'
    simulated_of(shape, length) = sprintf("< grep '^%s,%s,' '%s'", shape, length, simulated)
    eval(begin('simulated', 1200, 440))
    set multiplot layout 1, 2 margins 0.06, 0.985, 0.13, 0.9 spacing 0.07, 0
    set key inside bottom left vertical notitle reverse Left
    unset logscale
    set logscale x 2
    set xrange [0.9 : 71]
    set xtics (1, 2, 4, 8, 16, 32, 64)
    set yrange [0 : 1.1]
    set ytics 0.2 format '%.1f'
    do for [k = 1:2] {
        eval(name_panel(word("'simulated: 128K tokens' 'simulated: 1M tokens'", k), 'GPUs', k == 1 ? 'efficiency' : ''))
        length = word(lengths, k)
        plot 1 with lines linewidth 1.5 dashtype 2 linecolor rgb soft title 'ideal', \
            for [i = 1:2] simulated_of(word(shapes, i), length) using 3:($13 / 100) with lines linestyle 3 \
                linecolor rgb color(i) title word(shapes, i) . ', bound E*', \
            for [i = 1:2] simulated_of(word(shapes, i), length) using 3:($12 / 100) with linespoints linestyle 1 \
                linecolor rgb color(i) title word(shapes, i) . ', equal time', \
            for [i = 1:2] simulated_of(word(shapes, i), length) using 3:($6 / 100) with linespoints linestyle 2 \
                linewidth 1.5 linecolor rgb color(i) title word(shapes, i) . ', equal length', \
            for [i = k:1] $sglang using 1:2 with points pointtype 13 pointsize 2 linecolor rgb color(4) \
                title 'SGLang, measured elsewhere'
    }
    unset multiplot
}
