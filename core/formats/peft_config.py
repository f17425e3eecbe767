"""PEFT's `adapter_config.json`.

Every field of PEFT 0.21's `LoraConfig` is known: supported values are used, all others are rejected, and so is a field
that PEFT does not have.
"""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from andon.core.config import LoraConfig
from andon.core.formats.huggingface_config import InterchangeError, read_json

# PEFT's field: our key.
OUR_KEYS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target_modules",
    "use_rslora": "use_rslora",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}
# The value of an absent or null field.
DEFAULTS: dict[str, Any] = {"r": 8, "lora_alpha": 8}
# The supported values of all other fields; the first is written. Ways to initialize an adapter do not matter, as the
# file's tensors replace it, except those that also change the base.
ALLOWED_VALUES: dict[str, tuple[Any, ...]] = {
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
NOT_WRITTEN = ("runtime_config",)  # PEFT warns about it in a file
# Fields that change no result. The caller chooses the base.
INFORMATIONAL_FIELDS = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode")


class AdapterError(ValueError):
    """An adapter that cannot be read or written; the message names the file, the field and the next step."""


class AdapterDescription(NamedTuple):
    """The content of `adapter_config.json`: the adapter, and the name or path of the model it was trained on."""

    config: LoraConfig
    base: str | None


def peft_fields(config: LoraConfig, base: str | None = None) -> dict[str, Any]:
    """All fields of `adapter_config.json` for an adapter, those of PEFT's other methods switched off."""
    alpha = config.resolved_alpha
    own = {theirs: getattr(config, ours) for theirs, ours in OUR_KEYS.items()}
    own["lora_alpha"] = int(alpha) if float(alpha).is_integer() else alpha  # PEFT declares an int, and takes a float
    notes = {"base_model_name_or_path": base, "revision": None, "auto_mapping": None, "inference_mode": True}
    others = {field: values[0] for field, values in ALLOWED_VALUES.items() if field not in NOT_WRITTEN}
    return others | own | notes


def read_adapter_config(path: Path) -> AdapterDescription:
    """Read an `adapter_config.json`.

    Raises:
        AdapterError: it cannot be read, or has an unknown field or an unsupported value.
    """
    fields = _read_json(path)
    for field, value in fields.items():
        if field in ALLOWED_VALUES and value not in ALLOWED_VALUES[field]:
            raise AdapterError(
                f"{path}: {field}={value!r} is not supported; it must be {ALLOWED_VALUES[field][0]!r}: "
                "train the adapter without it, or merge it with peft and name the merged model"
            )
        if field not in (*ALLOWED_VALUES, *OUR_KEYS, *INFORMATIONAL_FIELDS):
            raise AdapterError(f"{path}: {field}={value!r} is not a field of PEFT's LoraConfig; remove it to continue")
    base = fields.get("base_model_name_or_path")
    if not isinstance(base, str | None):
        raise AdapterError(f"{path}: base_model_name_or_path={base!r}; expected a name or a path")
    given = DEFAULTS | {field: fields[field] for field in OUR_KEYS if fields.get(field) is not None}
    if "target_modules" not in given:
        raise AdapterError(f"{path}: target_modules is missing; name the adapted modules")
    try:
        return AdapterDescription(
            LoraConfig.model_validate({OUR_KEYS[field]: value for field, value in given.items()}), base
        )
    except ValidationError as error:
        raise AdapterError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """The first broken rule, with PEFT's name for the field."""
    detail = error.errors(include_url=False)[0]
    theirs = {ours: field for field, ours in OUR_KEYS.items()}
    where = ".".join(theirs.get(str(part), str(part)) for part in detail["loc"])
    rule = detail["msg"].removeprefix("Value error, ")
    return f"{where}={detail['input']!r}: {rule[0].lower() + rule[1:]}" if where else rule


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "an adapter's folder")
    except InterchangeError as error:
        raise AdapterError(str(error)) from error
