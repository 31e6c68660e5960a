#!/bin/sh
# findings/tokenizers_stream_raises.sh: DecodeStream of tokenizers raises an error on ids that decode() takes, where a
# model's newline is a byte token: behind it a byte that begins a character which is not completed.
#
# Seen with tokenizers 0.23.3. The decoder is ByteFallback and Fuse, as in tokenizer.json of Llama 2 and its kin. The tokens
# <0x0A> <0xC3> a decode to two U+FFFD and "a": all bytes of a run that is not UTF-8 are replaced, the newline too. The
# stream has told the newline by then, and finds another text before it: it ends with an exception, and no step after
# that works. Other text before the byte, or a byte that completes the character, is no error. A program that streams has
# to decode bytes on its own, or to catch this and begin a new stream.
#
# Exit status: 0 as described, 1 if not, 77 if the packages cannot be installed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/stream.py" <<'END'
from tokenizers import Tokenizer, __version__, decoders, models
vocab = {"<unk>": 0, "a": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
for names in ["<0x0A> <0xC3> a", "a <0xC3> a", "<0x0A> <0xC3> <0xA9> a"]:
    ids, stream, pieces = [vocab[name] for name in names.split()], decoders.DecodeStream(), []
    for token in ids:
        try:
            pieces.append(stream.step(tokenizer, token))
        except Exception as error:
            pieces.append(str(error).split(".")[0])
    print(f"{__version__}: {names}: decode {ascii(tokenizer.decode(ids))}, steps {ascii(pieces)}")
END

python3 -m venv "$work/python" && "$work/python/bin/pip" -q install tokenizers==0.23.3 || exit 77
"$work/python/bin/python" "$work/stream.py" | tee "$work/seen"
cat >"$work/expected" <<'END'
0.23.3: <0x0A> <0xC3> a: decode '\ufffd\ufffda', steps ['\n', None, 'Invalid prefix encountered while decoding stream']
0.23.3: a <0xC3> a: decode 'a\ufffda', steps ['a', None, '\ufffda']
0.23.3: <0x0A> <0xC3> <0xA9> a: decode '\n\xe9a', steps ['\n', None, '\xe9', 'a']
END
cmp "$work/seen" "$work/expected"
