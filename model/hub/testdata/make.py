"""Writes the models of the tests, models-4.zip and models-5.zip: small ones with random
weights, saved by transformers of that major version, each with logits.

    python make.py FOLDER      writes the zip of the version that is installed

Those here are of transformers 4.57.6 and 5.24.0, with torch 2.15.0.

Beside a model's own files there is golden.safetensors: ids [n]; logits, the sum of high
and low [n, vocab], computed in float64; and rounding [1], how far transformers' own float32
logits are from these.

In float64, transformers still computes rotary angles, RMS norms and softmax in float32.
Here they are float64, too.
"""
import json
import math
import os
import shutil
import sys
import zipfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

MAJOR = int(transformers.__version__.split(".")[0])


def rope(theta, kind="default", **more):
    """The rotary embedding as this version's configurations have it."""
    if MAJOR >= 5:
        return {"rope_parameters": {"rope_theta": theta, "rope_type": kind, **more}}
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else {"rope_type": kind, **more}}


SHAPE = dict(vocab_size=37, hidden_size=16, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None)
LLAMA3 = dict(head_dim=8) | rope(100.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = rope(100.0, "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0)
WINDOWS = dict(num_hidden_layers=4, use_sliding_window=True, sliding_window=6)
GPT2 = dict(vocab_size=37, n_positions=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None)

# name: class, configuration, type of the saved weights, largest file
CASES = {
    5: {
        "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2), torch.float32, "1GB"),
        "gpt2-untied": (GPT2LMHeadModel, GPT2Config(**GPT2, n_inner=24, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True), torch.bfloat16, "1GB"),
        "gpt2-erf": (GPT2LMHeadModel, GPT2Config(**GPT2, activation_function="gelu"), torch.float32, "1GB"),
        "llama3": (LlamaForCausalLM, LlamaConfig(**SHAPE, **LLAMA3, rms_norm_eps=1e-5), torch.bfloat16, "4KB"),
        "llama-bias": (LlamaForCausalLM, LlamaConfig(**SHAPE, **rope(10000.0), attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-5), torch.float16, "1GB"),
        "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, **rope(1000000.0), sliding_window=8), torch.bfloat16, "1GB"),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, **rope(1000000.0), tie_word_embeddings=True), torch.bfloat16, "1GB"),
        "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, **rope(1000000.0), head_dim=8), torch.bfloat16, "1GB"),
        "llama-yarn": (LlamaForCausalLM, LlamaConfig(**SHAPE, **YARN, head_dim=16), torch.bfloat16, "1GB"),
        "qwen3-layers": (Qwen3ForCausalLM, Qwen3Config(**SHAPE | WINDOWS, **rope(1000000.0), head_dim=8,
                         layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]), torch.bfloat16, "1GB"),
    },
    4: {
        "gpt2-old": (GPT2LMHeadModel, GPT2Config(**GPT2), torch.float16, "1GB"),
        "llama2": (LlamaForCausalLM, LlamaConfig(**SHAPE, **rope(10000.0), rms_norm_eps=1e-5), torch.bfloat16, "1GB"),
        "llama-linear": (LlamaForCausalLM, LlamaConfig(**SHAPE, **rope(10000.0, "linear", factor=4.0), tie_word_embeddings=True), torch.float32, "1GB"),
        "llama31": (LlamaForCausalLM, LlamaConfig(**SHAPE, **LLAMA3, rms_norm_eps=1e-5), torch.bfloat16, "4KB"),
        "mistral-whole": (MistralForCausalLM, MistralConfig(**SHAPE, **rope(10000.0), sliding_window=None), torch.bfloat16, "1GB"),
        "qwen2-window": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, **rope(1000000.0), use_sliding_window=True, sliding_window=8, max_window_layers=0), torch.bfloat16, "1GB"),
        "qwen2-layers": (Qwen2ForCausalLM, Qwen2Config(**SHAPE | WINDOWS, **rope(1000000.0), max_window_layers=3), torch.bfloat16, "1GB"),
        "qwen2-yarn": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, **rope(100.0, "yarn", factor=2.0, original_max_position_embeddings=32, truncate=False, mscale=0.7,
                       mscale_all_dim=1.3)), torch.bfloat16, "1GB"),
        "qwen3-tied": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, **rope(1000000.0), head_dim=8, attention_bias=True, tie_word_embeddings=True), torch.bfloat16, "1GB"),
    },
}[MAJOR]


