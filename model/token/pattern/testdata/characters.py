"""Writes characters.txt: for each expression below, which is one character, the
first half of the SHA-256 of the characters that it matches in the Python package
tokenizers, as "first-last" in hexadecimal, one range a line, without
surrogates. Takes some minutes.

    pip install tokenizers==0.23.3
    python characters.py names.txt > characters.txt

names.txt has the names of properties, one a line; "go test -run TestCharacters
-names names.txt" writes it.
"""

import hashlib
import sys

from tokenizers import Regex, pre_tokenizers

CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
STEP = 8192

OTHERS = r"""
. \w \W [\w] [^\w] \s \S [\s] [^\s] \d \D [\d] \h \H \N \O
[[:alnum:]] [[:alpha:]] [[:ascii:]] [[:blank:]] [[:cntrl:]] [[:digit:]] [[:graph:]]
[[:lower:]] [[:print:]] [[:punct:]] [[:space:]] [[:upper:]] [[:word:]] [[:xdigit:]] [[:^alpha:]]
[^\s\p{L}\p{N}] [^\r\n\p{L}\p{N}] [\p{L}\p{M}] [\p{P}\p{S}] [\p{L}&&[^\p{Han}]] [a-z&&[^aeiou]] [^a-z&&b]
[a-c-e] []a] [^]a] [+--] [a-] [-a] [^-a] [\n-\r] [\x41-\x{4e00}] [\u4e00-\u9fa5] [[a-c][x-z]] [[^a]&&[^b]]
(?i:k) (?i:s) (?i:i) (?i:a) (?i:[a-z]) (?i:[^a-z]) (?i:\u03c3) (?i:\u00b5) (?i:\u01c6) (?i:[\u0430-\u044f]) (?i:\p{Lu}) (?i:\P{L})
""".split()


def members(expression):
    # Runs of matches are taken away, what is left does not match.
    split = pre_tokenizers.Split(Regex("(?:" + expression + ")+"), "removed")
    for i in range(0, len(CHARACTERS), STEP):
        chunk = CHARACTERS[i : i + STEP]
        at = 0
        for _, (start, end) in split.pre_tokenize_str("".join(map(chr, chunk))):
            yield from chunk[at:start]
            at = end
        yield from chunk[at:]


def ranges(characters):
    first = last = None
    for c in characters:
        if last is not None and c == (0xE000 if last == 0xD7FF else last + 1):
            last = c
            continue
        if last is not None:
            yield "%x-%x\n" % (first, last)
        first = last = c
    if last is not None:
        yield "%x-%x\n" % (first, last)


names = open(sys.argv[1]).read().split()
for expression in OTHERS + [r"\p{%s}" % name for name in names]:
    digest = hashlib.sha256("".join(ranges(members(expression))).encode()).hexdigest()
    print(expression, digest[:32], flush=True)
