#!/usr/bin/env python3
"""Make the golden data of tests/tokenizer/test_tokenizer.c with the Python package `tokenizers` (0.23.3 was used).

    make_tokenizer_golden.py REPOSITORY [SHARED]

Writes into REPOSITORY/tests/golden/tokenizer:
    bytes.json, marks.json, pieces.json   small tokenizers: byte-level, SentencePiece style, and one with so few tokens
                                          that every cut of the text is seen as one unknown token more
    variants.json                         what is put into one of them to make another tokenizer
    strings.json                          what random strings are made of, by tests/fixtures/tokenizer_strings.h and by `Maker`
    NAME.u32                              a 32-bit hash for each string: its ids with and without special tokens, what
                                          they decode to with and without special tokens, and the same decoded from
                                          random ids; code_points.u32: of the ids of all code points
    cases.jsonl                           strings with their ids and texts in full
SHARED holds the tokenizers and texts that are not part of the repository; without it their hashes are left as they are.
"""
import json
import os
import struct
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CORPUS = """
The ship came into the harbour on the third day of the month, and the whole town went down to see her.
She said that she would not go; he said that he could not stay. They had been there before, and they knew it.
It was the best of weather and the worst of roads. I don't know what you've heard, but we'll see, and I'm sure they're right.
def main(argc, argv): return 0 if len(argv) > 1 else print("hello, world")    # 2024-05-17 12:34:56 3.14159 1,000,000
Le garçon préfère déjà l'été à Noël; où est-il allé, près de la forêt? Größe, Straße, über, Äpfel, naïve, façade, coöperate.
Съешь же ещё этих мягких французских булок, да выпей чаю. Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
天地玄黃,宇宙洪荒。日月盈昃,辰宿列張。 いろはにほへと ちりぬるを わかよたれそ つねならむ 안녕하세요 세계 여러분
שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดีชาวโลก
""" * 3

RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x2AF), (0x300, 0x36F),
          (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x700, 0x74F), (0x897, 0x8FF),
          (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE00, 0xE7F), (0xF00, 0xFFF), (0x1000, 0x109F),
          (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1780, 0x180F), (0x1AB0, 0x1AF0), (0x1DC0, 0x1EFF), (0x1F00, 0x1FFF),
          (0x2000, 0x206F), (0x2070, 0x20FF), (0x2100, 0x218F), (0x2190, 0x21FF), (0x2460, 0x24FF), (0x2600, 0x27BF),
          (0x2C60, 0x2C7F), (0x3000, 0x303F), (0x3040, 0x30FF), (0x3130, 0x33FF), (0x4E00, 0x9FFF), (0xA7C0, 0xA7FF),
          (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFDF0, 0xFE2F), (0xFF00, 0xFFFF),
          (0x10300, 0x1034F), (0x10D40, 0x10D8F), (0x11300, 0x1139F), (0x113A0, 0x113FF), (0x11920, 0x1194F),
          (0x16100, 0x1613F), (0x1D400, 0x1D7FF), (0x1E030, 0x1E06D), (0x1F130, 0x1F1FF), (0x1F300, 0x1FAFF),
          (0x20000, 0x323AF), (0xE0000, 0xE007F), (0, 0x1F), (0x7F, 0x9F)]

WORDS = """the of and to a in that was he she it his her with as for had you not be at on by which have or from this
him but all were my are me one their so an said them we who would been will no when there if more out up into do any
your what has man could other than our some very time upon about may its only now like little then can should made did
us such great before must two these see know over much down after first Mr good men own never most old shall day where
those came come himself way work life without go make well through being long say might how am too might harbour
weather roads hello world def main return print I'm don't we'll you've they're he'd it's I'M DON'T WE'LL we’ll
naïve façade Größe Straße garçon été Noël булок ещё чаю καφέ αλεπού 天地 日月 いろは ちりぬるを 안녕하세요 שלום مرحبا
नमस्ते สวัสดี İstanbul ΟΔΟΣ ǅungla ﬁne ﬃ ſtern ΐ ㎏ ½ ﷺ""".split()

