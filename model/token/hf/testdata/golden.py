"""Makes golden.json.gz: tokenizers of every supported component, texts, and what
the Python package tokenizers (0.23.3) makes of them.

usage: python golden.py, in this folder
"""

import gzip
import json
import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LINES = """The quick brown fox jumps over the lazy dog; it's what they've said, isn't it? I'LL go.
func main() { for i := 0; i < 100; i++ { fmt.Println("hello, world", i) } }
		if err != nil { return nil, fmt.Errorf("%w: line %d", err, n) }
Der schnelle Fuchs springt über den faulen Hund. L'été, où l'œuvre naïve s'achève.
Быстрая лиса прыгает через ленивую собаку. 素早い茶色の狐が怠け者の犬を飛び越える。快速的棕色狐狸跳过懒狗。
The the the there then they them this that these those with width within without 2024 1999 12345
class Token: def __init__(self, value): self.value = value  # comment   with   spaces
a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
""".split("\n") * 3

TEXTS = [
    "",
    "Hello, world!",
    " leading and trailing  ",
    "   three spaces\n\n\nnewlines\t\ttabs \r\n mixed \n \n",
    "it's I'LL they'VE 'ſ don't'm",
    "123 4567890 ½ ² Ⅷ ٣٤٥ 1e10",
    "fn(x)[i]{}<>!=->::=>//**",
    "été été ﬁ ① ㎏ Å Å ｱﾞ",
    "한국어 각 각 각",
    "日本語のテキスト、漢字。ひらがな！",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪",
    "a" + "".join(chr(0x300 + i * 7 % 0x70) for i in range(40)) + "b",
    "ậ ậ ậ ậ ģ̈",
    "\u0301\u0323 leading marks",
    "שָׁלוֹם עולם مَرْحَبًا",
    "\x00\x01\x7f\u0080\u0085\u00a0\u2028\u3000\ufeff\u200b\u200d",
    "\ufffd\ud7ff\ue000\uffff\U0010ffff\U0001fae9\U00011930\U00011935\U00011930\u0c3c\u0323",
    "<s>text</s> <s> </s>  <|end|>x<|end|> <|endoftext|><|endof",
    "word swordfish word, word_ wordword Word",
    "  <mask>  and<mask>\n<mask>  ",
    "<0x41><0x0A> <unk> [UNK]",
    "▁ ▁▁a▁b  ▁",
    "the_the-the.the the",
    "QQQQ ZZZ ∀∃ ☃☃ x☃y",
    "ΑΣ İstanbul ẞ Ǆ \U00010400 \ua7dc",
    "a" * 100 + " " * 100 + "\n" * 70 + "=" * 33,
    "--a--b- -c---d--",
    "\n",
    " ",
    "١٢٣abc12x3",
    "\u1885\u1886 \u0d4e\u1d16d",
]

POOL = list("aaaeettth   ..,'\n\t012[]<>_-▁é字あ") + [
    "  ", " the", "</s>", "<s>", "<|end|>", "<mask>", "word", "\u0301", "\u0323", "\u0327", "\u1100", "\u1161", "\u11a8", "가", "각",
    "ﬁ", "①", "ſ", "K", "Å", "👍", "🏽", "\u200d", "\u00a0", "\r\n", "☃", "Q", "'s", "'S", "İ", "٣", "\x00", "\ufffd", "ậ", "--", "!",
]
rng = random.Random(23)
TEXTS += ["".join(rng.choice(POOL) for _ in range(rng.randrange(2, 60))) for _ in range(30)]


