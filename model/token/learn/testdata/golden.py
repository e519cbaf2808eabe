"""Writes golden.json.gz: see README.md."""

import gzip
import json
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# One that leaves gaps, which are words too.
CUSTOM = r"[a-z]+|\p{Lu}\p{Ll}*|\d{1,2}(?=\d)"

END = "<|endoftext|>"

rng = random.Random(20)


def word(letters):
    return "".join(rng.choice(letters) for _ in range(1 + int(rng.expovariate(0.3))))


def made_up(letters, separators, words):
    known = [word(letters) for _ in range(60)]
    return "".join(
        (known[int(rng.expovariate(0.1)) % 60] if rng.random() < 0.8 else word(letters))
        + rng.choice(separators)
        for _ in range(words)
    )


def texts(newton, words):
    return newton + [
        made_up("abcdefABC_019", [" ", "(", ")\n\t", "\n\t\t", " := ", "++\n", ".", ", "], words),
        made_up("абвгдежзикл", [" ", ", ", "\n", "\r\n"], words),
        made_up("的一是不了人我在有他", ["", "", "。", ",", "\u3000"], words),
        made_up("αβγδε\u0301\u0308", [" ", "'s ", "'RE ", "'\u017f "], words // 2),
        made_up("👩💻\u200d🏽😀", ["", " ", "\n"], words // 2),
        made_up("0123456789", [" ", ",", ".", "%"], words // 2),
        "a" * 700 + " " * 300 + "\n" * 100 + "=" * 90 + "\x00\x00\ufffd\ufffd",
        "word" + END + "word" + END * 3,
        "",
        " ",
    ]


def pre_tokenizer(pattern):
    if pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def learn(pattern, vocab, train, further):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizer(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    t.train_from_iterator(train, trainer)
    merges = [tuple(m) for m in json.loads(t.to_str())["model"]["merges"]]
    tokens = sorted(alphabet) + [a + b for a, b in merges]
    ids = {token: i for i, token in enumerate(tokens)}
    assert len(ids) == len(tokens) == t.get_vocab_size() - 1
    last = Tokenizer(models.BPE(vocab=ids, merges=merges))
    last.pre_tokenizer = pre_tokenizer(pattern)
    last.decoder = decoders.ByteLevel()
    last.add_special_tokens([AddedToken(END, normalized=False, special=True)])
    return {
        "pattern": pattern or "",
        "vocab": vocab,
        "merges": [[ids[a], ids[b]] for a, b in merges],
        "ids": [last.encode(text, add_special_tokens=False).ids for text in further],
    }


opticks = open(sys.argv[1], encoding="utf-8").read()
paragraphs = opticks[20000:70000].split("\n\n")
train = texts(["\n\n".join(paragraphs[i : i + 8]) for i in range(0, len(paragraphs), 8)], 1500)
further = texts([opticks[200000:204000]], 60)
golden = {
    "train": train,
    "further": further,
    "learned": [
        learn(None, 2000, train, further),
        learn(LLAMA3, 1500, train, further),
        learn(CUSTOM, 700, train, further),
        learn(None, 30000, train[-5:], further),  # more than there is
    ],
}
with open("golden.json.gz", "wb") as f:
    with gzip.GzipFile("", "wb", 9, f, 0) as z:
        z.write(json.dumps(golden, ensure_ascii=False, separators=(",", ":")).encode())