STRINGS = {
    "ranges": RANGES,
    "lists": {
        "words": WORDS,
        "space": [" "],
        "spaces": [" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\u180e", "\u200b",
                   "\x0b", "\x0c", "\x85", "\u2009", "\u1680", "\x1c", "\ufeff"],
        "digits": list("0123456789") + ["12", "345", "6789", "10000", "٣", "४", "²", "½", "Ⅷ", "一", "𝟘", "𐴰", ",", ".", "-"],
        "emoji": ["👩‍👩‍👧", "👍🏽", "🇫🇷", "❤️", "☺", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "😀", "👨‍💻", "🤷🏿‍♀️", "\u200d", "\ufe0f"],
        "bases": ["e", "o", "A", "한", "ᄀ", "ᅡ", "ᆨ", "क", "ा", "が", "か", "ß", "Å", "Ω", "ﬁ", "q", "\U00011935\U00011930"],
        "marks": ["\u0300", "\u0301", "\u0308", "\u030a", "\u0323", "\u0327", "\u0331", "\u0334", "\u0345", "\u034f", "\u05b0",
                  "\u064b", "\u0651", "\u0897", "\u093c", "\u1ac1", "\u1df6", "\u20d0", "\u3099", "\u309a", "\U00011930",
                  "\U00011935", "\U0001e130", "\u08d3", "\u0f71", "\u0f72"],
        "code": list("(){}[];:=<>!@#$%^&*_+-/\\\"'`~|?,.") + ["==", "->", "//", "/*", "*/", "__", "++", "\n    ", "\n\t", "0x1F",
                                                          "<s>", "</s>", "<|", "|>", "[INST]", "▁", "▁▁", "Ġ", "Ċ", "<0x41>"],
    },
    # Each string is made by one of these: up to `most` parts, each from one of the sources in `of`.
    "recipes": [
        {"most": 16, "of": ["words", "space"]},
        {"most": 12, "of": ["words", "space", "spaces", "code"]},
        {"most": 5, "of": ["run", "space"]},
        {"most": 12, "of": ["char"]},
        {"most": 10, "of": ["any"]},
        {"most": 12, "of": ["repeat", "spaces", "words"]},
        {"most": 16, "of": ["digits", "digits", "space", "words"]},
        {"most": 8, "of": ["emoji", "emoji", "char", "space"]},
        {"most": 14, "of": ["bases", "marks", "marks"]},
        {"most": 10, "of": ["special", "special", "words", "spaces", "char"]},
        {"most": 10, "of": ["special", "space", "char"]},
        {"most": 20, "of": ["byte"]},
        {"most": 10, "of": ["byte", "char", "words", "emoji"]},
        {"most": 24, "of": ["code", "letters", "space"]},
        {"most": 6, "of": ["letters", "space", "nul", "marks"]},
        {"most": 1, "of": ["char", "any", "byte", "spaces", "special", "words"]},
    ],
    "novel_recipe": {"most": 1, "of": ["novel"]},
}

MASK = (1 << 64) - 1


class Random:
    """harness_random (splitmix64)"""

    def __init__(self, state):
        self.state = state & MASK

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % n


class Maker:
    """Random strings, the same as those of tests/fixtures/tokenizer_strings.h."""

    def __init__(self, specials, novel):
        self.specials = [s.encode() for s in specials] or [b"<s>"]
        self.novel = novel
        self.lists = {k: [s.encode() for s in v] for k, v in STRINGS["lists"].items()}

    def char(self, r, first, last):
        code = first + r.below(last - first + 1)
        return b"" if 0xD800 <= code < 0xE000 else chr(code).encode()

    def part(self, r, source):
        if source == "char":
            return self.char(r, *RANGES[r.below(len(RANGES))])
        if source == "run":
            chosen = RANGES[r.below(len(RANGES))]
            n = 1 + r.below(8)
            return b"".join(self.char(r, *chosen) for _ in range(n))
        if source == "any":
            return self.char(r, 0, 0x10FFFF)
        if source == "byte":
            return bytes([r.below(256)])
        if source == "letters":
            n = 1 + r.below(9)
            return bytes(97 + r.below(26) for _ in range(n))
        if source == "repeat":
            text = self.lists["spaces"][r.below(len(self.lists["spaces"]))]
            return text * (1 + r.below(9))
        if source == "nul":
            return b"\0"
        if source == "special":
            return self.specials[r.below(len(self.specials))]
        if source == "novel":
            start = r.below(len(self.novel))
            return self.novel[start:start + 1 + r.below(400)]
        chosen = self.lists[source]
        return chosen[r.below(len(chosen))]

    def string(self, r):
        recipes = STRINGS["recipes"]
        recipe = STRINGS["novel_recipe"] if self.novel and r.below(4) == 0 else recipes[r.below(len(recipes))]
        n = r.below(recipe["most"] + 1)
        return b"".join(self.part(r, recipe["of"][r.below(len(recipe["of"]))]) for _ in range(n))

    def ids(self, r, n_tokens):
        n = r.below(13)
        return [r.below(min(n_tokens, 300) if r.below(3) == 0 else n_tokens) for _ in range(n)]


