# jobs/codecs/plot.gp: bits of an element against divergence, for jobs/codecs.sh, behind jobs/study.gp, with
# published='published.csv'. What others published of their codecs are bits without a divergence: lines.

set key top right textcolor rgb ink samplen 2 spacing 1.2 reverse Left
set xlabel 'bits of an element, all counted but the tables' textcolor rgb ink
set ylabel 'divergence of the next tokens, nats' textcolor rgb ink
set logscale xy 2
set format y '%.0e'
set logscale y 10
set xrange [0.4 : 16]
set mytics 10

stats published using 2 skip 1 nooutput
n_published = int(STATS_records)
do for [i = 1 : n_published] {
    stats published using 2 skip 1 every ::(i - 1)::(i - 1) nooutput
    bits = STATS_min
    name = system(sprintf("sed -n '%dp' '%s' | cut -d, -f1", i + 1, published))
    set arrow i from bits, graph 0 to bits, graph 1 nohead dashtype 3 linewidth 1.5 linecolor rgb '#9aa3b0'
    set label i name . ', published' at bits, graph 0.03 rotate by 90 offset 0.7, 0 textcolor rgb '#9aa3b0'
}

series = "'cachegen:' 'kvarve:fast:' 'kvarve:small:'"
titles = "'CacheGen, as the paper has it' 'kvarve fast' 'kvarve small'"
colors = '#d9722e #5aa3c4 #1f5f8b'
of(i, value) = strstrt(strcol(1), word(series, i)) == 1 ? value : NaN
plot for [i = 1 : 3] table skip 1 using (of(i, $2)):3:($3 - $4 > 0 ? $3 - $4 : $3 / 10):($3 + $4) \
         with yerrorbars linewidth 1 pointtype 0 linecolor rgb word(colors, i) notitle, \
     for [i = 1 : 3] table skip 1 using (of(i, $2)):3 with linespoints linewidth 2.5 pointtype 7 pointsize 1.1 \
         linecolor rgb word(colors, i) title word(titles, i)
