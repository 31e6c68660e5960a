#!/bin/sh
# tests/check_tests.sh registered BUILD | ran BUILD [LABEL] | --self-test: no test may vanish.
#
#   registered   the tests of a build are those of tests/list.txt, whatever it was configured with, and every source
#                of a test has one
#   ran          ctest's junit.xml in BUILD has a result of each of them, or of each with that LABEL in the list; prints
#                why some were skipped, whole or in part
#   --self-test  takes tests away in several ways, and sees each found
# One line for each that is missing or too many, and exit status 1 if there are any.
set -eu
LC_ALL=C
export LC_ALL
root=$(cd "$(dirname "$0")/.." && pwd)
list=$root/tests/list.txt sources=$root/tests
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# listed [LABEL]: names of the list
listed() { awk -v label="${1-}" '!/^#/ && NF && (label == "" || $2 == label) { print $1 }' "$list" | sort; }

# compare WHERE: $scratch/there beside $scratch/wanted
compare() {
    comm -23 "$scratch/wanted" "$scratch/there" | sed "s|^|missing $1: |" >"$scratch/wrong"
    comm -13 "$scratch/wanted" "$scratch/there" | sed "s|^|not in tests/list.txt, but $1: |" >>"$scratch/wrong"
    cat "$scratch/wrong"
    [ ! -s "$scratch/wrong" ]
}

check_registered() { # check_registered BUILD
    listed >"$scratch/wanted"
    ctest --test-dir "$1" -N | sed -n 's/^ *Test *#[0-9]*: //p' | sort >"$scratch/there"
    compare "in $1" || return
    find "$sources" -name 'test_*.c' -o -name 'test_*.cc' -o -name 'test_*.sh' -o -name 'fuzz_*.c' |
        while read -r source; do
            name=${source##*/}
            grep -q "^${name%.*}\(\.\|$\)" "$scratch/wanted" || echo "no test has the source $name"
        done >"$scratch/wrong"
    cat "$scratch/wrong"
    [ ! -s "$scratch/wrong" ]
}

# Each test's lines that begin with "skipped", and why a whole test was skipped that says nothing.
print_skipped() { # print_skipped JUNIT
    awk '
    function flush_test() {
        if (is_skipped && !n_reasons) print "  " name ": no reason given"
        is_skipped = n_reasons = 0
    }
    function plain(text) {
        gsub(/&quot;/, "\"", text); gsub(/&apos;/, "\047", text)
        gsub(/&lt;/, "<", text); gsub(/&gt;/, ">", text); gsub(/&amp;/, "\\&", text)
        return text
    }
    /<testcase / { flush_test(); name = $0; sub(/.* name="/, "", name); sub(/".*/, "", name) }
    /<skipped / { is_skipped = 1 }
    {
        line = $0
        sub(/^.*<system-out>/, "", line)
        sub(/<\/system-out>.*/, "", line)
        if (line !~ /^skipped[: ]/ || seen[name, line]++) next
        n_reasons++
        sub(/^skipped:? */, "", line)
        print "  " name ": " plain(line)
    }
    END { flush_test() }' "$1"
}

check_ran() { # check_ran BUILD [LABEL]
    listed "${2-}" >"$scratch/wanted"
    # A test whose program is not there has a result too: ctest's own exit status is about that.
    sed -n 's/.*<testcase name="\([^"]*\)".*/\1/p' "$1/junit.xml" | sort >"$scratch/there"
    print_skipped "$1/junit.xml" >"$scratch/skipped"
    [ ! -s "$scratch/skipped" ] || {
        echo 'skipped:'
        cat "$scratch/skipped"
    }
    compare 'among the results'
}

self_test() {
    mkdir "$scratch/build" "$scratch/sources" "$scratch/sources/fuzz"
    list=$scratch/list sources=$scratch/sources
    printf '# names\na.np1 gpu\na.np2\ntest_b\n' >"$list"
    : >"$sources/test_b.sh"
    register() {
        for name; do echo "add_test($name true)"; done >"$scratch/build/CTestTestfile.cmake"
    }
    run_them() { ctest --test-dir "$scratch/build" --output-junit junit.xml "$@" >"$scratch/said"; }
    expect() { # expect STATUS TEXT COMMAND...
        expected=$1 text=$2 status=0
        shift 2
        ("$@") >"$scratch/said" || status=$?
        echo "exit status $status" >>"$scratch/said"
        if [ "$status" -eq "$expected" ] && grep -q "$text" "$scratch/said"; then return; fi
        echo "not exit status $expected and \"$text\":"
        cat "$scratch/said"
        exit 1
    }
    register a.np1 a.np2 test_b
    expect 0 status check_registered "$scratch/build"
    run_them
    expect 0 status check_ran "$scratch/build"
    run_them -R np1
    expect 1 '^missing among the results: a.np2$' check_ran "$scratch/build"
    expect 0 status check_ran "$scratch/build" gpu
    run_them -R test_b
    expect 1 '^missing among the results: a.np1$' check_ran "$scratch/build" gpu
    register a.np1 test_b
    expect 1 '^missing in .*: a.np2$' check_registered "$scratch/build"
    register a.np1 a.np2 test_b c
    expect 1 '^not in tests/list.txt, but in .*: c$' check_registered "$scratch/build"
    register a.np1 a.np2 test_b
    : >"$sources/fuzz/fuzz_d.c"
    expect 1 '^no test has the source fuzz_d.c$' check_registered "$scratch/build"
    echo 'add_test(a.np1 sh -c "echo skipped: no thing; exit 77")' >"$scratch/build/CTestTestfile.cmake"
    echo 'set_tests_properties(a.np1 PROPERTIES SKIP_RETURN_CODE 77)' >>"$scratch/build/CTestTestfile.cmake"
    run_them
    expect 0 '^  a.np1: no thing$' check_ran "$scratch/build" gpu
}

case ${1-} in
registered) [ $# -eq 2 ] && check_registered "$2" ;;
ran) [ $# -ge 2 ] && check_ran "$2" "${3-}" ;;
--self-test) self_test ;;
*)
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