class Hash:
    """FNV-1a, 64 bits, folded to 32."""

    def __init__(self):
        self.h = 0xCBF29CE484222325

    def add(self, data):
        h = self.h
        for b in data:
            h = ((h ^ b) * 0x100000001B3) & MASK
        self.h = h

    def add_ids(self, ids):
        self.add(struct.pack("<I%di" % len(ids), len(ids), *ids))

    def add_text(self, text):
        self.add(struct.pack("<I", len(text)) + text)

    def value(self):
        return (self.h ^ (self.h >> 32)) & 0xFFFFFFFF


class Reference:
    """Hugging Face tokenizers, with truncation and padding off."""

    def __init__(self, text):
        self.tok = Tokenizer.from_str(text)
        self.tok.no_truncation()
        self.tok.no_padding()
        data = json.loads(text)
        self.specials = [t["content"] for t in data.get("added_tokens") or []]
        self.special_ids = {t["id"] for t in data.get("added_tokens") or [] if t["special"]}
        self.n_tokens = 1 + max(list(data["model"]["vocab"].values()) + [t["id"] for t in data.get("added_tokens") or []])

    def encode(self, data, special):
        return self.tok.encode(data.decode("utf-8", "replace"), add_special_tokens=special).ids

    def decode(self, ids, skip):
        # Version 0.23 forgets to skip special tokens that the normalizer changes, so they are left out here.
        if skip:
            ids = [i for i in ids if i not in self.special_ids]
        return self.tok.decode(ids, skip_special_tokens=False).encode()

    def add_string(self, h, data):
        ids = self.encode(data, True)
        h.add_ids(ids)
        h.add_ids(self.encode(data, False))
        self.add_decoded(h, ids)

    def add_decoded(self, h, ids):
        h.add_text(self.decode(ids, False))
        h.add_text(self.decode(ids, True))


def hashes(ref, n, seed, novel):
    maker = Maker(ref.specials, novel)
    out = []
    for i in range(n):
        r = Random(seed * 1000003 + i)
        h = Hash()
        ref.add_string(h, maker.string(r))
        ref.add_decoded(h, maker.ids(r, ref.n_tokens))
        out.append(h.value())
    return out


def code_point_hashes(ref):
    """One for each 4,096 code points, in strings of 64: of the ids. Each stands among characters of which the tokenizer
    `pieces` knows some and others not, so that it is seen which of them it is cut from."""
    out = []
    for block in range(0, 0x110000, 4096):
        h = Hash()
        for first in range(block, block + 4096, 64):
            codes = [c for c in range(first, first + 64) if not 0xD800 <= c < 0xE000]
            h.add_ids(ref.encode("".join("Z%s%%%s9%%.a%s." % (chr(c), chr(c), chr(c)) for c in codes).encode(), False))
        out.append(h.value())
    return out


GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = dict(GPT2, use_regex=False)
LLAMA3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
          "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = ("[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
CL100K = ("(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|"
          "\\s+(?!\\S)|\\s+")
DEEPSEEK3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
             " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
DEEPSEEK1 = ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\s+$"]
REGEXES = ["^a|b$", "(?<=[a-c])\\d+", "(?<!x)[^\\S\\r\\n]+", "\\w+|[^\\w\\s]+", "[\\P{L}.]+", "[^\\P{N}5]+", "a{,2}", "[a-e]{2}?",
           "e{2,3}+|o{1,}?", "(?:th|t)he?+(?!n)", "\\p{^M}\\p{M}*", "[\\p{Pc}\\u4e00-\\u9fff\\x{1F600}-\\x{1F64F}-]", "(?i:[aeiou]+|don't)",
           "$", "^", "\\A\\s+|\\s+\\z", "(a|e|i)(?=\\S)|\\W", ".", "\\D+", "[\\t\\n\\x0B\\f\\r ]+", "\\p{Lu}\\p{Ll}*|\\p{N}", "x?"]

# What Oniguruma has beyond what most patterns use: BLOOM's, and each construct once.
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
MORE_REGEXES = [BLOOM, "[a-z&&[^aeiou]]+|[^\\p{L}[0-9]]", "\\p{Han}+|\\p{Hiragana}+|[\\p{Latin}\\p{Greek}]+", "\\b\\w+\\b|\\B", "(?>a*|the)+|(?>\\s+)\\S",
                "(?<=a|an|\\w\\s)[b-z]+", "[[:punct:]]+|[[:alpha:]]+|[[:^space:]]", "(?i:straße|stop|ﬁ|σ)+|(?i)[k-tß]", "([a-z])\\1|(.)\\k<2>",
                "\\h+|\\H", "(?~the)", "a\\Kn|t(?=h\\w\\K)", "(?<p>\\((?:[^()]|\\g<p>)*\\))|[^()]+", "(a)?(?(1)n|t)+", "(?m:.)(?-m:.)+|(?x: t h # the\n)", "\\N{2}|\\O", "a**|o+*|\\s{2}?|e{,1}+", "[]a]+|[a-]|[^-x]{3}", "\\P{Lu}{4}|\\p{^Ll}", "\\p{Cn}+|\\p{Punct}|\\p{Emoji}\\u200d?", "\\101|\\x{61 65 6f}|\\o{164}|\\cJ",
                "(?W:\\w)+|(?D:\\d)|(?S:\\s)|(?P:\\w)", "\\Ga|\\B.\\b", "(*FAIL)|(?{x})t|(*COUNT)e"]


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def added(id, content, **flags):
    token = dict(id=id, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return dict(token, **flags)


def metaspace(scheme=None, **more):
    out = {"type": "Metaspace", "replacement": "▁"}
    if scheme:
        out["prepend_scheme"] = scheme
    return dict(out, **more)


def template(before, after, ids):
    token = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [token(t) for t in before] + [text] + [token(t) for t in after],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": i, "tokens": [n] * len(i)} for n, i in ids.items()}}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def train_bytes():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator([CORPUS], trainers.BpeTrainer(
        vocab_size=620, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tok.to_str())["model"]
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(0, "<|end|>", special=True), added(len(model["vocab"]), "<|start|>", special=True),
                             added(len(model["vocab"]) + 1, "[tool]"), added(len(model["vocab"]) + 2, "[tool]x", special=True)],
            "normalizer": None, "pre_tokenizer": GPT2, "post_processor": dict(GPT2, trim_offsets=False),
            "decoder": GPT2, "model": model}


def train_marks():
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    tok.train_from_iterator([CORPUS.replace("天", "").replace("म", "")], trainers.BpeTrainer(
        vocab_size=760, special_tokens=names, show_progress=False))
    model = json.loads(tok.to_str())["model"]
    model.update(unk_token="<unk>", fuse_unk=True, byte_fallback=True,
                 merges=[a + " " + b for a, b in model["merges"]])
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(0, "<unk>", special=True, normalized=True), added(1, "<s>", special=True, normalized=True),
                             added(2, "</s>", special=True)],
            "normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
            "pre_tokenizer": None, "post_processor": template(["<s>"], [], {"<s>": [1]}),
            "decoder": sequence("decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
            "model": model}


def make_pieces():
    chars = ["<unk>"] + list("aeiotnsrh .,'1250\n") + ["▁", "Ġ", "Ċ", "é", "the", "th", "an", "ou"]
    vocab = {c: i for i, c in enumerate(chars)}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(0, "<unk>", special=True)],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": [["t", "h"], ["th", "e"], ["a", "n"]]}}


