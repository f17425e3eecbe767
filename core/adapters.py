"""Adapters in PEFT's directory layout: `adapter_config.json` and `adapter_model.safetensors`.

Every field of PEFT 0.21's `LoraConfig` is known by name: what an adapter here can be is honoured, anything else is
refused, and so is a field that PEFT does not have.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import LoraConfig
from .folders import published
from .headers import HeaderError, read_header
from .huggingface_config import InterchangeError, read_json
from .lora import LoraError, attach_lora, base_digest, lora_origin, lora_parameters, plan_lora
from .manifest import ADAPTER, ADAPTER_CONFIG

PREFIX = "base_model.model."  # of PEFT's tensor names
DIGEST = "base_sha256"  # in the file's metadata, which PEFT leaves alone
FLOATS = ("F32", "BF16", "F16", "F64")

# PEFT's fields that are ours too, by our names.
OURS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target_modules",
    "use_rslora": "use_rslora",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}
# What an absent field, or null, means.
DEFAULTS: dict[str, Any] = {"r": 8, "lora_alpha": 8}
# The only values read of the others; the first is written. Initial values are replaced by the file's own tensors, but
# for the ways of drawing them that also change the base.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
    "exclude_modules": (None, []),
    "modules_to_save": (None, []),
    "layers_to_transform": (None, []),
    "layers_pattern": (None, "", []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "alora_invocation_tokens": (None, []),
    "megatron_config": (None,),
    "megatron_core": ("megatron.core", None),
    "loftq_config": ({}, None),
    "eva_config": (None,),
    "corda_config": (None,),
    "lora_ga_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "kasa_config": (None,),
    "arrow_config": (None,),
    "use_bdlora": (None, False),
    "use_dora": (False,),
    "use_qalora": (False,),
    "qalora_group_size": (16, None),
    "lora_bias": (False,),
    "ensure_weight_tying": (False,),
    "runtime_config": (None, {"ephemeral_gpu_offload": False}),
}
UNSAVED = ("runtime_config",)  # PEFT warns where a file has it
# What a file says of its making, and changes no number. The base is the caller's to name.
NOTES = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode")


class AdapterError(ValueError):
    """An adapter that cannot be read or written; the message names the file, the field and the next step."""


class AdapterFile(NamedTuple):
    """What `adapter_config.json` says: the adapter, and the name or path of the model it was trained on."""

    config: LoraConfig
    base: str | None


def save_adapter(model: nn.Module, folder: Path, name: str, base: str) -> None:
    """Write one adapter to a folder that `peft` loads, whole or not at all; `base` is where its model is found.

    Raises:
        AdapterError: the folder holds something already, or the file system refused.
        LoraError: there is no such adapter.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise AdapterError(f"{folder}: exists and is not an empty folder; choose a new one for --out")
        with published(folder) as partial:
            write_adapter(model, partial, name, base)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder}: could not be written ({error}); make room or choose another") from error


def load_adapter(model: nn.Module, folder: Path, name: str = "default") -> list[str]:
    """Put a folder's adapter on `model`, active, in fp32; returns the names of the adapted modules.

    Raises:
        AdapterError: a missing, damaged or unsupported file, field or tensor, by name, or an adapter for another base.
            The model is then as it was.
    """
    config, _ = read_adapter_config(folder / ADAPTER_CONFIG)
    digest = base_digest(model)
    try:
        weights = _read_weights(folder / ADAPTER, _shapes(model, config), digest)
        return attach_lora(model, config, weights, name, digest)
    except LoraError as error:
        raise AdapterError(f"{folder / ADAPTER_CONFIG}: {error}") from error