def trained(vocab, unk=None, **options):
    """The model field of a tokenizer trained on LINES."""
    byte_level = options.pop("byte_level", False)
    t = Tokenizer(models.BPE(unk_token=unk))
    special = [unk] if unk else []
    if byte_level:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        special += ["<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
        alphabet = []
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    t.train_from_iterator(LINES, trainer)
    model = json.loads(t.to_str())["model"]
    model.update(options)
    return model


BYTES = trained(420, byte_level=True)
CHARS = trained(620, unk="<unk>", byte_fallback=True, fuse_unk=True)


def variant(model, **options):
    model = json.loads(json.dumps(model))
    drop = options.pop("drop", [])
    for token in drop:
        del model["vocab"][token]
    model["merges"] = [m for m in model["merges"] if not any(t in drop for t in (m[0], m[1], m[0] + m[1]))]
    ids = sorted(model["vocab"].items(), key=lambda item: item[1])
    model["vocab"] = {token: i for i, (token, _) in enumerate(ids)}
    model.update(options)
    return model


MODELS = {
    "bytes": BYTES,
    "bytes, ignoring merges": variant(BYTES, ignore_merges=True, merges=BYTES["merges"][:60]),
    "bytes, old form": {k: v if k != "merges" else [" ".join(m) for m in v] for k, v in BYTES.items() if k not in ("type", "ignore_merges", "byte_fallback")},
    "bytes, some missing": variant(BYTES, drop=["a", "é", "Ġ", "Ã"], unk_token="!"),
    "chars": CHARS,
    "chars, no fusing": variant(CHARS, fuse_unk=False, byte_fallback=False),
    "chars, fusing": variant(CHARS, byte_fallback=False),
    "chars, no unknown": variant(CHARS, byte_fallback=False, unk_token=None),
    "chars, some bytes": variant(CHARS, drop=["<0xE2>", "<0xF0>", "<0xCC>"]),
    "chars, some bytes, no fusing": variant(CHARS, drop=["<0xE2>", "<0xF0>", "<0xCC>"], fuse_unk=False),
    "chars, ignoring merges": variant(CHARS, ignore_merges=True, merges=CHARS["merges"][:80]),
    "chars, merged over spaces": variant(CHARS, vocab=dict(CHARS["vocab"], **{"e▁": len(CHARS["vocab"]), "e▁t": len(CHARS["vocab"]) + 1}), merges=[["e", "▁"], ["e▁", "t"]] + CHARS["merges"]),
    "twice": variant(BYTES, merges=BYTES["merges"] + BYTES["merges"][:40][::-1]),
}


def token(content, **options):
    t = {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    t.update(options)
    return t


END = [token("</s>")]
MANY = [
    token("<s>"), token("</s>"), token("<|end|>"), token("<|end|>x", special=False), token("<mask>", lstrip=True, rstrip=True),
    token("word", special=False, normalized=True, single_word=True), token("the t", special=False, normalized=True),
    token("\n", special=False, lstrip=True), token("--", special=False, normalized=True, rstrip=True), token("ﬁ", special=False, normalized=True),
    token("É", special=False, normalized=True), token("  ", special=False),
]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PLAIN = dict(BYTE_LEVEL, use_regex=False)
META = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LLAMA = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
LLAMA_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts, key="pretokenizers"):
    return {"type": "Sequence", key: list(parts)}


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CASES = []


def case(name, model="bytes", **fields):
    CASES.append(dict({"name": name, "model": model, "added_tokens": END, "normalizer": None, "pre_tokenizer": BYTE_LEVEL, "post_processor": None, "decoder": BYTE_LEVEL}, **fields))


for name in MODELS:
    if name.startswith("chars"):
        case("Llama 2, " + name, name, normalizer=LLAMA, pre_tokenizer=None, decoder=LLAMA_DECODER)
    else:
        case("GPT-2, " + name, name)
case("Llama 3", "bytes, ignoring merges", pre_tokenizer=sequence(split(LLAMA3), PLAIN), post_processor=sequence(
    BYTE_LEVEL,
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "bos", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
     "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
     "special_tokens": {"bos": {"id": "bos", "ids": [7, 8], "tokens": ["a", "b"]}}},
    key="processors"))
case("Qwen 2", normalizer={"type": "NFC"}, pre_tokenizer=sequence(split(LLAMA3.replace("{1,3}", "")), PLAIN))
for form in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]:
    case(form, normalizer={"type": form}, added_tokens=MANY)
for left in (False, True):
    for right in (False, True):
        case(f"strip {left} {right}", normalizer=sequence({"type": "Strip", "strip_left": left, "strip_right": right}, key="normalizers"), added_tokens=MANY)
