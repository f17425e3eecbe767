"""Llama weights from a GGUF file, the format of llama.cpp (specification: ggml, `docs/gguf.md`).

llama.cpp turns neighbouring pairs in RoPE and Hugging Face turns halves, so its converter has permuted the rows of the
query and key projections; reading permutes them back.
"""

from pathlib import Path
from typing import Any

import gguf
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from torch import Tensor

from .config import ModelConfig, QloraConfig
from .gguf_tokeniser import read_tokeniser
from .huggingface import EMBEDDING, HEAD, held, with_weights
from .huggingface_config import InterchangeError, explain
from .model import Llama

# Our key: GGUF's, under `llama.`.
REQUIRED = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "rope_theta": "rope.freq_base",
    "head_dim": "attention.key_length",
}
NAMES = {
    "token_embd": EMBEDDING.removesuffix(".weight"),
    "output_norm": "model.norm",
    "output": HEAD.removesuffix(".weight"),
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
# What the reader raises on a file that is no GGUF, or cut short.
MALFORMED = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError)


def load_gguf(
    path: Path, dtype: torch.dtype | None = None, quantise: QloraConfig | None = None
) -> tuple[Llama, Tokenizer | None]:
    """Model (dequantised, then in `dtype`, fp32 by default) and tokeniser, None where it is not byte-level BPE.

    `quantise` turns the blocks' matrices into NF4, one at a time.

    Raises:
        InterchangeError: no GGUF, cut short, another architecture, or a tensor that a plain Llama does not have.
        QuantError: a matrix to quantise holds infinity or NaN.
    """
    fields, tensors = _open(path)
    config = _config(path, fields, tensors)
    names = {name: _our_name(path, name) for name in tensors}
    _check_shapes(path, {names[name]: tuple(tensor.shape[::-1].tolist()) for name, tensor in tensors.items()}, config)
    weights = {
        names[name]: held(names[name], _weight(path, tensor, config), dtype or torch.float32, quantise)
        for name, tensor in tensors.items()
    }
    return with_weights(config, weights), read_tokeniser(fields)


def load_gguf_config(path: Path) -> ModelConfig:
    """The shape of the model in a GGUF file.

    Raises:
        InterchangeError: as `load_gguf`.
    """
    return _config(path, *_open(path))


def halves_from_pairs(weight_OI: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a query or key projection from RoPE on neighbouring pairs to RoPE on halves.

    Within each of `heads` heads, rows 0, 2, 4, ... come first, then rows 1, 3, 5, ...
    """
    outputs, inputs = weight_OI.shape
    pairs = weight_OI.reshape(heads, outputs // heads // 2, 2, inputs)
    return pairs.transpose(1, 2).reshape(outputs, inputs)


def _open(path: Path) -> tuple[dict[str, Any], dict[str, gguf.ReaderTensor]]:
    """Metadata and tensors, by name."""
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read ({error.strerror}); name a GGUF file") from error
    except MALFORMED as error:
        raise InterchangeError(f"{path}: is no whole GGUF file ({error}); fetch it again") from error
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def _config(path: Path, fields: dict[str, Any], tensors: dict[str, Any]) -> ModelConfig:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise InterchangeError(f"{path}: general.architecture={architecture!r} is not supported; only 'llama' is")
    for key in ("llama.expert_count", "llama.rope.scaling.type"):
        if fields.get(key) not in (None, 0, "none"):
            raise InterchangeError(f"{path}: {key}={fields[key]!r} is not supported; read its Hugging Face form")
    missing = [f"llama.{key}" for key in REQUIRED.values() if f"llama.{key}" not in fields]
    if missing or "token_embd.weight" not in tensors:
        raise InterchangeError(f"{path}: {(missing or ['token_embd.weight'])[0]} is missing; fetch the file again")
    keys = {**REQUIRED, **OPTIONAL}
    known = {ours: fields[f"llama.{key}"] for ours, key in keys.items() if f"llama.{key}" in fields}
    known.setdefault("num_key_value_heads", known["num_attention_heads"])
    known["vocab_size"] = int(tensors["token_embd.weight"].shape[1])
    known["tie_word_embeddings"] = "output.weight" not in tensors
    try:
        config = ModelConfig.model_validate(known)
    except ValidationError as error:
        raise InterchangeError(f"{path}: {explain(error)}") from error
    rotated = fields.get("llama.rope.dimension_count", config.head_size)
    if rotated != config.head_size:
        raise InterchangeError(f"{path}: llama.rope.dimension_count={rotated} of head_dim={config.head_size}: only all")
    return config


def _our_name(path: Path, name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    block, _, part = stem.rpartition(".")
    prefix = f"model.layers.{block.removeprefix('blk.')}." if block.startswith("blk.") else block
    if kind != "weight" or part not in NAMES:
        raise InterchangeError(f"{path}: {name} is unexpected in a plain Llama; read the model's Hugging Face form")
    return f"{prefix}{NAMES[part]}.weight"


def _check_shapes(path: Path, found: dict[str, tuple[int, ...]], config: ModelConfig) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(parameter.shape) for name, parameter in Llama(config).named_parameters()}
    for name in sorted(wanted.keys() | found.keys()):
        here, there = found.get(name, "absent"), wanted.get(name, "absent")
        if here != there:
            raise InterchangeError(f"{path}: {name} is {here} in the file and {there} by its metadata; fetch it again")


def _weight(path: Path, tensor: gguf.ReaderTensor, config: ModelConfig) -> Tensor:
    try:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
    except NotImplementedError as error:
        raise InterchangeError(f"{path}: {tensor.name} is {tensor.tensor_type.name}, which is not read") from error
    if tensor.name.endswith("attn_q.weight"):
        return halves_from_pairs(weight, config.num_attention_heads)
    if tensor.name.endswith("attn_k.weight"):
        return halves_from_pairs(weight, config.num_key_value_heads)
    return weight
