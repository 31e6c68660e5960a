#!/bin/sh
# findings/oniguruma_newline_runs.sh: \R+ (any line ends, one or more) finds one "\n" at a time in Oniguruma up to 6.9.8, and
# all of them from 6.9.9 on; so a tokenizer whose pattern has it splits the same text otherwise from tokenizers 0.21 on.
#
# Seen with Oniguruma 6.9.8, which Debian 12 has, and 6.9.9, by onigurumacffi 1.2.0 and 1.3.0: behind "\n" the repetition
# ends, behind "\r\n" and "\r" it goes on, and \R{2} and a group of the same characters ((?>\r\n|[\n-\r])+) were always
# right. tokenizers 0.20.3 has the first inside, 0.21.4 the second: Split by \R+ of "a\n\nb" gives four pieces and three,
# and with other pieces come other tokens. Nothing is said in either case. A program that hands a model's pattern to a
# library of the system has to refuse \R where that is older, or write the characters out.
#
# Exit status: 0 as described, 1 if not, 77 if the packages cannot be installed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/oniguruma.py" <<'END'
import onigurumacffi
for pattern in [r"\R+", r"\R{2}", r"(?>\r\n|[\n-\r])+"]:
    ends = [onigurumacffi.compile(pattern).match(text).end() for text in ["\n\n", "\r\n\r\n", "\r\r"]]
    print(f"Oniguruma {onigurumacffi.__onig_version__}: {pattern} ends at {ends}")
END
cat >"$work/split.py" <<'END'
from tokenizers import Regex, __version__, pre_tokenizers
split = pre_tokenizers.Split(Regex(r"\R+"), "isolated")
print(f"tokenizers {__version__}: {[piece for piece, _ in split.pre_tokenize_str('a' + chr(10) * 2 + 'b')]}")
END

packages="onigurumacffi==1.2.0 onigurumacffi==1.3.0 tokenizers==0.20.3 tokenizers==0.21.4"
for package in $packages; do
    python3 -m venv "$work/$package" && "$work/$package/bin/pip" -q install "$package" || exit 77
done
for package in $packages; do
    case $package in
    oniguruma*) "$work/$package/bin/python" "$work/oniguruma.py" ;;
    *) "$work/$package/bin/python" "$work/split.py" ;;
    esac
done | tee "$work/seen"
cat >"$work/expected" <<'END'
Oniguruma 6.9.8: \R+ ends at [1, 4, 2]
Oniguruma 6.9.8: \R{2} ends at [2, 4, 2]
Oniguruma 6.9.8: (?>\r\n|[\n-\r])+ ends at [2, 4, 2]
Oniguruma 6.9.9: \R+ ends at [2, 4, 2]
Oniguruma 6.9.9: \R{2} ends at [2, 4, 2]
Oniguruma 6.9.9: (?>\r\n|[\n-\r])+ ends at [2, 4, 2]
tokenizers 0.20.3: ['a', '\n', '\n', 'b']
tokenizers 0.21.4: ['a', '\n\n', 'b']
END
cmp "$work/seen" "$work/expected"
