"""Encodes the lines of standard input, each a JSON string, with the library that
the tokenizer's file comes from, and writes for each the number of its ids and the
ids, 32 bits each. The last line of standard error is the
seconds of processor time that encoding took.

usage: reference.py FILE [ordinary]
"""

import array
import json
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

name = sys.argv[1]
if name.endswith(".json"):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(name)
    tokenizer.encode_special_tokens = "ordinary" in sys.argv[2:]
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text):
        return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
else:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=name)

    def encode(text):
        return model.encode(text)


seconds = 0.0
for line in sys.stdin:
    text = json.loads(line)
    start = time.process_time()
    ids = encode(text)
    seconds += time.process_time() - start
    sys.stdout.buffer.write(array.array("I", [len(ids)]).tobytes())
    sys.stdout.buffer.write(array.array("I", ids).tobytes())
sys.stdout.flush()
print(seconds, file=sys.stderr)
