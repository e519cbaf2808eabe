#!/bin/sh
# Exports a small trained model of each kind, and has transformers compute its logits:
# whether modeling_sffn.py, too, runs and agrees. Needs a Python with torch and
# transformers.
#
#	PYTHON=python3 model/hub/testdata/compare.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$here" && go build -o "$work/sffn" ../../../cmd/sffn)
cd "$work"
cat "$here"/*.py > text.txt
echo '[105, 109, 112, 111, 114, 116, 32, 116, 111, 114, 99, 104, 10, 256, 0, 255]' > ids.json
./sffn prepare --text text.txt --out data > /dev/null
shape='vocab: 257, hidden: 32, ffn: 64, layers: 3, q_heads: 4, max_positions: 64'
while read -r name model; do
	echo "model: {$shape, $model}
train: {steps: 3, batch: 2, seq: 32, lr: 0.01}" > "$name.yaml"
	./sffn train --config "$name.yaml" --data data --out "$name" > /dev/null 2>&1
	./sffn export --model "$name" --as hf --out "$name-hf" > /dev/null 2>&1
	./sffn logits --model "$name" --ids ids.json --out "$name.safetensors" > /dev/null
	echo "$name"
	"${PYTHON:-python3}" "$here/compare.py" "$name-hf" ids.json "$name.safetensors" 2> errors.txt || { cat errors.txt; exit 1; }
done <<KINDS
gpt2 position: absolute
llama norm: rmsnorm, act: swiglu, bias: false
layernorm-rope mlp: {kind: dense}
lowrank mlp: {kind: lowrank, rank: 8}
blockdense norm: rmsnorm, act: swiglu, kv_heads: 2, mlp: {kind: blockdense, rank: 16, blocks: 4, first_layer_dense: false}
blockshuffle qk_norm: true, scale_attn_by_layer: true, mlp: {kind: blockshuffle, blocks: 4}
btt norm: rmsnorm, bias: false, window: 8, mlp: {kind: btt, rank: 1, first_layer_dense: false}
blast position: absolute, act: swiglu, tie_embeddings: false, mlp: {kind: blast, rank: 5, blocks: 4}
KINDS
