"""LLaMA, as in the paper: pre-norm, rotary positions, grouped queries, SwiGLU (Touvron et al. 2023, arXiv:2302.13971).

Module names are Hugging Face's, so that weights and adapters need no translation.
Legend: B batch, T time, S time of keys (cache included), D dim, N heads, K kv heads, H head_dim, F ffn, V vocab.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention

from andon.core.config import ModelConfig
from andon.core.model.ops import at_least_fp32, compute_dtype, rms_norm, rotate, swiglu

Rotation = tuple[Tensor, Tensor]


class Llama(nn.Module):
    """Token ids in, logits out; `hidden` stops before the head, where the chunked loss takes over."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.model = Decoder(config)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
            self.register_state_dict_post_hook(_drop_tied_head)

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None, cache: "KVCache | None" = None) -> Tensor:
        """Logits (B, T, V). See `hidden` for the arguments."""
        return self.lm_head(self.hidden(tokens_BT, documents_BT, cache))

    def hidden(self, tokens_BT: Tensor, documents_BT: Tensor | None = None, cache: "KVCache | None" = None) -> Tensor:
        """Normed states (B, T, D) before the head.

        `documents_BT` numbers the documents of each packed row: no token sees another document, and positions start
        at 0 in each. None means one document per row. `cache` holds the keys and values of earlier tokens and is
        extended by these; documents cannot be combined with it.
        """
        if cache and documents_BT is not None:
            raise ValueError("documents and a cache cannot be combined; generate one document per row")
        x_BTD = self.model.embed_tokens(tokens_BT)
        past = cache.length if cache else 0
        positions_BT, mask = _positions_and_mask(tokens_BT, documents_BT, past, compute_dtype(x_BTD))
        rotation = rotary_angles(positions_BT, self.config, at_least_fp32(x_BTD.dtype))
        for index, layer in enumerate(self.model.layers):
            store = cache.store(index) if cache else None
            if self.activation_checkpointing and self.training:
                from torch.utils.checkpoint import checkpoint  # imports torch._dynamo: a second, paid only here

                x_BTD = checkpoint(
                    layer, x_BTD, rotation, mask, store, use_reentrant=False, preserve_rng_state=_has_dropout(layer)
                )
            else:
                x_BTD = layer(x_BTD, rotation, mask, store)
        if cache:
            cache.length += tokens_BT.shape[1]
        return self.model.norm(x_BTD)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw normal weights, and set norms to one.

        The two matrices that write into the residual stream shrink with its depth (Radford et al. 2019, section 2.3);
        the head shrinks with width, so that the first loss is ln V at any size.
        """
        base = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
                continue
            std = base
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std = base / math.sqrt(2 * self.config.num_hidden_layers)
            if parameter is self.lm_head.weight:
                std = base * min(1.0, math.sqrt(256 / self.config.hidden_size))
            nn.init.normal_(parameter, std=std, generator=generator)


class Decoder(nn.Module):
    """What Hugging Face calls `model`: everything but the head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Block(nn.Module):
    """One layer: attention, then the feed-forward network, each normed before and added back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None, store: "Store | None") -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotation, mask, store)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Attention(nn.Module):
    """Grouped-query attention: query head n reads key head n // (N / K) (Ainslie et al. 2023, arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_size
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.grouped = queries != keys
        self.q_proj = linear(config.hidden_size, queries)
        self.k_proj = linear(config.hidden_size, keys)
        self.v_proj = linear(config.hidden_size, keys)
        self.o_proj = linear(queries, config.hidden_size)

    def forward(self, x_BTD: Tensor, rotation: Rotation, mask: Tensor | None, store: "Store | None") -> Tensor:
        """(B, T, D) to (B, T, D); `mask` None is plain causal, `store` appends to a cache."""
        q_BTNH = rotate(self.q_proj(x_BTD).unflatten(-1, (-1, self.head_dim)), *rotation)
        k_BTKH = rotate(self.k_proj(x_BTD).unflatten(-1, (-1, self.head_dim)), *rotation)
        v_BTKH = self.v_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        q, k, v = (heads.transpose(1, 2) for heads in (q_BTNH, k_BTKH, v_BTKH))
        if store:
            k, v = store(k, v)
        causal = mask is None and q.shape[2] > 1
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.grouped)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The feed-forward network: SwiGLU between two up projections and one down projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return self.down_proj(swiglu(self.gate_proj(x_BTD), self.up_proj(x_BTD)))


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return rms_norm(x, self.weight, self.eps)


