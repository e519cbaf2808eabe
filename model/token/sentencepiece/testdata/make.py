"""Makes cases.zip: small SentencePiece models and what the library does with them.

    python3 -m venv venv && venv/bin/pip install sentencepiece==0.2.3 protobuf
    venv/bin/python make.py $(go env GOROOT)

Written with Python 3.11 and Go 1.26.8, whose sources and text of Newton's Opticks
the models are trained on. The same versions write the same bytes.
"""

import base64
import hashlib
import json
import os
import random
import struct
import sys
import tempfile
import zipfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

# name: (pieces, options of the trainer)
MODELS = {
    "bpe-bytes": (1000, dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.99)),
    "bpe-symbols": (800, dict(model_type="bpe", user_defined_symbols=["<sep>", "foo bar", "  ", "▁▁", "日本", "aab", "ab", "\n", "fi"], character_coverage=0.98)),
    "bpe-suffix": (800, dict(model_type="bpe", treat_whitespace_as_suffix=True, normalization_rule_name="nmt_nfkc_cf", character_coverage=0.98)),
    "bpe-spaces": (900, dict(model_type="bpe", allow_whitespace_only_pieces=True, remove_extra_whitespaces=False, split_by_whitespace=False, split_digits=True, byte_fallback=True, normalization_rule_name="identity", character_coverage=0.98)),
    "unigram": (1000, dict(model_type="unigram", character_coverage=0.99)),
    "unigram-fold": (1000, dict(model_type="unigram", normalization_rule_name="nmt_nfkc_cf", byte_fallback=True, character_coverage=0.98)),
    "unigram-symbols": (800, dict(model_type="unigram", user_defined_symbols=["<sep>", "foo bar", "  ", "▁▁", "日本", "aab", "ab", "\n", "a"], character_coverage=0.98)),
    "unigram-bare": (1000, dict(model_type="unigram", normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, byte_fallback=True, allow_whitespace_only_pieces=True, character_coverage=0.98)),
    "unigram-suffix": (800, dict(model_type="unigram", treat_whitespace_as_suffix=True, character_coverage=0.98)),
    "unigram-whole": (800, dict(model_type="unigram", split_by_whitespace=False, split_by_unicode_script=False, split_by_number=False, remove_extra_whitespaces=False, max_sentencepiece_length=32, character_coverage=0.98)),
    "word": (1000, dict(model_type="word", user_defined_symbols=["<sep>", "foo bar"])),
    "char": (500, dict(model_type="char", user_defined_symbols=["<sep>", "ab"], character_coverage=0.98)),
    "char-bytes": (500, dict(model_type="char", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, bos_id=-1, pad_id=3, eos_piece="<eot>", character_coverage=0.98)),
}