def write_adapter(model: nn.Module, folder: Path, name: str, base: str) -> None:
    """Both files, into a folder that is there."""
    weights = {key: factor.detach().contiguous() for key, factor in peft_parameters(model, name).items()}
    config, digest = lora_origin(model, name)
    metadata = {"format": "pt"} | ({DIGEST: digest} if digest else {})
    save_file(weights, folder / ADAPTER, metadata=metadata)
    text = json.dumps(peft_fields(config, base), indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


def peft_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's factors by the names they have in PEFT's file."""
    return {PREFIX + key: factor for key, factor in lora_parameters(model, name).items()}


def peft_fields(config: LoraConfig, base: str | None = None) -> dict[str, Any]:
    """What `adapter_config.json` says of an adapter: every field, those of PEFT's other methods as not in use."""
    alpha = config.resolved_alpha
    own = {theirs: getattr(config, ours) for theirs, ours in OURS.items()}
    own["lora_alpha"] = int(alpha) if float(alpha).is_integer() else alpha  # PEFT declares an int, and takes a float
    notes = {"base_model_name_or_path": base, "revision": None, "auto_mapping": None, "inference_mode": True}
    others = {field: values[0] for field, values in NEUTRAL.items() if field not in UNSAVED}
    return others | own | notes


def read_adapter_config(path: Path) -> AdapterFile:
    """What an `adapter_config.json` describes.

    Raises:
        AdapterError: it cannot be read, or has a field that is unknown or set to what no adapter here can be.
    """
    fields = _read_json(path)
    for field, value in fields.items():
        if field in NEUTRAL and value not in NEUTRAL[field]:
            raise AdapterError(
                f"{path}: {field}={value!r} is not supported; it must be {NEUTRAL[field][0]!r}: "
                "train the adapter without it, or merge it with peft and name the merged model"
            )
        if field not in (*NEUTRAL, *OURS, *NOTES):
            raise AdapterError(f"{path}: {field}={value!r} is no field of PEFT's LoraConfig; remove it to go on")
    base = fields.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise AdapterError(f"{path}: base_model_name_or_path={base!r}; expected a name or a path")
    given = DEFAULTS | {field: fields[field] for field in OURS if fields.get(field) is not None}
    if "target_modules" not in given:
        raise AdapterError(f"{path}: target_modules is missing; name the adapted modules")
    try:
        return AdapterFile(LoraConfig.model_validate({OURS[field]: value for field, value in given.items()}), base)
    except ValidationError as error:
        raise AdapterError(f"{path}: {_explain(error)}") from error


def read_base_digest(path: Path) -> str:
    """`base_digest` of the model that an adapter file was trained on; empty where the file does not say."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(DIGEST, "")


def _explain(error: ValidationError) -> str:
    """The first broken rule, with PEFT's name for the field."""
    detail = error.errors(include_url=False)[0]
    theirs = {ours: field for field, ours in OURS.items()}
    where = ".".join(theirs.get(str(part), str(part)) for part in detail["loc"])
    rule = detail["msg"].removeprefix("Value error, ")
    return f"{where}={detail['input']!r}: {rule[0].lower() + rule[1:]}" if where else rule


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "an adapter's folder")
    except InterchangeError as error:
        raise AdapterError(str(error)) from error


def _shapes(model: nn.Module, config: LoraConfig) -> dict[str, tuple[int, int]]:
    """Names, as `lora_parameters` has them, and shapes of what the adapter must hold on this model."""
    shapes = {}
    for module, (rank, inputs, outputs, _) in plan_lora(model, config).items():
        shapes |= {f"{module}.lora_A.weight": (rank, inputs), f"{module}.lora_B.weight": (outputs, rank)}
    return shapes


def _read_weights(path: Path, shapes: dict[str, tuple[int, int]], digest: str) -> dict[str, Tensor]:
    """Exactly these tensors, in fp32, once the header fits and the file does not speak of another base."""
    _check_tensors(path, {PREFIX + name: shape for name, shape in shapes.items()})
    trained_on = read_base_digest(path)
    if trained_on and digest and trained_on != digest:
        raise AdapterError(
            f"{path}: was trained on a base with SHA-256 {trained_on[:12]}..., and this one has {digest[:12]}...; "
            "load the same weights in the same dtype and quantisation"
        )
    with safe_open(path, "pt") as file:  # copied: the file may change
        weights = {name: file.get_tensor(PREFIX + name).to(torch.float32, copy=True) for name in shapes}
    for name, tensor in weights.items():
        if not math.isfinite(torch.linalg.vector_norm(tensor, math.inf)):
            raise AdapterError(f"{path}: {PREFIX + name} holds NaN or inf; train the adapter again")
    return weights


def _check_tensors(path: Path, wanted: dict[str, tuple[int, int]]) -> None:
    """Names, shapes and dtypes, from the header alone."""
    try:
        header = read_header(path)
    except HeaderError as error:
        raise AdapterError(f"{error}; fetch the file again") from error
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror}); pickled adapters are not read") from error
    for name in sorted(header.keys() | wanted.keys()):
        if name not in header:
            raise AdapterError(f"{path}: {name} is missing, which {ADAPTER_CONFIG} promises; fetch both files again")
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
