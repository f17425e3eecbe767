"""LLaMA's equations once more, a document at a time and with nothing of core's: what its logits are compared with."""

import math
from typing import Any

import torch
from torch import Tensor


def logits(model: Any, tokens_BT: Tensor, documents_BT: Tensor | None) -> Tensor:
    """Logits (B, T, V) from the weights and settings alone, in the weights' dtype, with a graph to the parameters."""
    rows = []
    for row, tokens_T in enumerate(tokens_BT):
        numbers = torch.zeros_like(tokens_T) if documents_BT is None else documents_BT[row]
        sizes = torch.unique_consecutive(numbers, return_counts=True)[1].tolist()
        rows.append(torch.cat([_document(model, part) for part in tokens_T.split(sizes)]))
    return torch.stack(rows)


def _document(model: Any, tokens_T: Tensor) -> Tensor:
    weights, config, count = model.state_dict(keep_vars=True), model.config, len(tokens_T)
    embedding_VD = weights["model.embed_tokens.weight"]
    x_TD = embedding_VD[tokens_T]
    keep = torch.ones(count, count).tril().bool()
    for index in range(config.num_hidden_layers):
        layer = {name.split(f"layers.{index}.")[1]: w for name, w in weights.items() if f".layers.{index}." in name}
        n_TD = _norm(x_TD, layer["input_layernorm.weight"], config.rms_norm_eps)
        q, k, v = (n_TD @ layer[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        size = config.head_dim or config.hidden_size // config.num_attention_heads
        queries, keys, values = (part.split(size, dim=-1) for part in (q, k, v))
        heads = []
        for head, query in enumerate(queries):
            shared = head * len(keys) // len(queries)
            scores = _turned(query, config.rope_theta) @ _turned(keys[shared], config.rope_theta).T / math.sqrt(size)
            heads.append(scores.masked_fill(~keep, -math.inf).softmax(-1) @ values[shared])
        x_TD = x_TD + torch.cat(heads, -1) @ layer["self_attn.o_proj.weight"].T
        n_TD = _norm(x_TD, layer["post_attention_layernorm.weight"], config.rms_norm_eps)
        gate, up = n_TD @ layer["mlp.gate_proj.weight"].T, n_TD @ layer["mlp.up_proj.weight"].T
        x_TD = x_TD + (gate * gate.sigmoid() * up) @ layer["mlp.down_proj.weight"].T
    x_TD = _norm(x_TD, weights["model.norm.weight"], config.rms_norm_eps)
    return x_TD @ (embedding_VD if config.tie_word_embeddings else weights["lm_head.weight"]).T


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def _turned(x_TH: Tensor, theta: float) -> Tensor:
    """Pairs (i, i + H/2) as complex numbers, turned by position times theta^(-2i/H)."""
    count, half = x_TH.shape[0], x_TH.shape[1] // 2
    pairs = torch.complex(*(part.double() for part in x_TH.split(half, dim=-1)))
    angles = torch.arange(count)[:, None] * theta ** (-torch.arange(half).double() / half)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), -1).to(x_TH.dtype)
