# jobs/pages/plot.gp: bytes of a token against quality, for jobs/pages.sh, behind jobs/study.gp.

# Each length has a color; names of settings stand beside the points of the first.
lengths = system(sprintf("awk -F , 'NR > 1 && !seen[$2]++ { print $2 }' '%s'", table))
colors = '#1f5f8b #d9722e #5aa3c4 #7a9a3a #a0527f #c9a227'
color(i) = word(colors, (i - 1) % words(colors) + 1)
of(i, value) = strcol(2) eq word(lengths, i) ? value : NaN

set key outside right top textcolor rgb ink samplen 2 spacing 1.2 reverse Left
set logscale x 2
set offsets graph 0.1, graph 0.2, graph 0.1, graph 0.1
set multiplot layout 2, 1
set ylabel 'more nats a token' textcolor rgb ink
plot for [i = 1 : words(lengths)] table skip 1 using (of(i, $3)):4:5 with yerrorbars linewidth 1.5 pointtype 7 \
         linecolor rgb color(i) title word(lengths, i) . ' tokens', \
     table skip 1 using (of(1, $3)):4:1 with labels left offset 0.7, 0.4 textcolor rgb ink notitle
set xlabel 'bytes of a token in the cache' textcolor rgb ink
set ylabel 'numbers found, %' textcolor rgb ink
set yrange [0 : 110]
plot for [i = 1 : words(lengths)] table skip 1 using (of(i, $3)):(100. * $10 / $8) with points pointtype 7 \
         pointsize 1.1 linecolor rgb color(i) title word(lengths, i) . ' tokens', \
     table skip 1 using (of(1, $3)):(100. * $10 / $8):1 with labels left offset 0.7, 0.4 textcolor rgb ink notitle
unset multiplot