class Embedding(nn.Module):
    """One row per token; `init_weights` fills them."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) to (B, T, D)."""
        return embedding(tokens_BT, self.weight)


class Linear(nn.Linear):
    """torch's, without its own initialization: `init_weights` fills the weight, once."""

    def reset_parameters(self) -> None:
        """Do nothing: the memory stays uninitialized."""


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without bias: LLaMA has none."""
    return Linear(inputs, outputs, bias=False)


def build_model(config: ModelConfig, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Llama:
    """An initialized model; each weight is written once, from a generator of its own."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Llama(config)
    finally:
        torch.set_default_dtype(default)
    model.init_weights(torch.Generator(device).manual_seed(seed))
    return model


def rotary_angles(positions_BT: Tensor, config: ModelConfig, dtype: torch.dtype) -> Rotation:
    """cos and sin (B, T, 1, H/2), in `dtype`.

    Frequencies and angles are float64 whatever the model's dtype: at position 100,000 a float32 angle is wrong by
    0.004 rad and a bfloat16 one is noise.
    """
    inverse_H = torch.tensor(rotary_frequencies(config), dtype=torch.float64, device=positions_BT.device)
    angles = (positions_BT.double()[..., None] * inverse_H).unsqueeze(2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotary_frequencies(config: ModelConfig) -> list[float]:
    """Radians per position for each of the H/2 pairs: theta^(-2i/H), after the context extension, if any."""
    plain = [config.rope_theta ** (-2 * i / config.head_size) for i in range(config.head_size // 2)]
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.rope_type == "linear":
        return [frequency / scaling.factor for frequency in plain]
    low, high = scaling.low_freq_factor, scaling.high_freq_factor

    def blended(frequency: float) -> float:
        turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return frequency * (kept + (1 - kept) / scaling.factor)

    return [blended(frequency) for frequency in plain]


def _has_dropout(module: nn.Module) -> bool:
    """Whether a forward pass in training mode draws random numbers."""
    return any(getattr(child, "dropout", 0.0) for child in module.modules())


def _positions_and_mask(
    tokens_BT: Tensor, documents_BT: Tensor | None, past: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Positions (B or 1, T), and the additive mask (B or 1, 1, T, S), None where plain causal attention is enough."""
    steps_T = torch.arange(past, past + tokens_BT.shape[1], device=tokens_BT.device)
    if documents_BT is None:
        if past == 0 or tokens_BT.shape[1] == 1:
            return steps_T[None], None
        keys_S = torch.arange(past + tokens_BT.shape[1], device=tokens_BT.device)
        return steps_T[None], _additive_mask(steps_T[:, None] >= keys_S, dtype)[None, None]
    starts_BT = torch.zeros_like(documents_BT)
    starts_BT[:, 1:] = (documents_BT[:, 1:] != documents_BT[:, :-1]) * steps_T[1:]
    same_BTS = documents_BT[:, :, None] == documents_BT[:, None, :]
    mask_BTS = _additive_mask(same_BTS & (steps_T[:, None] >= steps_T), dtype)
    return steps_T - starts_BT.cummax(1).values, mask_BTS[:, None]


def _additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


def _drop_tied_head(_module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    del state[f"{prefix}lm_head.weight"]


Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class KVCache:
    """Keys and values of all tokens so far, (layers, B, K, S, H) each, allocated once for `size` tokens."""

    def __init__(self, config: ModelConfig, rows: int, size: int, like: Tensor) -> None:
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, size, config.head_size)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.length = 0

    def store(self, layer: int) -> Store:
        """A function that appends (B, K, T, H) keys and values and returns all so far."""

        def append(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            end = self.length + k.shape[2]
            if end > self.keys.shape[3]:
                raise ValueError(f"the cache holds {self.keys.shape[3]} tokens and {end} are needed; make it larger")
            self.keys[layer, :, :, self.length : end] = k
            self.values[layer, :, :, self.length : end] = v
            return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

        return append