def make_variants(bases):
    n_bytes = len(bases["bytes"]["model"]["vocab"])
    n_marks = len(bases["marks"]["model"]["vocab"])
    n_pieces = len(bases["pieces"]["model"]["vocab"])
    end = bases["bytes"]["added_tokens"][0]
    out = []

    def add(name, base, code_points=False, **patch):
        if "added_tokens" in patch:
            number_added({"model": bases[base]["model"], "added_tokens": patch["added_tokens"]})
        out.append({"name": name, "base": base, "code_points": code_points, "patch": patch})

    def pieces(name, *steps, **patch):
        add(name, "pieces", pre_tokenizer=sequence("pretokenizers", *steps) if len(steps) > 1 else steps[0], **patch)

    flags = [dict(lstrip=bool(i & 1), rstrip=bool(i & 2), single_word=bool(i & 4), normalized=bool(i & 8)) for i in range(16)]
    names = ["<a>", "<b>", " c ", "[d]", "  ", "<f>", "\n", "é", "<A>", "the", "<k>", "<a><b>", "<m>", "in", "<o>", "Noël"]
    lower_names = ["<T0>", "<T1>", "x Y", "[D]", "  ", "<T5>", "B", "É", "<T8>", "The", "<T10>", "<T0><T1>", "<T12>", "IN", "<T14>", "Noël"]
    # Byte-level models as they are found.
    add("gpt2", "bytes")
    add("gpt2-prefix", "bytes", pre_tokenizer=dict(GPT2, add_prefix_space=True))
    add("llama3", "bytes", model={"ignore_merges": True},
        pre_tokenizer=sequence("pretokenizers", split(LLAMA3), BYTES_ONLY),
        post_processor=sequence("processors", GPT2, template(["<|start|>"], [], {"<|start|>": [n_bytes]})))
    add("qwen2", "bytes", normalizer={"type": "NFC"}, pre_tokenizer=sequence("pretokenizers", split(QWEN2), BYTES_ONLY))
    add("smollm", "bytes", pre_tokenizer=sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, GPT2))
    add("o200k", "bytes", pre_tokenizer=sequence("pretokenizers", split(O200K, "Removed", True), BYTES_ONLY))
    add("cl100k", "bytes", pre_tokenizer=sequence("pretokenizers", split(CL100K), BYTES_ONLY))
    add("deepseek3", "bytes", pre_tokenizer=sequence("pretokenizers", split("\\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
                                                     split(DEEPSEEK3), BYTES_ONLY))
    add("deepseek1", "bytes", pre_tokenizer=sequence("pretokenizers", *[split(p) for p in DEEPSEEK1],
                                                     {"type": "Digits", "individual_digits": True}, BYTES_ONLY))
    add("byte-normalizer", "bytes", normalizer={"type": "ByteLevel"}, pre_tokenizer=None,
        added_tokens=[end, added(n_bytes, "[ a é ]", normalized=True), added(n_bytes + 1, "ça", special=True)])
    add("bytes-added", "bytes", added_tokens=[end] + [added(n_bytes + i, t, **f) for i, (t, f) in enumerate(zip(
        names, flags))])
    # SentencePiece style.
    add("llama2", "marks")
    add("llama2-no-fallback", "marks", model={"byte_fallback": False})
    add("llama2-no-fuse", "marks", model={"byte_fallback": False, "fuse_unk": False})
    add("llama2-no-unknown", "marks", model={"byte_fallback": False, "unk_token": None})
    add("llama2-odd-merges", "marks", normalizer={"type": "NFC"}, model={
        "vocab": dict(bases["marks"]["model"]["vocab"], **{t: n_marks + i for i, t in enumerate(
            ["<0xC3><0xA9>", "<0xE2><0x82>", "a<0xC3>", "<unk>a", "ab<unk>", "<0xAC>e"])}),
        "merges": ["<0xC3> <0xA9>", "<0xE2> <0x82>", "a <0xC3>", "<unk> a", "<0xAC> e"] + bases["marks"]["model"]["merges"]})
    add("llama2-ignore-merges", "marks", model={"ignore_merges": True}, pre_tokenizer=metaspace("never"))
    add("mistral", "marks", normalizer=None, pre_tokenizer=metaspace("first", split=False))
    add("metaspace-always", "marks", normalizer=None, pre_tokenizer=metaspace("always", split=True), decoder=metaspace("always"))
    add("metaspace-first", "marks", normalizer=None, pre_tokenizer=metaspace("first", split=True), decoder=metaspace("first"),
        added_tokens=bases["marks"]["added_tokens"] + [added(n_marks, "<t>", lstrip=True, rstrip=True)])
    add("metaspace-never", "marks", normalizer=None, pre_tokenizer=metaspace("never"), decoder=metaspace("never"))
    add("metaspace-old", "marks", normalizer=None, pre_tokenizer=metaspace(add_prefix_space=True, str_rep="▁"),
        decoder=sequence("decoders", {"type": "ByteFallback"}, metaspace(add_prefix_space=True)))
    add("gemma", "marks", normalizer=replace(" ", "▁"), pre_tokenizer=split(" ", "MergedWithPrevious", kind="String"),
        decoder=sequence("decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
        post_processor=template(["<s>", "two"], ["</s>"], {"<s>": [1], "</s>": [2], "two": [2, 1]}))
    add("marks-added", "marks", added_tokens=bases["marks"]["added_tokens"] + [added(n_marks + i, t, **f) for i, (t, f) in enumerate(
        zip(names, flags))])
    add("lower-added", "marks", normalizer=sequence("normalizers", {"type": "Lowercase"}, replace(" ", "▁")),
        added_tokens=bases["marks"]["added_tokens"] + [added(n_marks + i, t, **f) for i, (t, f) in enumerate(
            zip(lower_names,
                flags[8:] + flags[:8]))])
    add("no-decoder", "marks", decoder=None)
    add("decoder-regex", "marks", decoder=sequence("decoders", replace("▁+", " ", "Regex"), {"type": "ByteFallback"}, {"type": "Fuse"},
                                                   replace("[aeiou](?=t)| +", "_", "Regex"), {"type": "Strip", "content": "_", "start": 2, "stop": 0}))
    add("decoder-strip", "marks", decoder=sequence("decoders", {"type": "Strip", "content": "▁", "start": 1, "stop": 0}, {"type": "ByteFallback"},
                                                   replace("he", "", "String")))
    add("decoder-bytes", "marks", decoder=GPT2)
    add("decoder-empty", "marks", decoder=sequence("decoders"))
    add("decoder-fused", "marks", decoder=sequence("decoders", {"type": "Fuse"}, {"type": "ByteFallback"}, metaspace("always"), GPT2,
                                                   replace("", "-")))
    # Normalizers, seen through the byte fallback.
    for form in "NFC", "NFD", "NFKC", "NFKD", "Lowercase":
        add(form.lower(), "marks", code_points=True, normalizer={"type": form})
    add("strip", "marks", normalizer=sequence("normalizers", {"type": "Strip", "strip_left": True, "strip_right": True}, replace("  ", "▁")))
    add("strip-left", "marks", normalizer={"type": "Strip", "strip_left": True, "strip_right": False})
    add("strip-right", "marks", normalizer=sequence("normalizers", {"type": "Strip", "strip_left": False, "strip_right": True},
                                                    {"type": "Prepend", "prepend": "▁ the"}))
    add("replace-empty", "marks", normalizer=sequence("normalizers", replace("", "-"), replace("e-", "")))
    for i, regex in enumerate(REGEXES):
        add("replace-%d" % i, "marks", normalizer=replace(regex, "<>", "Regex"), added_tokens=[])
    # Pre-tokenizers, each cut seen.
    for i, regex in enumerate(REGEXES):
        behavior = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"][i % 5]
        pieces("split-%d" % i, split(regex, behavior, i % 2 == 1))
    for behavior in "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous":
        for invert in False, True:
            pieces("split-%s-%d" % (behavior.lower(), invert), split("[aeé ]|\\p{P}", behavior, invert))
    pieces("split-string", split("the", "MergedWithNext", kind="String"), split("", kind="String"))
    pieces("split-gpt2", GPT2, code_points=True)
    pieces("split-llama3", split(LLAMA3), code_points=True)
    pieces("split-o200k", split(O200K), code_points=True)
    pieces("split-deepseek3", split(DEEPSEEK3), code_points=True)
    pieces("split-w", split("\\w+|[^\\w\\s]+", "Contiguous"), code_points=True)
    pieces("digits", {"type": "Digits", "individual_digits": True}, code_points=True)
    pieces("digits-runs", {"type": "Digits", "individual_digits": False}, metaspace("first"))
    pieces("whitespace", {"type": "Whitespace"}, code_points=True)
    pieces("whitespace-split", {"type": "WhitespaceSplit"}, metaspace("always"), code_points=True)
    pieces("whitespace-first", {"type": "WhitespaceSplit"}, metaspace("first"))
    pieces("single-word", {"type": "WhitespaceSplit"}, code_points=True, added_tokens=[
        added(0, "<unk>", special=True), added(n_pieces, ".a", single_word=True), added(n_pieces + 1, "the", single_word=True, normalized=True)])
    # What Oniguruma reads, and every other part that there is.
    behaviors = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    for i, regex in enumerate(MORE_REGEXES):
        pieces("split-more-%d" % i, split(regex, behaviors[i % 5], i % 3 == 1))
    pieces("split-classes", split("[[:punct:]]|\\p{Cn}|\\p{Han}+|[\\p{Latin}&&[^a-m]]|\\p{Me}|[^[:graph:]]"), code_points=True)
    add("replace-more", "marks", normalizer=replace("[[a-m]&&\\w]+(?=\\b)|\\p{Han}", "<>", "Regex"), added_tokens=[])
    pieces("punctuation", {"type": "Punctuation"}, code_points=True)
    for i, behavior in enumerate(behaviors):
        pieces("punctuation-" + behavior.lower(), {"type": "Punctuation", "behavior": behavior}, metaspace("first"))
    pieces("scripts", {"type": "UnicodeScripts"}, code_points=True)
    pieces("scripts-first", {"type": "UnicodeScripts"}, metaspace("first"))
    pieces("fixed-length", {"type": "FixedLength"}, metaspace("first", split=False))
    pieces("fixed-length-1", {"type": "WhitespaceSplit"}, {"type": "FixedLength", "length": 1})
    pieces("fixed-length-3", metaspace("always"), {"type": "FixedLength", "length": 3})
    pieces("delimiter", {"type": "CharDelimiterSplit", "delimiter": "é"}, {"type": "CharDelimiterSplit", "delimiter": " "}, metaspace("first"))
    pieces("bert-words", {"type": "BertPreTokenizer"}, metaspace("first"))
    add("strip-accents", "marks", code_points=True, normalizer={"type": "StripAccents"})
    add("nfd-strip-accents", "marks", normalizer=sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "NFC"}))
    add("nmt", "marks", code_points=True, normalizer={"type": "Nmt"})
    for name, start in (("strip", {"type": "Strip", "strip_left": True, "strip_right": False}), ("accents", {"type": "StripAccents"}),
                        ("replace", replace("[ \\p{M}]|aa|th", "", "Regex")), ("replace-long", replace("[ \\p{M}]{2}|t|..e", "o", "Regex"))):
        add("first-after-" + name, "marks", normalizer=start, pre_tokenizer=metaspace("first"))
        add("first-after-nfd-" + name, "marks", normalizer=sequence("normalizers", {"type": "Prepend", "prepend": "a"}, {"type": "NFD"}, start, {"type": "Nmt"}, start),
            pre_tokenizer=metaspace("first"))
    cls, sep = ["<s>", 1], ["</s>", 2]
    roberta = {"type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": True, "add_prefix_space": False}
    add("roberta", "marks", post_processor=roberta)
    add("bert", "marks", post_processor={"type": "BertProcessing", "sep": sep, "cls": cls})
    add("processors", "marks", post_processor=sequence("processors", roberta, GPT2, {"type": "BertProcessing", "sep": cls, "cls": sep},
                                                       template(["</s>"], ["<s>", "</s>"], {"<s>": [1], "</s>": [2]}), GPT2))
    return out


