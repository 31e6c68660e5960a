# jobs/study.gp: how the plots of jobs/codecs.sh, jobs/links.sh and jobs/pages.sh look, before their own plot.gp:
#
#     gnuplot -e "form='png'; table='TABLE.csv'; plot_file='TABLE.png'" jobs/study.gp jobs/STUDY/plot.gp

set datafile separator ','
set datafile missing NaN
ink = '#333a45'
if (form eq 'png') {
    set terminal pngcairo noenhanced font 'DejaVu Sans,11' background '#ffffff' size 900, 600
} else {
    set terminal svg noenhanced font 'DejaVu Sans,12' background '#ffffff' size 900, 600
}
set output plot_file

set border 3 linewidth 1 linecolor rgb ink
set grid ytics xtics linewidth 1 linetype 1 linecolor rgb '#e4e7eb'
set tics nomirror scale 0.5 textcolor rgb ink
