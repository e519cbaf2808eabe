"""The models of sffn in PyTorch, to be timed in turn with its own.

Standard input: a line of JSON that says what to build (Job in program.go),
then commands. "run N OP" answers {"seconds": S}, what N runs of OP took;
"show OP" answers {"result": [[...], ...]}, what one run computed. Each answer
is a line of JSON; the first one says that all is built and has run once.
"""

import json
import math
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# OpenMP's threads spin for a while when they have nothing to do: answers wait
# until they no longer take a processor from who is timed next.
IDLE = 0.05


def parameter(*shape):
    return nn.Parameter(0.02 * torch.randn(*shape))


class Dense(nn.Module):
    def __init__(self, n_in, n_out, bias, rank=0, blocks=0):
        super().__init__()
        self.weight = parameter(n_out, n_in)
        self.bias = parameter(n_out) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class LowRank(nn.Module):
    def __init__(self, n_in, n_out, bias, rank, blocks):
        super().__init__()
        self.lr1 = parameter(rank, n_in)
        self.lr2 = parameter(n_out, rank)
        self.bias = parameter(n_out) if bias else None

    def forward(self, x):
        return F.linear(F.linear(x, self.lr1), self.lr2, self.bias)


def blocks_first(x, n):
    """[rows, n * width] as [n, rows, width], without a copy."""
    return x.view(x.shape[0], n, -1).transpose(0, 1)