CODE = 'func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {\n\tif off < 0 {\n\t\treturn 0, errors.New("negative offset")\n\t}\n\n    for i := range p { p[i] = \'\\x00\' } // 0x1F, 3.14e-10\n}\n'
ENGLISH = "Light is propagated from luminous Bodies in time, and spends about seven or eight Minutes of an Hour in passing from the Sun to the Earth. "
TEXTS = [
    "", "a", " ", "   ", "\n", "\t", "▁", "▁▁", " a", "a ", "  a  b  ", "a ▁ b ▁", "▁ ", " ▁a",
    "\x00", "\x01", "\x01 ", " \x01", "a\x00b\x7f\x85", "\u200b", "\u3000　a\u00a0b\u2028c", "\ufeffa", "\ufffd",
    "Hello, world!", ENGLISH, CODE, CODE.replace("\n", "\r\n"),
    "Ǆ ﬁ ﬃ ① ½ ㌔ ｶﾞ ﷺ Å ™ … ẞ ß İ ſ Σς", "e\u0301 é가 가 o\u0308\u0323", "a" + "\u0301\u0316" * 40,
    "日本語のテキストは空白で区切られない。中文也一样。한국어는 띄어쓰기를 한다.",
    "👩‍👩‍👧‍👦👍🏽🇩🇪🏳️‍🌈❤️☺ \U0010ffff\ud7ff\ue000\uffff\U00010000",
    "שלום עולم مرحبا بالعالم", "<s></s><unk><pad><sep><0x0A><eot>", "x<s>y</s>z",
    "foo bar foo  bar foobar", "aabab aaab ab aa b", "日本 日本日 fi ﬁ", "\n\n\n\n  \n\t\t  \n", " \n" * 50,
    " " * 200 + "x" + " " * 77, "=" * 300 + "-" * 99 + "0" * 130 + "1234567890" * 5, "ab" * 150, "\u0915\u094d\u0937\u093f" * 9, "\u0378\u1ff5\U000e01ef",
]
# Bytes that are no UTF-8.
BYTES = [b"\xff", b"a\xc3", b"\xe6\x97", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80 x", "日".encode() + b"\x97b\xf4\x90\x80\x80", b"\x80 \x80", b" \xff ", b"\xe2\x96\x81\xe2\x96"]
# Long lines: unigram sums have rounded, and begin again at 0.
LONG = [(ENGLISH, 3000), (CODE.replace("\n", " ") + ENGLISH + "日本語のテキスト ", 500), (" ", 70000), ("a", 70000), ("👩‍👩‍👧‍👦", 4000), ("\n", 40000), ("ﬁé½ ", 15000)]


def corpus(goroot):
    parts = []
    for folder in ("fmt", "strings", "sort", "bufio"):
        path = os.path.join(goroot, "src", folder)
        for name in sorted(os.listdir(path)):
            if name.endswith(".go") and not name.endswith("_test.go"):
                parts.append(open(os.path.join(path, name), encoding="utf-8").read())
    parts.append(open(os.path.join(goroot, "src/testdata/Isaac.Newton-Opticks.txt"), encoding="utf-8").read()[:250_000])
    r = random.Random(3)
    han = [chr(c) for c in range(0x4E00, 0x4E00 + 60)] + list("日本語中文也一样的是不了人在有")
    kana = [chr(c) for c in range(0x3041, 0x3097)]
    words = ["".join(r.choice(han if r.random() < 0.7 else kana) for _ in range(r.randint(1, 3))) for _ in range(300)]
    for _ in range(1500):
        parts.append("".join(words[int(len(words) * r.random() ** 2)] for _ in range(r.randint(3, 15))) + "。\n")
    return "".join(parts)


def split_map(model):
    m = pb.ModelProto.FromString(model)
    table = m.normalizer_spec.precompiled_charsmap
    m.normalizer_spec.ClearField("precompiled_charsmap")
    # The trainer's words on its own run name files of this machine.
    for field in ("input", "model_prefix"):
        m.trainer_spec.ClearField(field)
    return m.SerializeToString(), table


def with_map(model, table):
    """Messages that stand behind each other are merged: this is a model file."""
    if not table:
        return model
    m = pb.ModelProto()
    m.normalizer_spec.precompiled_charsmap = table
    return model + m.SerializeToString()


def digest(ids):
    return hashlib.sha256(struct.pack("<%di" % len(ids), *ids)).hexdigest()


def load(model):
    p = sentencepiece.SentencePieceProcessor()
    p.load_from_serialized_proto(model)
    return p


def what(p, texts):
    ids = [p.encode(t) for t in texts]
    return dict(ids=ids, decoded=[p.decode(i) for i in ids], bos=p.bos_id(), eos=p.eos_id(), unk=p.unk_id())


def random_model(r):
    """A model such as no training makes: unused pieces, equal, huge and positive
    scores, characters that are no pieces, user-defined symbols that overlap."""
    m = pb.ModelProto()
    t, n = m.trainer_spec, m.normalizer_spec
    t.model_type = r.choice([1, 1, 2, 2, 2, 3, 4])
    t.byte_fallback = r.random() < 0.05
    t.treat_whitespace_as_suffix = r.random() < 0.2
    n.add_dummy_prefix = r.random() < 0.6
    n.remove_extra_whitespaces = r.random() < 0.5
    n.escape_whitespaces = r.random() < 0.95
    seen = set()

    def add(text, kind, score=0.0):
        seen.add(text)
        p = m.pieces.add()
        p.piece, p.type, p.score = text, kind, score

    if not (t.byte_fallback and r.random() < 0.3):
        add("<unk>", 2)
    add("<s>", 3)
    add("</s>", 3)
    if t.byte_fallback:
        for b in range(256):
            add("<0x%02X>" % b, 6)
    alphabet = r.choice(["ab", "abc▁", "ab▁é日", "ab<s>▁😀"])
    score = r.choice([
        lambda: -float(r.randint(0, 30)), lambda: -20 * r.random(), lambda: r.choice([-1.0, -2.0, -0.0, 0.0, 1.0]),
        lambda: r.uniform(-1, 1) * 10 ** r.uniform(0, 38), lambda: -3000 * r.random()])
    share_unused, share_symbols = r.choice([0, 0, 0.2, 0.5]), r.choice([0, 0, 0.1, 0.3])
    for _ in range(r.randint(1, 40)):
        text = "".join(r.choice(alphabet) for _ in range(min(8, 1 + int(r.expovariate(0.5)))))
        if text not in seen or r.random() < 0.02:
            k = r.random()
            add(text, 4 if k < share_symbols else 5 if k < share_symbols + share_unused else 1, score())
    if r.random() < 0.5:
        for c in alphabet:
            if c not in seen:
                add(c, 1, -20 * r.random())
    texts = ["".join(r.choice(alphabet + "  x\n") for _ in range(r.choice([0, 1, 3, 10, 40, 150]))) for _ in range(4)]
    return m.SerializeToString(), texts


def made(kind, pieces, bytes=False):
    m = pb.ModelProto()
    m.trainer_spec.model_type = kind
    m.trainer_spec.byte_fallback = bytes
    n = m.normalizer_spec
    n.add_dummy_prefix = n.remove_extra_whitespaces = False
    pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3)] + pieces
    if bytes:
        pieces += [("<0x%02X>" % b, 0, 6) for b in range(256)]
    for text, score, type in pieces:
        p = m.pieces.add()
        p.piece, p.score, p.type = text, score, type
    return m.SerializeToString()


