"""A decoder-only transformer whose feed-forward networks are chains of block-diagonal
factors, for Hugging Face's transformers, versions 4 and 5:

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

Written by sffn export. The fields of config.json say what the model is:

hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
num_key_value_heads, head_dim, max_position_embeddings, vocab_size, tie_word_embeddings
    as Llama has them
activation      "gelu", the tanh form, "gelu_erf", that of erf, or "swiglu", silu(first
                half) * second half
norm, norm_eps  "layernorm" or "rmsnorm", and what is added inside the root
qk_norm         an RMS norm of each head of queries and keys, before they are rotated
qkv_bias, output_bias, ffn_bias
rotary_frequencies
                radians that a position turns each pair of entries by; null for a learned
                table of positions
rotary_factor   multiplies rotated queries and keys
windows         how many positions attention sees in each layer, 0 for all before
scale_attn_by_layer
                attention's scores are divided by the layer's number, from 1
networks        structures of feed-forward networks, each for layers first to last:
                fc1 and fc2 are lists of factors {param, shape, blocks, in, out, shuffle}
"""
import math

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

try:
    from transformers import PreTrainedConfig
except ImportError:
    from transformers import PretrainedConfig as PreTrainedConfig

# Later versions call past_key_values cache, and pass it by that name.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class SffnConfig(PreTrainedConfig):
    model_type = "sffn"
    keys_to_ignore_at_inference = [CACHE]


class Chain(nn.Module):
    """A linear layer as a chain of factors. One has so many blocks, and a weight [blocks,
    out, in], or [out, in] where it is one; behind it the entries, read as an array of the
    shape that its shuffle names, have their first two axes swapped."""

    def __init__(self, factors, bias):
        super().__init__()
        self.factors = factors
        for f in factors:
            self.register_parameter(f["param"], nn.Parameter(torch.empty(f["shape"])))
        width = factors[-1]["blocks"] * factors[-1]["out"]
        self.register_parameter("bias", nn.Parameter(torch.empty(width)) if bias else None)

    def forward(self, x):
        lead = x.shape[:-1]
        for f in self.factors:
            weight = getattr(self, f["param"]).view(f["blocks"], f["out"], f["in"])
            if f["blocks"] == 1:
                x = F.linear(x, weight[0])
            else:
                x = torch.einsum("...bi,boi->...bo", x.reshape(*lead, f["blocks"], f["in"]), weight).reshape(*lead, -1)
            if f["shuffle"] is not None:
                x = x.reshape(*lead, *f["shuffle"]).transpose(-3, -2).reshape(*lead, -1)
        return x if self.bias is None else x + self.bias


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def norm(config):
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)


class MLP(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        network = next(n for n in config.networks if n["first"] <= layer <= n["last"])
        self.fc1 = Chain(network["fc1"], config.ffn_bias)
        self.fc2 = Chain(network["fc2"], config.ffn_bias)
        self.activation = config.activation

    def forward(self, x):
        x = self.fc1(x)
        if self.activation == "swiglu":
            gate, up = x.chunk(2, -1)
            return self.fc2(F.silu(gate) * up)
        return self.fc2(F.gelu(x, approximate={"gelu": "tanh", "gelu_erf": "none"}[self.activation]))


class Layer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        inner, kv = self.heads * self.width, self.kv_heads * self.width
        self.ln1 = norm(config)
        self.qkv_linear = nn.Linear(config.hidden_size, inner + 2 * kv, bias=config.qkv_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(self.width, config.norm_eps)
            self.k_norm = RMSNorm(self.width, config.norm_eps)
        self.o_linear = nn.Linear(inner, config.hidden_size, bias=config.output_bias)
        self.ln2 = norm(config)
        self.mlp = MLP(config, layer)
        self.scale = 1 / math.sqrt(self.width)
        if config.scale_attn_by_layer:
            self.scale /= layer + 1

    def forward(self, x, angles, mask, cache):
        batch, n, _ = x.shape
        qkv = self.qkv_linear(self.ln1(x)).view(batch, n, -1, self.width).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        x = x + self.o_linear(y.transpose(1, 2).reshape(batch, n, -1))
        return x + self.mlp(self.ln2(x))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class SffnPreTrainedModel(PreTrainedModel):
    config_class = SffnConfig
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]
    _supports_sdpa = True

    def _init_weights(self, module):
        """Weights are read, not drawn."""


class SffnModel(SffnPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.rotary_frequencies is None:
            self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.ln_f = norm(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, value):
        self.wte = value

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, inputs_embeds=None):
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        had = cache.get_seq_length() if cache is not None else 0
        n = x.shape[1]
        place = torch.arange(had, had + n, device=x.device)
        if position_ids is None:
            position_ids = place[None]
        angles = None
        if self.config.rotary_frequencies is None:
            x = x + self.wpe(position_ids)
        else:
            frequencies = torch.tensor(self.config.rotary_frequencies, dtype=torch.float64, device=x.device)
            turn = position_ids[:, None, :, None].double() * frequencies
            angles = [(self.config.rotary_factor * a).to(x.dtype) for a in (turn.cos(), turn.sin())]
        behind = place[:, None] - torch.arange(had + n, device=x.device)
        masks = {}
        for window in set(self.config.windows):
            mask = behind >= 0
            if window:
                mask &= behind < window
            mask = mask[None, None]
            if attention_mask is not None:
                mask = mask & attention_mask[:, None, None, :had + n].bool()
                mask = mask | (behind == 0)[None, None]  # padding sees itself: of nothing there is no softmax
            masks[window] = mask
        for layer, window in zip(self.layers, self.config.windows):
            x = layer(x, angles, masks[window], cache)
        return self.ln_f(x)


class SffnForCausalLM(SffnPreTrainedModel, GenerationMixin):
    _tied_weights_keys = ({"lm_head.weight": "model.wte.weight"} if int(transformers.__version__.split(".")[0]) >= 5 else ["lm_head.weight"])

    def __init__(self, config):
        super().__init__(config)
        self.model = SffnModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.wte

    def set_input_embeddings(self, value):
        self.model.wte = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, past_key_values=None, inputs_embeds=None, labels=None,
                use_cache=None, logits_to_keep=0, cache_position=None, return_dict=None):
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache()
        x = self.model(input_ids, attention_mask, position_ids, cache, inputs_embeds)
        logits = self.lm_head(x[:, -logits_to_keep:] if logits_to_keep else x)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})