case("replace", normalizer=sequence({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Replace", "pattern": {"String": "th"}, "content": ""}, {"type": "Prepend", "prepend": ">"}, key="normalizers"), added_tokens=MANY)
case("no normalizers", normalizer=sequence(key="normalizers"), pre_tokenizer=sequence(BYTE_LEVEL), added_tokens=MANY)
case("bytes as normalizer", normalizer={"type": "ByteLevel"}, pre_tokenizer=split("Ġ", "MergedWithNext", kind="String"), added_tokens=MANY)
case("no pre-tokenizer", pre_tokenizer=None)
case("prefix", pre_tokenizer=dict(BYTE_LEVEL, add_prefix_space=True), added_tokens=MANY)
case("whole", pre_tokenizer=PLAIN)
for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
    for invert in (False, True):
        case(f"split {behavior} {invert}", pre_tokenizer=sequence(split("[-t ]|12", behavior, invert), PLAIN))
    case(f"split string {behavior}", pre_tokenizer=sequence(split("--", behavior, kind="String"), PLAIN))
    case(f"punctuation {behavior}", pre_tokenizer=sequence({"type": "Punctuation", "behavior": behavior}, PLAIN))
case("DeepSeek", pre_tokenizer=sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"), PLAIN))
case("digits", pre_tokenizer=sequence({"type": "Digits", "individual_digits": False}, BYTE_LEVEL))
case("single digits", pre_tokenizer=sequence({"type": "Digits", "individual_digits": True}, BYTE_LEVEL))
case("Falcon", pre_tokenizer=sequence({"type": "Punctuation", "behavior": "Contiguous"}, BYTE_LEVEL, {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")))
case("white space", pre_tokenizer=sequence({"type": "WhitespaceSplit"}, PLAIN))
case("words", pre_tokenizer=sequence({"type": "Whitespace"}, PLAIN))
case("added tokens", added_tokens=MANY)
case("null decoder", decoder=None)
for scheme in ["always", "first", "never"]:
    for parts in (True, False):
        meta = dict(META, prepend_scheme=scheme, split=parts)
        case(f"metaspace {scheme} {parts}", "chars", pre_tokenizer=meta, decoder=meta, added_tokens=MANY)
case("old metaspace", "chars", pre_tokenizer={"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "str_rep": "▁"}, decoder=META)
case("first behind others", "chars", normalizer={"type": "NFKC"}, pre_tokenizer=sequence(split("t", "Removed"), dict(META, prepend_scheme="first")), decoder=META, added_tokens=MANY)
case("first behind replaced", "chars", normalizer={"type": "Replace", "pattern": {"String": "w"}, "content": "the"}, pre_tokenizer=dict(META, prepend_scheme="first"), decoder=META, added_tokens=MANY)
case("Llama 2 with many tokens", "chars", normalizer=LLAMA, pre_tokenizer=None, decoder=LLAMA_DECODER, added_tokens=MANY)
case("Gemma", "chars", normalizer=LLAMA["normalizers"][1], pre_tokenizer=split(" ", "MergedWithPrevious", kind="String"), decoder={"type": "Sequence", "decoders": LLAMA_DECODER["decoders"][:3]})
case("Bert", post_processor={"type": "BertProcessing", "sep": ["b", 5], "cls": ["a", 3]})
case("Roberta", post_processor={"type": "RobertaProcessing", "sep": ["b", 5], "cls": ["a", 3], "trim_offsets": True, "add_prefix_space": True})
case("strip of each token", "chars", pre_tokenizer=META, decoder={"type": "Sequence", "decoders": [{"type": "Strip", "content": "▁", "start": 2, "stop": 0}, {"type": "Replace", "pattern": {"Regex": "[aeo]"}, "content": "*"}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "t"}, "content": "TT"}]})

out = []
for c in CASES:
    fields = {k: v for k, v in c.items() if k not in ("name", "model")}
    model = MODELS[c["model"]]
    following = len(model["vocab"])
    numbered = []
    for t in fields["added_tokens"]:
        known = model["vocab"].get(t["content"])
        numbered.append(dict({"id": following if known is None else known}, **t))
        following += known is None
    fields["added_tokens"] = numbered
    file = dict({"version": "1.0", "truncation": None, "padding": None}, **fields, model=model)
    t = Tokenizer.from_str(json.dumps(file))
    results = []
    for text in TEXTS:
        t.encode_special_tokens = False
        ids = t.encode(text, add_special_tokens=False).ids
        framed = t.encode(text, add_special_tokens=True).ids
        decoded = t.decode(ids, skip_special_tokens=True)
        t.encode_special_tokens = True
        ordinary = t.encode(text, add_special_tokens=False).ids
        results.append({"ids": ids, "ordinary": ordinary if ordinary != ids else None, "framed": framed if framed != ids else None, "decoded": decoded})
    out.append({"name": c["name"], "model": c["model"], "fields": fields, "results": results})

# Marks in any order, what composes and what seems to, before and after Unicode 9.
MARKS = [0x61, 0x65, 0xE9, 0x1EAD, 0xD46, 0xD57, 0x9C7, 0x9BE, 0x1100, 0x1161, 0x11A8, 0xAC00, 0xAC01, 0x300, 0x301, 0x308, 0x323, 0x327, 0x344, 0x345,
         0x3099, 0x304B, 0xFB1D, 0x5B0, 0x1D157, 0x1D165, 0x1D16E, 0xFDFA, 0x212B, 0x2126, 0xFA2D, 0xF71, 0xF72, 0xF74, 0xF80, 0xDD9, 0xDCA, 0xDCF, 0x102E, 0x1025,
         0x11099, 0x110BA, 0x11131, 0x11127, 0x1133E, 0x11347, 0x114B9, 0x114BA, 0x115B8, 0x115AF, 0x11930, 0x11935, 0x8D3, 0x897, 0x34F, 0x200D, 0x20, 0x41, 0x338, 0x3D,
         0x2ADC, 0x340, 0x343, 0x374, 0x1E9B, 0x958, 0x93C, 0x915, 0x1F71, 0x113C5, 0x11383, 0x113C2, 0x10041, 0x20061, 0x100065]
forms = []
for _ in range(600):
    text = "".join(chr(rng.choice(MARKS) if rng.random() < 0.85 else rng.randrange(0x300, 0x370)) for _ in range(rng.choice([2, 3, 4, 5, 6, 8, 50])))
    forms.append([text] + [form.normalize_str(text) for form in (normalizers.NFC(), normalizers.NFD(), normalizers.NFKC(), normalizers.NFKD())])

golden = {"forms": forms, "models": MODELS, "texts": TEXTS, "cases": out}
with open("golden.json.gz", "wb") as f:
    f.write(gzip.compress(json.dumps(golden, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 9, mtime=0))