def number_added(data):
    """Give added tokens the ids that tokenizers gives them: of the same token in the vocabulary, or new ones."""
    vocab = data["model"]["vocab"]
    next_id = len(vocab)
    for token in data["added_tokens"]:
        token["id"] = vocab.get(token["content"], next_id)
        next_id += token["id"] == next_id


def apply_patch(base, patch):
    out = json.loads(json.dumps(base))
    for key, value in patch.items():
        if key == "model":
            out["model"].update(value)
        else:
            out[key] = value
    return json.dumps(out, ensure_ascii=False)


def write_hashes(folder, name, values):
    with open(os.path.join(folder, name + ".u32"), "wb") as f:
        f.write(struct.pack("<%dI" % len(values), *values))


CASES = ["", " ", "  ", "\n", "Hello, world!", " Hello", "Hello  world ", "It's I'm we'll DON'T they'RE", "naïve façade", "1234567890",
         "x = 10000 + 3.14", "\t\tif (a) {\r\n\t\t}\r\n", "日本語のテキスト", "Съешь же ещё", "안녕하세요", "مرحبا", "👩‍👩‍👧 👍🏽 🇫🇷", "e\u0301 é \u212b",
         "a\u0323\u0301 a\u0301\u0323", "<s>Hello</s> <unk>", "<|end|>x<|start|>", "<|begin_of_text|>Chapter 1<|end_of_text|>", "a\0b",
         "▁the▁", "<0x41>", "   leading", "trailing   ", "\u180e\u200b\u2028", "ſ'ſ 'S", "\ufffd", "Ġhello", "the [tool] [tool]x",
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
CASE_BYTES = [s.encode() for s in CASES] + [b"\xff", b"a\xc3", b"\xe4\xbd", b"\xf0\x9f\x98 x", b"\xed\xa0\x80", b"\xc0\xaf\xf5", b"\xf4\x90\x80\x80",
                                            b"\xe0\x80\x80", b"ok \x80\xbf ok"]


def main():
    root = sys.argv[1]
    shared = sys.argv[2] if len(sys.argv) > 2 else None
    folder = os.path.join(root, "tests/golden/tokenizer")
    os.makedirs(folder, exist_ok=True)

    def dump(name, data):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(data + "\n")

    bases = {"bytes": train_bytes(), "marks": train_marks(), "pieces": make_pieces()}
    for name, base in bases.items():
        dump(name + ".json", json.dumps(base, ensure_ascii=False, separators=(",", ":")))
    variants = make_variants(bases)
    dump("variants.json", "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in variants) + "\n]")
    dump("strings.json", json.dumps(STRINGS, ensure_ascii=False, indent=1))

    demo = Reference(open(os.path.join(root, "jobs/demo/model/tokenizer.json"), encoding="utf-8").read())
    write_hashes(folder, "demo", hashes(demo, 12000, 1, None))
    cases, of_variants, of_codes = [], [], []
    for i, variant in enumerate(variants):
        ref = Reference(apply_patch(bases[variant["base"]], variant["patch"]))
        of_variants += hashes(ref, 400, 100 + i, None)
        if variant["code_points"]:
            of_codes += code_point_hashes(ref)
        if variant["name"] in ("gpt2", "llama3", "llama2", "mistral"):
            cases += [(variant["name"], ref, c) for c in CASE_BYTES]
    write_hashes(folder, "variants", of_variants)
    write_hashes(folder, "code_points", of_codes)
    cases += [("demo", demo, c) for c in CASE_BYTES]
    dump("cases.jsonl", "\n".join(json.dumps(
        {"tokenizer": name, "hex": c.hex(), "ids": ref.encode(c, True), "text": ref.decode(ref.encode(c, True), False).decode()},
        ensure_ascii=True) for name, ref, c in cases))
    if shared:
        texts = sorted(t for t in os.listdir(os.path.join(shared, "texts")) if t.endswith(".txt"))
        novel = b"".join(open(os.path.join(shared, "texts", t), "rb").read() for t in texts)
        write_hashes(folder, "demo_novels", hashes(demo, 3000, 2, novel))
        for seed, name in ((3, "smollm2"), (4, "openllama-3b")):
            path = os.path.join(shared, "tokenizers", name, "tokenizer.json")
            write_hashes(folder, name, hashes(Reference(open(path, encoding="utf-8").read()), 12000, seed, novel))


main()