def made_models():
    """Models for what random ones do not meet, and texts."""
    # How far the unknown piece is below the others.
    for low in (-5.1, -5.2):
        yield made(1, [("bcdef", -0.25, 1), ("ab", low, 1), ("cd", low, 1), ("ef", low, 1)]), ["abcdef"]
    # Unused pieces are cut a hundred times.
    for last in (5, 1):
        yield made(2, [("a", -9, 1), ("b", -9, 1)] + [("b" + "a" * i, -i, 5) for i in range(1, 130)] + [("b" + "a" * 130, -130, last)]), ["b" + "a" * n for n in (2, 99, 100, 101, 102, 103, 129, 130, 131)]
    # A zero byte, which converters write beside <0x00>.
    for kind in (1, 2, 3, 4):
        yield made(kind, [("a", -1, 1), ("\0", -1, 1)], bytes=True), ["a\0a", "\0"]
        yield made(kind, [("a", -1, 1), ("\0", -1, 5)]), ["a\0a", "\0"]
        yield made(kind, [("a", -1, 1), ("\0", -1, 1)]), ["a\0a"]
    # Scores that a float32 hardly tells from each other, and unknown characters
    # that make sums large.
    r = random.Random(5)
    for low in (-499.0, -499.5, -33333.3, -33334.7):
        words = {"".join(r.choice("ab") for _ in range(r.randint(2, 5))) for _ in range(14)}
        pieces = [("a", -0.02, 1), ("b", -0.03, 1), ("z", low, 1)] + [(w, -0.01 * r.randint(len(w), 3 * len(w)), 1) for w in sorted(words)]
        yield made(1, pieces), ["".join(r.choice("abab  x") for _ in range(700)) for _ in range(3)]
    # More than 64 user-defined symbols that begin alike.
    for kind in (1, 2):
        yield made(kind, [("a", -1, 1), ("▁", -1, 1)] + [("a" * i, 0, 4) for i in range(2, 100)] + [("a" * 50 + "▁", 0, 4)]), ["a" * n for n in (3, 63, 64, 65, 66, 67, 99, 100, 250)] + ["a" * 50 + " a"]


def main():
    sentencepiece.set_min_log_level(3)
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "corpus")
        open(text, "w", encoding="utf-8").write(corpus(sys.argv[1]))
        cases = []
        for name, (size, options) in MODELS.items():
            prefix = os.path.join(folder, name)
            sentencepiece.SentencePieceTrainer.train(input=text, model_prefix=prefix, vocab_size=size, num_threads=1, max_sentence_length=20000, hard_vocab_limit=False, minloglevel=2, **options)
            model, table = split_map(open(prefix + ".model", "rb").read())
            files[name + ".model"] = model
            rules = options.get("normalization_rule_name", "nmt_nfkc")
            if table:
                files[rules + ".map"] = table
            p = load(with_map(model, table))
            case = dict(name=name, map=rules if table else "", **what(p, TEXTS))
            case["bytes"] = [p.encode(b) for b in BYTES]
            case["long"] = []
            for part, n in LONG:
                ids = p.encode(part * n)
                case["long"].append(dict(count=len(ids), sha256=digest(ids)))
            cases.append(case)
    r = random.Random(11)
    randoms = []
    for model, texts in list(made_models()) + [random_model(r) for _ in range(300)]:
        case = dict(model=base64.b64encode(model).decode())
        try:
            p = load(model)
        except RuntimeError as e:
            case["error"] = str(e)
        else:
            case.update(texts=texts, **what(p, texts))
        randoms.append(case)
    files["cases.json"] = json.dumps(dict(texts=TEXTS, bytes=[base64.b64encode(b).decode() for b in BYTES], long=LONG, models=cases, random=randoms), ensure_ascii=True, separators=(",", ":")).encode()
    here = os.path.dirname(os.path.abspath(__file__))
    with zipfile.ZipFile(os.path.join(here, "cases.zip"), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for name in sorted(files):
            z.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), files[name], zipfile.ZIP_DEFLATED, 9)


main()