class BlockDiagonal(torch.autograd.Function):
    """The product of [rows, n * in] and blocks [n, out, in], written where it belongs, as the paper's code does."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        n, n_out, _ = w.shape
        y = x.new_empty(len(x), n * n_out)
        torch.bmm(blocks_first(x, n), w.transpose(1, 2), out=blocks_first(y, n))
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx, dy = torch.empty_like(x), blocks_first(dy, len(w))
        torch.bmm(dy, w, out=blocks_first(dx, len(w)))
        return dx, torch.bmm(dy.transpose(1, 2), blocks_first(x, len(w)))


def block_parts(x, w):
    """The same, one result a block: what torch.compile makes fastest (it gets views that are written to wrong)."""
    return [F.linear(part, block) for part, block in zip(x.chunk(len(w), 1), w)]


class BlockDense(nn.Module):
    def __init__(self, n_in, n_out, bias, rank, blocks):
        super().__init__()
        self.blkdiag = parameter(blocks, rank // blocks, n_in // blocks)
        self.lr = parameter(n_out, rank)
        self.bias = parameter(n_out) if bias else None

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        if torch.compiler.is_compiling():
            y = torch.cat(block_parts(rows, self.blkdiag), 1)
        else:
            y = BlockDiagonal.apply(rows, self.blkdiag)
        return F.linear(y, self.lr, self.bias).view(*x.shape[:-1], -1)


class BlockShuffle(nn.Module):
    def __init__(self, n_in, n_out, bias, rank, blocks):
        super().__init__()
        q = n_in // blocks if n_in < n_out else n_out // blocks
        self.blkdiag1 = parameter(blocks, q, n_in // blocks)
        self.blkdiag2 = parameter(blocks, n_out // blocks, q)
        self.bias = parameter(n_out) if bias else None

    def forward(self, x):
        rows, n = x.reshape(-1, x.shape[-1]), len(self.blkdiag1)
        compiling = torch.compiler.is_compiling()
        y = torch.cat(block_parts(rows, self.blkdiag1), 1) if compiling else BlockDiagonal.apply(rows, self.blkdiag1)
        y = y.view(len(rows), -1, n).transpose(1, 2).reshape(len(rows), -1)
        if compiling:
            y = torch.stack(block_parts(y, self.blkdiag2), 2)
        else:
            y = BlockDiagonal.apply(y, self.blkdiag2).view(len(rows), n, -1).transpose(1, 2)
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


KINDS = {"dense": Dense, "lowrank": LowRank, "blockdense": BlockDense, "blockshuffle": BlockShuffle}


class FFN(nn.Module):
    def __init__(self, f):
        super().__init__()
        kind, self.swiglu = KINDS[f["Kind"]], f["Act"] == "swiglu"
        hidden, ffn = f["Hidden"], f["FFN"]
        self.fc1 = kind(hidden, ffn * (2 if self.swiglu else 1), f["Bias"], f["Rank"], f["Blocks"])
        self.fc2 = kind(ffn, hidden, f["Bias"], f["Rank"], f["Blocks"])

    def forward(self, x):
        h = self.fc1(x)
        if self.swiglu:
            gate, up = h.chunk(2, dim=-1)
            return self.fc2(F.silu(gate) * up)
        return self.fc2(F.gelu(h, approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, m, i, network):
        super().__init__()
        norm = {"layernorm": lambda: nn.LayerNorm(m["Hidden"], eps=m["NormEps"]), "rmsnorm": lambda: nn.RMSNorm(m["Hidden"], eps=m["NormEps"])}[m["Norm"]]
        self.q_heads, self.kv_heads, self.head_dim = m["QHeads"], m["KVHeads"], m["AttnDim"] // m["QHeads"]
        self.scale = 1 / math.sqrt(self.head_dim) / (i + 1 if m["ScaleAttnByLayer"] else 1)
        self.ln1, self.ln2 = norm(), norm()
        self.qkv_linear = Dense(m["Hidden"], m["AttnDim"] + 2 * self.kv_heads * self.head_dim, m["QKVBias"])
        self.o_linear = Dense(m["AttnDim"], m["Hidden"], m["OutputBias"])
        self.mlp = FFN(network)

    def forward(self, x, angles, attend):
        batch, seq, _ = x.shape
        qkv = self.qkv_linear(self.ln1(x)).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.q_heads, self.kv_heads, self.kv_heads], dim=1)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        y = attend(q, k, v, scale=self.scale, enable_gqa=self.q_heads != self.kv_heads)
        x = x + self.o_linear(y.transpose(1, 2).reshape(batch, seq, -1))
        return x + self.mlp(self.ln2(x))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def causal(q, k, v, **how):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, **how)


class Transformer(nn.Module):
    def __init__(self, m, networks):
        super().__init__()
        self.wte = nn.Embedding(m["Vocab"], m["Hidden"])
        if m["Position"] == "absolute":
            self.wpe = nn.Embedding(m["MaxPositions"], m["Hidden"])
        self.layers = nn.ModuleList(Layer(m, i, f) for i, f in enumerate(networks))
        self.ln_f = nn.LayerNorm(m["Hidden"], eps=m["NormEps"]) if m["Norm"] == "layernorm" else nn.RMSNorm(m["Hidden"], eps=m["NormEps"])


class LM(nn.Module):
    def __init__(self, m, networks):
        super().__init__()
        if m["QKNorm"] or m["Window"] or m["RotaryScaling"]["Type"]:
            sys.exit(f"{m['Name']}: norms of queries and keys, windows and rotary scaling are not here")
        self.model = Transformer(m, networks)
        self.lm_head = nn.Linear(m["Hidden"], m["Vocab"], bias=False)
        nn.init.normal_(self.model.wte.weight, std=0.02)
        if m["TieEmbeddings"]:
            self.lm_head.weight = self.model.wte.weight
        if m["Position"] == "rope":
            half = m["AttnDim"] // m["QHeads"] // 2
            freq = m["RotaryBase"] ** (-torch.arange(half, dtype=torch.float64) / half)
            angles = torch.outer(torch.arange(m["MaxPositions"], dtype=torch.float64), freq)
            self.register_buffer("cos", angles.cos().float(), persistent=False)
            self.register_buffer("sin", angles.sin().float(), persistent=False)

    def hidden(self, ids, pos, attends):
        """The state after the last norm; pos are the positions of the columns of ids."""
        x, angles = self.model.wte(ids), None
        if hasattr(self.model, "wpe"):
            x = x + self.model.wpe(pos)
        else:
            angles = self.cos[pos], self.sin[pos]
        for layer, attend in zip(self.model.layers, attends):
            x = layer(x, angles, attend)
        return self.model.ln_f(x)

    def loss(self, ids, targets):
        pos = torch.arange(ids.shape[1])
        logits = self.lm_head(self.hidden(ids, pos, [causal] * len(self.model.layers)))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def dtype(job):
    """That of weights and activations; training in bf16 is autocast."""
    return torch.bfloat16 if job["Format"] == "bf16" else torch.float32


def compiled(job, f):
    return torch.compile(f, dynamic=False) if job["Compile"] else f


def ffn_ops(job, tensors):
    f = FFN(job["FFN"])
    load(f, tensors)
    f.to(dtype(job))
    shape = job["Rows"], job["FFN"]["Hidden"]
    x = tensors.get("x", torch.randn(shape)).view(shape).to(dtype(job)).requires_grad_()
    dy = tensors.get("dy", torch.randn(shape)).view(shape).to(dtype(job))
    infer, train = compiled(job, f.forward), compiled(job, f.forward)

    @torch.inference_mode()
    def forward():
        return (infer(x.detach()),)

    def both():
        x.grad = None
        f.zero_grad(set_to_none=True)
        y = train(x)
        y.backward(dy)
        return (y, x.grad, *(p.grad for p in f.parameters()))

    return {"forward": forward, "forward and backward": both}


def train_ops(job, tensors):
    lm = LM(job["Model"], job["Networks"])
    load(lm, tensors)
    ids, targets = (torch.tensor(job[k]).view(job["Batch"], -1) for k in ("IDs", "Targets"))
    loss_of = compiled(job, lm.loss)
    adam = torch.optim.AdamW(lm.parameters(), lr=job["LR"], betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)

    def step():
        adam.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=job["Format"] == "bf16"):
            loss = loss_of(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        adam.step()
        return (loss.detach(),)

    return {"train": step}


def decode_ops(job, tensors):
    m, context, steps = job["Model"], job["Seq"], job["Steps"]
    lm = LM(m, job["Networks"]).requires_grad_(False).eval()
    load(lm, tensors)
    lm.to(dtype(job))
    ids = torch.tensor(job["IDs"]).view(job["Batch"], -1)
    prompt, last = ids[:, :context].contiguous(), ids[:, context:].contiguous()
    capacity = context + steps
    layers = lm.model.layers
    shape = job["Batch"], m["KVHeads"], capacity, m["AttnDim"] // m["QHeads"]
    keys, values = ([torch.zeros(shape, dtype=dtype(job)) for _ in layers] for _ in range(2))

    def filling(i):
        def attend(q, k, v, **how):
            keys[i][:, :, :context] = k
            values[i][:, :, :context] = v
            return causal(q, k, v, **how)

        return attend

    def prefill(ids, pos):
        return lm.lm_head(lm.hidden(ids, pos, [filling(i) for i in range(len(layers))])[:, -1])

    def growing(i, at):
        """Attention to the tokens before and this one, which the slices hold."""

        def attend(q, k, v, **how):
            keys[i][:, :, at : at + 1] = k
            values[i][:, :, at : at + 1] = v
            return F.scaled_dot_product_attention(q, keys[i][:, :, : at + 1], values[i][:, :, : at + 1], **how)

        return attend

    def masked(i, pos, mask):
        """The same in one shape, so that it is compiled once: later places are masked."""

        def attend(q, k, v, **how):
            keys[i].index_copy_(2, pos, k)
            values[i].index_copy_(2, pos, v)
            return F.scaled_dot_product_attention(q, keys[i], values[i], attn_mask=mask, **how)

        return attend

    def one_eager(ids, pos):
        at = int(pos)
        return lm.lm_head(lm.hidden(ids, pos, [growing(i, at) for i in range(len(layers))])[:, -1])

    def one_masked(ids, pos):
        mask = (torch.arange(capacity) <= pos).view(1, 1, 1, capacity)
        return lm.lm_head(lm.hidden(ids, pos, [masked(i, pos, mask) for i in range(len(layers))])[:, -1])

    fill, one = compiled(job, prefill), compiled(job, one_masked) if job["Compile"] else one_eager
    all_pos, places = torch.arange(context), [torch.tensor([context + i]) for i in range(steps)]
    calls = -1

    @torch.inference_mode()
    def run_prefill():
        return (fill(prompt, all_pos),)

    @torch.inference_mode()
    def run_decode():
        nonlocal calls
        calls += 1
        return (one(last, places[calls % steps]),)

    return {"prefill": run_prefill, "decode": run_decode}


def read_tensors(name):
    """The tensors of a safetensors file, all float32."""
    with open(name, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = bytearray(f.read())
    tensors = {}
    for key, t in header.items():
        if key != "__metadata__":
            lo, hi = t["data_offsets"]
            tensors[key] = torch.frombuffer(data[lo:hi], dtype=torch.float32).view(t["shape"])
    return tensors


def load(module, tensors):
    """Takes the parameters from the tensors where there are any; each must have one."""
    if not tensors:
        return
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.shape != tensors[name].shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, want {tuple(p.shape)}")
            p.copy_(tensors[name])


def answer(**what):
    print(json.dumps(what), flush=True)


def main():
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["Threads"])
    torch.manual_seed(1)
    if job["Compile"]:
        import torch._inductor.config as inductor

        inductor.freezing = True  # inference: weights are packed once
        inductor.compile_threads = 1
    make = {"ffn": ffn_ops, "train": train_ops, "decode": decode_ops}[job["Mode"]]
    ops = make(job, read_tensors(job["File"]) if job["File"] else {})
    if not job["File"]:
        for op in ops.values():
            op()
    answer(version=torch.__version__, threads=torch.get_num_threads())
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "show":
            answer(result=[t.detach().flatten().tolist() for t in ops[rest]()])
            continue
        n, _, name = rest.partition(" ")
        op, n = ops[name], int(n)
        start = time.perf_counter()
        for _ in range(n):
            op()
        seconds = time.perf_counter() - start
        time.sleep(IDLE)
        answer(seconds=seconds)


main()
