"""Read Llama models in Hugging Face's layout: `config.json`, `model.safetensors` (or shards), `tokenizer.json`."""

from collections.abc import Container, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import Parameter

from andon.core.adapters.nf4 import NF4Linear, NF4Tensor, quantize_nf4, should_quantize
from andon.core.config import ModelConfig, QloraConfig
from andon.core.files.headers import HeaderError, read_header
from andon.core.files.manifest import CONFIG, MODEL
from andon.core.formats.bitsandbytes import PARTS, STATE, from_bitsandbytes
from andon.core.formats.huggingface_config import (
    InterchangeError,
    load_huggingface_config,
    read_json,
)
from andon.core.formats.tokenizer_files import read_tokenizer
from andon.core.model.finite import not_finite
from andon.core.model.llama import Llama

INDEX = "model.safetensors.index.json"
LAYER = "model.layers."
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
FLOATS = ("F64", "F32", "BF16", "F16")
RECOMPUTED_BUFFER = "rotary_emb.inv_freq"  # early conversions store it, though it follows from rope_theta

Weight = Tensor | NF4Tensor


def load_huggingface(
    folder: Path, dtype: torch.dtype | None = None, quantize: QloraConfig | None = None
) -> tuple[Llama, Tokenizer | None]:
    """Model and tokenizer of a directory; the weights in `dtype`, or the one that `config.json` declares (else fp32).

    `quantize` turns the blocks' matrices into NF4, one at a time; those that the files hold in NF4 stay as they are.

    Raises:
        InterchangeError: a missing, damaged or unsupported file, key or tensor, by name.
        QuantError: a matrix to quantize holds infinity or NaN.
    """
    config, declared = load_huggingface_config(folder / CONFIG)
    if dtype is None:
        if declared not in (None, *DTYPES):
            raise InterchangeError(
                f"{folder / CONFIG}: dtype={declared!r} is not one of {', '.join(DTYPES)}; pass --dtype"
            )
        dtype = DTYPES[declared or "float32"]
    files = _weight_files(folder)
    shapes = _check_tensors(folder, files, config)
    weights = _read_weights(folder, files, shapes, dtype, quantize)
    if config.tie_word_embeddings and HEAD in weights:
        head, embedding = cast("Tensor", weights[HEAD]), cast("Tensor", weights[EMBEDDING])  # never quantized
        if not torch.equal(head, embedding):
            raise InterchangeError(
                f"{folder}: tie_word_embeddings=True and {HEAD} is a different matrix; set it to false"
            )
    return model_from_weights(config, weights), read_tokenizer(folder)


def prepare_weight(name: str, weight: Tensor, dtype: torch.dtype, quantize: QloraConfig | None) -> Weight:
    """A copy of the weight in `dtype`, or in NF4 where it is a block's matrix and `quantize` is given.

    Raises:
        QuantError: a weight to quantize holds infinity or NaN.
        InterchangeError: another does, or does in this dtype.
    """
    if quantize and should_quantize(name):
        return quantize_nf4(weight.to(dtype), double=quantize.double_quantization, name=name)
    converted = weight.to(dtype, copy=True)
    check_finite(name, converted, f"as {dtype}".replace("torch.", ""))
    return converted


def check_finite(name: str, weight: Tensor, where: str) -> None:
    """One pass, nothing allocated.

    Raises:
        InterchangeError: the weight holds NaN or inf, which makes everything that a model says worthless.
    """
    if not_finite([(name, weight)]):
        raise InterchangeError(f"{name} {where} holds NaN or inf; use a model, or a --dtype, in which it is finite")


def model_from_weights(config: ModelConfig, weights: dict[str, Weight]) -> Llama:
    """A model made of the given tensors, by Hugging Face's names; a tied head is the embedding itself."""
    with torch.device("meta"):
        model = Llama(config)
    for name, weight in weights.items():
        if isinstance(weight, NF4Tensor):
            model.set_submodule(name.removesuffix(".weight"), NF4Linear(weight))
    plain = {name: weight for name, weight in weights.items() if isinstance(weight, Tensor)}
    parameters = {name: Parameter(plain[name]) for name, _ in model.named_parameters()}
    if config.tie_word_embeddings:
        parameters[HEAD] = parameters[EMBEDDING]
    model.load_state_dict({**parameters, **dict(model.named_buffers(remove_duplicate=False))}, assign=True)
    return model


