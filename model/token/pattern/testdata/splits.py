"""Writes splits.json.gz: random expressions of the dialect, with random texts and the
pieces into which the Python package tokenizers (Oniguruma) cuts them.

    pip install tokenizers==0.23.3
    python splits.py
"""

import gzip
import json
import random

from tokenizers import Regex, pre_tokenizers

rng = random.Random(16)

ATOMS = r"""a b c ab [ab] [^a] . \s \S \w \W é \p{L} \n (?i:a) (?i:[ab]) [\w&&[^b]] A B a++ [ab]*+ a?+
\s++ (?>a*) (?>b) [\s\S] [^[a-b]\s] ' \x{e9} (?<n>a) (?#x)b [[:upper:]] \N \h""".split()
QUANTIFIERS = "* + ? *? +? ?? {2} {1,3} {0,2}? {2,} {2}? {1,2}+ {,2} {2,}+".split()
BETWEEN = r"(?=a) (?!a) (?!\S) (?=[ab]) (?=\s|\z) \z $ ^ \b \B (?=$) (?=b+) (?!a|b)".split()
BEFORE = r"(?<=a) (?<!a) (?<!\S) (?<=[ab]) \A ^ \b \B (?<=\A|b)".split()


def expression(depth):
    if depth == 0 or rng.random() < 0.25:
        return rng.choice(ATOMS)
    kind = rng.randrange(9)
    a, b = expression(depth - 1), expression(depth - 1)
    if kind < 2:
        return "(?:" + a + "|" + b + ")"
    if kind < 4:
        return a + b
    if kind < 6:
        return "(?:" + a + ")" + rng.choice(QUANTIFIERS)
    if kind == 6:
        return a + rng.choice(BETWEEN) + b
    if kind == 7:
        return rng.choice(BEFORE) + a
    return a + "|" + b


cases = []
while len(cases) < 400:
    expr = expression(rng.randint(1, 4))
    if "*+" in expr and "{" in expr:
        continue  # Oniguruma loses matches of repeated groups of possessive ones
    splitter = pre_tokenizers.Split(Regex(expr), "isolated")
    texts = ["".join(rng.choices("aaabbc éAB\n'", k=rng.randrange(1, 12))) for _ in range(6)]
    try:
        pieces = [[p for p, _ in splitter.pre_tokenize_str(text)] for text in texts]
    except BaseException:  # a panic: it gave up
        continue
    cases.append([expr, pieces])
with open("splits.json.gz", "wb") as f:
    with gzip.GzipFile("", "wb", 9, f, 0) as z:
        z.write(json.dumps(cases, ensure_ascii=False, separators=(",", ":")).encode())
