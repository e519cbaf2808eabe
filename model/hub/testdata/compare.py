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
    cached = (torch.cat(steps) - want).abs().max().item()
    print(f"transformers {transformers.__version__}, {type(model).__name__}: off by {(got - want).abs().max().item():.3g} of {want.abs().max().item():.3g}; "
          f"same choices: {bool((got.argmax(-1) == want.argmax(-1)).all())}; its cache is off by {cached:.3g}")
    if original:
        a, b = tensors(original), tensors(hub)
        same = a.keys() == b.keys() and all(torch.equal(a[k].float(), b[k]) for k in a)
        print("the same tensors:", same)
        assert same, a.keys() ^ b.keys()


if __name__ == "__main__":
    main(*sys.argv[1:])
