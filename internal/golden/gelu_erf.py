"""Writes the golden cases of feed-forward networks with the erf form of GELU, which the
reference has not: in float64, by torch.

    python gelu_erf.py FOLDER

To put them into cases.zip, unpack that into another folder OLD, and
go test ./internal/golden -run Pack -pack OLD,FOLDER.
"""
import json
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

# name, kind, hidden, ffn, rank, bias, batch, tokens
CASES = [("mlp_dense_gelu_erf", "dense", 24, 66, None, True, 2, 5),
         ("mlp_lowrank_gelu_erf", "lowrank", 24, 66, 10, True, 2, 5),
         ("mlp_lowrank_gelu_erf_nobias", "lowrank", 37, 53, 11, False, 1, 7)]


def linear(kind, name, inputs, outputs, rank, bias, draw):
    if kind == "dense":
        p = {f"{name}.weight": draw(outputs, inputs) / inputs ** 0.5}
    else:
        p = {f"{name}.lr1": draw(rank, inputs) / inputs ** 0.5, f"{name}.lr2": draw(outputs, rank) / rank ** 0.5}
    if bias:
        p[f"{name}.bias"] = draw(outputs)
    return p


def apply(p, name, x):
    for factor in ("weight", "lr1", "lr2"):
        if f"{name}.{factor}" in p:
            x = x @ p[f"{name}.{factor}"].T
    return x + p[f"{name}.bias"] if f"{name}.bias" in p else x


def main(folder):
    os.makedirs(folder, exist_ok=True)
    cases = []
    for seed, (name, kind, hidden, ffn, rank, bias, batch, tokens) in enumerate(CASES, 3101):
        g = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=g).double()
        x, dy = 2 * draw(batch, tokens, hidden), draw(batch, tokens, hidden)
        p = linear(kind, "fc1", hidden, ffn, rank, bias, draw) | linear(kind, "fc2", ffn, hidden, rank, bias, draw)
        p = {k: v.float().double() for k, v in p.items()}
        for v in (x, *p.values()):
            v.requires_grad_()
        y = apply(p, "fc2", F.gelu(apply(p, "fc1", x), approximate="none"))
        y.backward(dy)
        given = {"x": x, "dy": dy} | {"param." + k: v for k, v in p.items()}
        want = {"y": y, "dx": x.grad} | {"grad." + k: v.grad for k, v in p.items()}
        tensors = {k: {"shape": list(v.shape), "dtype": "F32", "role": "input"} for k, v in given.items()}
        for k, v in want.items():
            most = v.abs().max().item()
            tensors[k] = {"shape": list(v.shape), "dtype": "F32", "role": "expected", "max_abs": float(f"{most:.6g}"), "atol": float(f"{1e-5 * most:.2g}")}
        save_file({k: v.detach().float().contiguous() for k, v in (given | want).items()}, os.path.join(folder, name + ".safetensors"))
        cases.append({"name": name, "kind": "mlp", "file": name + ".safetensors", "dtype": "F32", "layer": kind, "hidden": hidden, "ffn": ffn, "fc1_out": ffn,
                      "act": "gelu_erf", "rank": rank, "nblocks": None, "bias": bias, "seed": seed, "tensors": tensors})
    with open(os.path.join(folder, "manifest.json"), "w") as f:
        json.dump({"format": 1, "cases": cases}, f)


main(sys.argv[1])
