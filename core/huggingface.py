"""Llama models in Hugging Face's directory layout: `config.json`, `model.safetensors` (or shards), `tokenizer.json`."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import Parameter

from .config import ModelConfig
from .folders import published
from .headers import HeaderError, read_header
from .huggingface_config import InterchangeError, dump_huggingface_config, load_huggingface_config, read_json
from .manifest import CONFIG, MODEL, TOKENIZER
from .model import Llama
from .tokeniser import END_NAMES, load_tokeniser

INDEX = "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
FLOATS = ("F64", "F32", "BF16", "F16")
RECOMPUTED = "rotary_emb.inv_freq"  # early conversions store what rope_theta says already


def load_huggingface(folder: Path, dtype: torch.dtype | None = None) -> tuple[Llama, Tokenizer | None]:
    """Model and tokeniser of a directory; the weights in `dtype`, or the one that `config.json` declares (else fp32).

    Raises:
        InterchangeError: a missing, damaged or unsupported file, key or tensor, by name.
    """
    config, declared = load_huggingface_config(folder / CONFIG)
    if dtype is None:
        if declared not in (None, *DTYPES):
            raise InterchangeError(f"{folder / CONFIG}: dtype={declared!r} is none of {', '.join(DTYPES)}; name one")
        dtype = DTYPES[declared or "float32"]
    files = _weight_files(folder)
    _check_tensors(folder, files, config)
    weights: dict[str, Tensor] = {}
    for path in sorted(set(files.values())):
        weights |= {name: tensor.to(dtype, copy=True) for name, tensor in load_file(path).items()}
    if config.tie_word_embeddings and HEAD in weights and not torch.equal(weights[HEAD], weights[EMBEDDING]):
        raise InterchangeError(f"{folder}: tie_word_embeddings=True and {HEAD} is another matrix; set it to false")
    tokenizer = folder / TOKENIZER
    return with_weights(config, weights), load_tokeniser(tokenizer) if tokenizer.exists() else None


def export_huggingface(model: Llama, folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a directory that `transformers` loads, whole or not at all. A tied head is left out, as there.

    Raises:
        InterchangeError: the folder holds something already, or the file system refused.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InterchangeError(f"{folder}: exists and is not an empty folder; choose a new one for --out")
        with published(folder) as partial:
            _write(model, partial, tokenizer)
    except (OSError, SafetensorError) as error:
        raise InterchangeError(f"{folder}: could not be written ({error}); make room or choose another") from error


def with_weights(config: ModelConfig, weights: dict[str, Tensor]) -> Llama:
    """A model that owns the given tensors, by Hugging Face's names; a tied head is the embedding itself."""
    with torch.device("meta"):
        model = Llama(config)
    parameters = {name: Parameter(weights[name]) for name, _ in model.named_parameters()}
    if config.tie_word_embeddings:
        parameters[HEAD] = parameters[EMBEDDING]
    model.load_state_dict(parameters, assign=True)
    return model


def _write(model: Llama, folder: Path, tokenizer: Tokenizer | None) -> None:
    weights = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    dtype = str(weights[EMBEDDING].dtype).removeprefix("torch.")
    known = [name for name in END_NAMES if tokenizer and tokenizer.token_to_id(name) is not None]
    end = tokenizer.token_to_id(known[0]) if tokenizer and known else None
    save_file(weights, folder / MODEL, metadata={"format": "pt"})  # transformers 4 refuses files without this
    (folder / CONFIG).write_text(dump_huggingface_config(model.config, dtype, end), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save(str(folder / TOKENIZER))
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if known:
            fields["eos_token"] = known[0]
        (folder / "tokenizer_config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _weight_files(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor, by the tensor's name."""
    if (folder / MODEL).exists():
        return dict.fromkeys(_header(folder / MODEL), folder / MODEL)
    index = folder / INDEX
    if not index.exists():
        raise InterchangeError(
            f"{folder}: holds neither {MODEL} nor {INDEX}; pickled weights are not read: convert them with safetensors"
        )
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InterchangeError(f"{index}: weight_map must map tensor names to file names; fetch the file again")
    for name in names.values():
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise InterchangeError(f"{index}: weight_map names {name!r}; a shard must lie in this folder")
    files = {tensor: folder / name for tensor, name in names.items()}
    for path in sorted(set(files.values())):
        listed = {tensor for tensor, shard in files.items() if shard == path}
        for tensor in sorted(listed ^ _header(path).keys()):
            raise InterchangeError(f"{path}: {tensor} is in only one of the shard and {INDEX}; fetch both again")
    return files


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        return {name: (entry.dtype, entry.shape) for name, entry in read_header(path).items()}
    except HeaderError as error:
        raise InterchangeError(f"{error}; fetch the file again") from error
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read ({error.strerror}); fetch the file") from error


def _check_tensors(folder: Path, files: dict[str, Path], config: ModelConfig) -> None:
    """Names, shapes and dtypes, from the headers alone, against the model that the configuration describes."""
    found = {name: entry for path in sorted(set(files.values())) for name, entry in _header(path).items()}
    with torch.device("meta"):
        wanted = {name: tuple(parameter.shape) for name, parameter in Llama(config).named_parameters()}
    if config.tie_word_embeddings and HEAD in found:
        wanted[HEAD] = wanted[EMBEDDING]
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            raise InterchangeError(f"{folder}: {name} is missing; check {CONFIG}, or fetch the weights again")
        if name.endswith(RECOMPUTED):
            continue
        dtype, shape = found[name]
        if name not in wanted:
            raise InterchangeError(f"{files[name]}: {name} is unexpected in a plain Llama; merge adapters first")
        if shape != wanted[name]:
            raise InterchangeError(f"{files[name]}: {name} has shape {shape}; {CONFIG} says {wanted[name]}")
        if dtype not in FLOATS:
            raise InterchangeError(f"{files[name]}: {name} is {dtype}; only {', '.join(FLOATS)} weights are read")
