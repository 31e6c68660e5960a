# jobs/pages/plot.gp: bytes of a token against quality, for jobs/pages.sh, behind jobs/study.gp.

# A column for each setting, those with more bytes to the left; each length has a color.
lengths = system(sprintf("awk -F , 'NR > 1 && !seen[$2]++ { print $2 }' '%s'", table))
settings = system(sprintf("tail -n +2 '%s' | sort -t , -s -k 3,3nr | awk -F , '!seen[$1]++ { print $1 }'", table))
bytes = system(sprintf("tail -n +2 '%s' | sort -t , -s -k 3,3nr | awk -F , '!seen[$1]++ { print $3 }'", table))
colors = '#1f5f8b #d9722e #5aa3c4 #7a9a3a #a0527f #c9a227'
color(i) = word(colors, (i - 1) % words(colors) + 1)
of(i, value) = strcol(2) eq word(lengths, i) ? value : NaN
column_of(name) = sum [k = 1 : words(settings)] (word(settings, k) eq name ? k : 0)
beside(i) = 0.16 * (i - (words(lengths) + 1) / 2.)
x(i) = column_of(strcol(1)) + beside(i)

set key outside right top textcolor rgb ink samplen 2 spacing 1.2 reverse Left
set xrange [0.5 : words(settings) + 0.5]
set xtics () nomirror
set for [k = 1 : words(settings)] xtics add (sprintf("%s\n%.0f", word(settings, k), word(bytes, k) + 0) k)
set multiplot layout 2, 1
set lmargin 10
set bmargin 4
set ylabel 'divergence' textcolor rgb ink
set logscale y
set format y '%.0e'
plot for [i = 1 : words(lengths)] table skip 1 using (of(i, $6 > 0 ? x(i) : NaN)):6 with points pointtype 7 \
         pointsize 1.1 linecolor rgb color(i) title word(lengths, i) . ' tokens'
unset logscale y
set format y '%g'
set xlabel 'changed cache, and its bytes of a token' offset 0, -0.7 textcolor rgb ink
set ylabel 'numbers found, %' textcolor rgb ink
set yrange [0 : 110]
plot for [i = 1 : words(lengths)] table skip 1 using (of(i, x(i))):(100. * $10 / $8) with points pointtype 7 \
         pointsize 1.1 linecolor rgb color(i) title word(lengths, i) . ' tokens'
unset multiplot