def draw(model):
    """Weights far from any symmetric start, and logits of some units."""
    for name, p in model.named_parameters():
        if p.dim() == 2:
            std = 1.0 if "wte" in name or "embed" in name else 1.2 / math.sqrt(16)
            p.data.normal_(0, std)
        else:
            centre = 1.0 if ("norm" in name or "ln_" in name) and name.endswith("weight") else 0.0
            p.data.normal_(centre, 0.2)


def frequencies(c):
    """The angles of a position are these times it: float64."""
    r = getattr(c, "rope_parameters", None) or {"rope_theta": c.rope_theta, **(c.rope_scaling or {})}
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    f = r["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    kind = r.get("rope_type", "default")
    if kind == "linear":
        f = f / r["factor"]
    elif kind == "llama3":
        turns = r["original_max_position_embeddings"] * f / (2 * math.pi)
        low, high = r["low_freq_factor"], r["high_freq_factor"]
        share = ((turns - low) / (high - low)).clamp(0, 1)
        f = f * (share + (1 - share) / r["factor"])
    elif kind == "yarn":
        pair = [dim * math.log(r["original_max_position_embeddings"] / (beta * 2 * math.pi)) / (2 * math.log(r["rope_theta"]))
                for beta in (r.get("beta_fast", 32), r.get("beta_slow", 1))]
        if r.get("truncate", True):
            pair = [math.floor(pair[0]), math.ceil(pair[1])]
        low, high = max(pair[0], 0), min(pair[1], dim - 1)
        share = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
        f = f * (1 - share + share / r["factor"])
    return f


def length(c):
    """What rotated queries and keys are multiplied by."""
    r = getattr(c, "rope_parameters", None) or c.rope_scaling or {}
    if r.get("rope_type") != "yarn":
        return 1.0
    return (0.1 * r.get("mscale", 1) * math.log(r["factor"]) + 1) / (0.1 * r.get("mscale_all_dim", 0) * math.log(r["factor"]) + 1)


def exact(model):
    """Has a model in float64 compute all of it in float64."""
    c = model.config
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = lambda x, m=module: m.weight * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + m.variance_epsilon)
        elif kind.endswith("RotaryEmbedding"):
            f = frequencies(c)
            assert torch.allclose(module.inv_freq.double(), f, rtol=1e-6), (module.inv_freq, f)

            by = length(c)
            assert math.isclose(module.attention_scaling, by, rel_tol=1e-6), (module.attention_scaling, by)

            def angles(x, position_ids, f=f, by=by):
                a = position_ids[..., None].double() * f
                a = torch.cat((a, a), -1)
                return by * a.cos(), by * a.sin()
            module.forward = angles


def run(folder, name, case):
    kind, config, dtype, shard = case
    torch.manual_seed(len(name))
    model = kind(config)
    draw(model)
    where = os.path.join(folder, name)
    model.to(dtype).save_pretrained(where, max_shard_size=shard)
    os.remove(os.path.join(where, "generation_config.json"))
    n = 24
    ids = torch.randint(0, 37, (n,), generator=torch.Generator().manual_seed(7))
    how = "eager" if name.startswith("gpt2") else "sdpa"
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(where, torch_dtype=torch.float32, attn_implementation="eager")(ids[None]).logits[0]
        model = AutoModelForCausalLM.from_pretrained(where, torch_dtype=torch.float64, attn_implementation=how)
        exact(model)
        logits = model(ids[None]).logits[0]
    assert logits.dtype == torch.float64
    high = logits.float()
    rounding = (plain.double() - logits).abs().max()
    print(name, "largest logit", float(logits.abs().max()), "float32 is off by", float(rounding))
    save_file({"ids": ids, "high": high, "low": (logits - high.double()).float(), "rounding": rounding.float()[None]},
              os.path.join(where, "golden.safetensors"))


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    for name, case in CASES.items():
        run(folder, name, case)
    with zipfile.ZipFile(f"models-{MAJOR}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for name in CASES:
            for file in sorted(os.listdir(os.path.join(folder, name))):
                info = zipfile.ZipInfo(f"{name}/{file}")
                info.compress_type = zipfile.ZIP_DEFLATED
                with open(os.path.join(folder, name, file), "rb") as f:
                    z.writestr(info, f.read())
    print(f"models-{MAJOR}.zip:", os.path.getsize(f"models-{MAJOR}.zip"), "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
