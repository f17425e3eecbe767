"""Adapters in PEFT's directory layout: `adapter_config.json` and `adapter_model.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from andon.core.adapters.lora import LoraError, attach_lora, base_digest, lora_origin, lora_parameters, plan_lora
from andon.core.config import LoraConfig
from andon.core.files.folders import atomic_folder
from andon.core.files.headers import HeaderError, read_header, sort_metadata
from andon.core.files.manifest import ADAPTER, ADAPTER_CONFIG, OPTIMIZER
from andon.core.files.sums import check_vouched, write_sums
from andon.core.formats.peft_config import AdapterError, peft_fields, read_adapter_config
from andon.core.model.finite import not_finite

PREFIX = "base_model.model."  # of PEFT's tensor names
DIGEST = "base_sha256"  # in the file's metadata, which PEFT leaves alone
FLOATS = ("F32", "BF16", "F16", "F64")


def save_adapter(model: nn.Module, folder: Path, name: str, base: str, beside: Mapping[str, str] | None = None) -> None:
    """Write one adapter to a folder that `peft` loads, atomically, with its SHA256SUMS.

    `base` is where its base model is found, `beside` the texts of further files by name.

    Raises:
        AdapterError: the folder is not empty, or the file system refused.
        LoraError: there is no such adapter.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise AdapterError(f"{folder}: exists and is not an empty folder; choose another for --out")
        with atomic_folder(folder) as partial:
            write_adapter(model, partial, name, base)
            for file, text in (beside or {}).items():
                (partial / file).write_text(text, encoding="utf-8")
            write_sums(partial)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"{folder}: could not be written ({error}); free disk space or choose another folder"
        ) from error


def load_adapter(model: nn.Module, folder: Path, name: str = "default") -> list[str]:
    """Put a folder's adapter on `model`, active, in fp32; returns the names of the adapted modules.

    Raises:
        AdapterError: a missing, damaged or unsupported file, field or tensor, by name, or an adapter for another base.
            The model is then unchanged.
        CheckpointError: the files do not match their manifest or SHA256SUMS.
    """
    check_vouched(folder, skip=(OPTIMIZER,))
    config, _ = read_adapter_config(folder / ADAPTER_CONFIG)
    digest = base_digest(model)
    try:
        weights = _read_weights(folder / ADAPTER, _shapes(model, config), digest)
        return attach_lora(model, config, weights, name, digest)
    except LoraError as error:
        raise AdapterError(f"{folder / ADAPTER_CONFIG}: {error}") from error


def write_adapter(model: nn.Module, folder: Path, name: str, base: str) -> None:
    """Write both files into an existing folder."""
    weights = {key: factor.detach().contiguous() for key, factor in peft_parameters(model, name).items()}
    config, digest = lora_origin(model, name)
    metadata = {"format": "pt"} | ({DIGEST: digest} if digest else {})
    save_file(weights, folder / ADAPTER, metadata=metadata)
    sort_metadata(folder / ADAPTER)
    text = json.dumps(peft_fields(config, base), indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


def peft_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's factors by the names they have in PEFT's file."""
    return {PREFIX + key: factor for key, factor in lora_parameters(model, name).items()}


def read_base_digest(path: Path) -> str:
    """`base_digest` of the model that an adapter file was trained on; empty where the file does not record it."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(DIGEST, "")


def _shapes(model: nn.Module, config: LoraConfig) -> dict[str, tuple[int, int]]:
    """Names, as in `lora_parameters`, and shapes of the tensors that the adapter must have on this model."""
    shapes = {}
    for module, (rank, inputs, outputs, _) in plan_lora(model, config).items():
        shapes |= {f"{module}.lora_A.weight": (rank, inputs), f"{module}.lora_B.weight": (outputs, rank)}
    return shapes


def _read_weights(path: Path, shapes: dict[str, tuple[int, int]], digest: str) -> dict[str, Tensor]:
    """Exactly these tensors, in fp32, after checking the header and that the file is not for another base."""
    _check_tensors(path, {PREFIX + name: shape for name, shape in shapes.items()})
    trained_on = read_base_digest(path)
    if trained_on and digest and trained_on != digest:
        raise AdapterError(
            f"{path}: was trained on a base with SHA-256 {trained_on[:12]}..., and this one has {digest[:12]}...; "
            "load the same weights in the same dtype and quantization"
        )
    with safe_open(path, "pt") as file:  # a copy: the file may change
        weights = {name: file.get_tensor(PREFIX + name).to(torch.float32, copy=True) for name in shapes}
    if named := not_finite(weights.items()):
        raise AdapterError(f"{path}: {PREFIX + named} holds NaN or inf; train the adapter again")
    return weights


def _check_tensors(path: Path, wanted: dict[str, tuple[int, int]]) -> None:
    """Names, shapes and dtypes, from the header alone."""
    try:
        header = read_header(path)
    except HeaderError as error:
        raise AdapterError(f"{error}; fetch the file again") from error
    except OSError as error:
        raise AdapterError(
            f"{path}: cannot be read ({error.strerror}); name a folder with safetensors: pickled adapters are not read"
        ) from error
    for name in sorted(header.keys() | wanted.keys()):
        if name not in header:
            raise AdapterError(f"{path}: {name} is missing, though {ADAPTER_CONFIG} lists it; fetch both files again")
        if name not in wanted:
            raise AdapterError(f"{path}: {name} has no place in this model; load the base it was trained on")
        dtype, shape = header[name].dtype, header[name].shape
        if shape != wanted[name]:
            raise AdapterError(
                f"{path}: {name} has shape {shape} where this model needs {wanted[name]}; "
                "load the base it was trained on"
            )
        if dtype not in FLOATS:
            raise AdapterError(f"{path}: {name} is {dtype}; only {', '.join(FLOATS)} are read")
