# jobs/links/plot.gp: time to the first token against the speed of links, for jobs/links.sh, behind jobs/study.gp.

set key outside right top textcolor rgb ink samplen 4 spacing 1.2 reverse Left
set xlabel 'Gbit/s of the link of each rank' textcolor rgb ink
set ylabel 'seconds to the first token' textcolor rgb ink
set logscale xy 10
set format xy '%g'

# Each codec has a color, in the order of the table, and each way to load a dash.
list(program) = system(sprintf("awk -F , 'NR > 1 %s' '%s'", program, table))
codecs = list('&& $1 != "" && !seen[$1]++ { print $1 }')
loads = list('&& $1 != "" && !seen[$2]++ { print $2 }')
recomputed = list('&& $2 == "recompute" { print $5 }')
colors = '#9aa3b0 #333a45 #d9722e #5aa3c4 #1f5f8b #7a9a3a #a0527f #c9a227'
color(i) = word(colors, (i - 1) % words(colors) + 1)
of(codec, load, value) = strcol(1) eq word(codecs, codec) && strcol(2) eq word(loads, load) ? value : NaN
plot for [i = 1 : words(codecs)] for [k = 1 : words(loads)] \
         table skip 1 using (of(i, k, $3)):5 with linespoints linewidth 2.5 dashtype k \
         pointtype (k == 1 ? 7 : 6) pointsize 1.1 linecolor rgb color(i) title word(codecs, i) . ', ' . word(loads, k), \
     for [i = 1 : words(recomputed)] word(recomputed, i) + 0 with lines linewidth 1.5 dashtype 3 \
         linecolor rgb ink title 'all computed'
