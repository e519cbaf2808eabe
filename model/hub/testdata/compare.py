"""Compares a model that sffn exported with what transformers makes of it.

    sffn export --model RUN --as hf --out HUB
    sffn logits --model RUN --ids IDS.json --out LOGITS.safetensors
    python compare.py HUB IDS.json LOGITS.safetensors [ORIGINAL]

prints how far the logits are from transformers' in float32; the largest of these; and,
where there is an original folder, whether the tensors are the same.
"""
import glob
import json
import os
import sys

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def tensors(folder):
    all = {}
    for name in glob.glob(os.path.join(folder, "model*.safetensors")):
        all |= load_file(name)
    return all


def main(hub, ids, logits, original=None):
    ids = json.load(open(ids))
    ids = torch.tensor(ids["ids"] if isinstance(ids, dict) else ids)[None]
    model, report = AutoModelForCausalLM.from_pretrained(hub, torch_dtype=torch.float32, attn_implementation="eager", trust_remote_code=True, output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    model.eval()
    with torch.no_grad():
        want = model(ids).logits[0]
        steps, past = [], None
        for i in range(ids.shape[1]):
            out = model(ids[:, i:i + 1], past_key_values=past, use_cache=True)
            past = out.past_key_values
            steps.append(out.logits[0])
    got = load_file(logits)["logits"]
    chosen, longer = ids, model.config.max_position_embeddings - ids.shape[1]
    with torch.no_grad():
        for _ in range(min(8, longer)):
            chosen = torch.cat([chosen, model(chosen).logits[:, -1:].argmax(-1)], 1)
        generated = model.generate(ids, max_new_tokens=min(8, longer), do_sample=False, pad_token_id=0, eos_token_id=-1)
        # The same behind padding, in a batch.
        pad = torch.cat([torch.zeros(1, 2, dtype=ids.dtype), ids], 1)
        mask = torch.ones_like(pad)
        mask[:, :2] = 0
        padded = model.generate(torch.cat([pad, pad]), attention_mask=torch.cat([mask, torch.ones_like(mask)]), max_new_tokens=min(8, longer - 2), do_sample=False, pad_token_id=0, eos_token_id=-1)
    cached = (torch.cat(steps) - want).abs().max().item()
    print(f"transformers {transformers.__version__}, {type(model).__name__}: off by {(got - want).abs().max().item():.3g} of {want.abs().max().item():.3g}; "
          f"same choices: {bool((got.argmax(-1) == want.argmax(-1)).all())}; its cache is off by {cached:.3g}; "
          f"generate takes the likeliest: {torch.equal(generated, chosen)}, behind padding: {torch.equal(padded[0, 2:], chosen[0, :padded.shape[1] - 2])}")
    if original:
        a, b = tensors(original), tensors(hub)
        same = a.keys() == b.keys() and all(torch.equal(a[k].float(), b[k]) for k in a)
        print("the same tensors:", same)
        assert same, a.keys() ^ b.keys()


if __name__ == "__main__":
    main(*sys.argv[1:])