def _read_weights(
    folder: Path,
    files: dict[str, Path],
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    quantize: QloraConfig | None,
) -> dict[str, Weight]:
    """The weights by name, each read and converted before the next."""
    weights: dict[str, Weight] = {}
    with ExitStack() as stack:
        opened = {path: stack.enter_context(safe_open(path, "pt")) for path in sorted(set(files.values()))}
        for name, shape in shapes.items():
            if f"{name}{STATE}" not in files:
                try:
                    weights[name] = prepare_weight(name, opened[files[name]].get_tensor(name), dtype, quantize)
                except InterchangeError as error:
                    raise InterchangeError(f"{files[name]}: {error}") from error
                continue
            parts = [f"{name}{part}" for part in PARTS if f"{name}{part}" in files]
            tensors = {part: opened[files[part]].get_tensor(part).clone() for part in parts}
            try:
                weights[name] = from_bitsandbytes(name, tensors, shape)._replace(dtype=dtype)
            except InterchangeError as error:
                raise InterchangeError(f"{folder}: {error}") from error
    return weights


def _weight_files(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor, by tensor name."""
    if (folder / MODEL).exists():
        return dict.fromkeys(_header(folder / MODEL), folder / MODEL)
    index = folder / INDEX
    if not index.exists():
        raise InterchangeError(
            f"{folder}: holds neither {MODEL} nor {INDEX}; pickled weights are not read: convert them with safetensors"
        )
    files = {tensor: folder / name for tensor, name in _weight_map(index).items()}
    for path in sorted(set(files.values())):
        listed = {tensor for tensor, shard in files.items() if shard == path}
        for tensor in sorted(listed ^ _header(path).keys()):
            raise InterchangeError(f"{path}: {tensor} is in the shard or in {INDEX}, but not in both; fetch both again")
    return files


def _weight_map(index: Path) -> dict[str, str]:
    """An index's tensors and their shards, all of them in its own folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InterchangeError(f"{index}: weight_map must map tensor names to file names; fetch the file again")
    for name in names.values():
        if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
            raise InterchangeError(f"{index}: weight_map names {name!r}; a shard must be in this folder")
    return names


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        return {name: (entry.dtype, entry.shape) for name, entry in read_header(path).items()}
    except HeaderError as error:
        raise InterchangeError(f"{error}; fetch the file again") from error
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read ({error.strerror}); fetch the file") from error


def _check_tensors(folder: Path, files: dict[str, Path], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Check names, shapes and dtypes in the headers against the model that the configuration describes.

    Returns the shapes of the weights, dequantized.
    """
    found = {name: entry for path in sorted(set(files.values())) for name, entry in _header(path).items()}
    _check_layers(folder, config, found)
    wanted = _shapes(config)
    if config.tie_word_embeddings and HEAD in found:
        wanted[HEAD] = wanted[EMBEDDING]
    quantized_parts = _quantized_parts(found, files, wanted)
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            raise InterchangeError(f"{folder}: {name} is missing; check {CONFIG}, or fetch the weights again")
        if not name.endswith(RECOMPUTED_BUFFER) and name not in quantized_parts:
            _check_tensor(files[name], name, *found[name], wanted.get(name))
    return wanted


def _check_layers(folder: Path, config: ModelConfig, found: Iterable[str]) -> None:
    """Before a model of so many layers is described in full."""
    layers = {name.removeprefix(LAYER).partition(".")[0] for name in found if name.startswith(LAYER)}
    if len(layers) < config.num_hidden_layers:
        raise InterchangeError(
            f"{folder}: {CONFIG} says num_hidden_layers={config.num_hidden_layers}, and the weights are those of "
            f"{len(layers)} layers; fetch both again"
        )


def _quantized_parts(found: Iterable[str], files: dict[str, Path], wanted: Container[str]) -> set[str]:
    """The tensors that `from_bitsandbytes` checks; only the blocks' projections may be quantized."""
    quantized = [name.removesuffix(STATE) for name in found if name.endswith(STATE)]
    for name in quantized:
        if name not in wanted or not should_quantize(name):
            raise InterchangeError(f"{files[name + STATE]}: {name} is quantized; only the blocks' projections can be")
    return {f"{name}{part}" for name in quantized for part in PARTS}


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters, by name."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in Llama(config).named_parameters()}


def _check_tensor(path: Path, name: str, dtype: str, shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> None:
    if wanted is None:
        raise InterchangeError(f"{path}: {name} is unexpected in a plain Llama; merge adapters first")
    if shape != wanted:
        raise InterchangeError(f"{path}: {name} has shape {shape}; {CONFIG} says {wanted}")
    if dtype not in FLOATS:
        raise InterchangeError(f"{path}: {name} is {dtype}; only {', '.join(FLOATS)} weights are read")
