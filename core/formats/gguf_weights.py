"""Llama weights from a GGUF file, the format of llama.cpp (specification: ggml, `docs/gguf.md`).

llama.cpp's RoPE rotates neighboring pairs and Hugging Face's rotates halves, so llama.cpp's converter permutes the rows
of the query and key projections; reading permutes them back.
"""

from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer
from torch import Tensor

from andon.core.config import ModelConfig, QloraConfig
from andon.core.formats.gguf_header import GgufError, Header, huggingface_name, model_config, read_header
from andon.core.formats.gguf_tokenizer import read_tokenizer
from andon.core.formats.huggingface import model_from_weights, prepare_weight
from andon.core.formats.huggingface_config import InterchangeError
from andon.core.model.llama import Llama

# What the library raises where a tensor's data lies beyond the end of the file, or has an unknown type.
MALFORMED = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError)


def load_gguf(
    path: Path, dtype: torch.dtype | None = None, quantize: QloraConfig | None = None
) -> tuple[Llama, Tokenizer | None]:
    """Model (dequantized, then in `dtype`, fp32 by default) and tokenizer, None where it is not byte-level BPE.

    `quantize` turns the blocks' matrices into NF4, one at a time.

    Raises:
        InterchangeError: not a GGUF file, truncated, another architecture, or a tensor that a plain Llama lacks.
        QuantError: a matrix to quantize holds infinity or NaN.
    """
    header = read_header(path)
    config = model_config(path, header)
    names = {name: huggingface_name(path, name) for name in header.shapes}
    _check_shapes(path, {names[name]: shape for name, shape in header.shapes.items()}, config)
    tokenizer = _tokenizer(path, header)
    weights = {
        names[tensor.name]: prepare_weight(
            names[tensor.name], _weight(path, tensor, config), dtype or torch.float32, quantize
        )
        for tensor in _tensors(path)
    }
    return model_from_weights(config, weights), tokenizer


def unpermute_rope(weight_OI: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a query or key projection from RoPE on neighboring pairs to RoPE on halves.

    Within each of `heads` heads, rows 0, 2, 4, ... come first, then rows 1, 3, 5, ...
    """
    outputs, inputs = weight_OI.shape
    pairs = weight_OI.reshape(heads, outputs // heads // 2, 2, inputs)
    return pairs.transpose(1, 2).reshape(outputs, inputs)


def _tokenizer(path: Path, header: Header) -> Tokenizer | None:
    try:
        return read_tokenizer(header.fields)
    except GgufError as error:
        raise InterchangeError(f"{path}: {error}; fetch the file again") from error


def _tensors(path: Path) -> list[gguf.ReaderTensor]:
    """Tensors with their data, of a file whose header has been checked."""
    try:
        return gguf.GGUFReader(path).tensors
    except MALFORMED as error:
        raise InterchangeError(f"{path}: is not a complete GGUF file ({error}); fetch it again") from error


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
        return unpermute_rope(weight, config.num_attention_heads)
    if tensor.name.endswith("attn_k.weight"):
        return unpermute_rope(weight, config.num_key_value_heads)
    return weight
