"""PEFT's `adapter_config.json`.

Every field of PEFT 0.21's `LoraConfig` is known by name: what an adapter here can be is honored, anything else is
refused, and so is a field that PEFT does not have.
"""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from andon.core.config import LoraConfig
from andon.core.formats.huggingface_config import InterchangeError, read_json

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
