"""Hugging Face's `config.json` for Llama, with the keys of transformers 4 and of transformers 5."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from andon import reading
from andon.core.config import ModelConfig

# LlamaConfig's defaults for absent keys, which are not all ours.
DEFAULTS = {"vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
# What every model here is; a file with other values describes another architecture.
LLAMA_FIELDS = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
}
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
}  # the only supported quantization
ROPE_KEYS = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}


class InterchangeError(ValueError):
    """A model file that cannot be read or written; the message names the file, the key and the next step."""


def load_huggingface_config(path: Path) -> tuple[ModelConfig, str | None]:
    """The model's shape and its dtype ("bfloat16", or None where not given) that a `config.json` describes.

    Raises:
        InterchangeError: unreadable, of another architecture, or with a feature that this model does not have.
    """
    fields = read_json(path)
    for key, ours in LLAMA_FIELDS.items():
        if fields.get(key, ours) != ours:
            raise InterchangeError(
                f"{path}: {key}={fields[key]!r} is not supported; a plain Llama has {ours!r}: name such a model"
            )
    _check_architectures(path, fields.get("architectures"))
    if "model_type" not in fields:
        raise InterchangeError(f"{path}: model_type is missing; name the config.json of a Llama model")
    _check_quantization(path, fields.get("quantization_config"))
    known = {key: fields[key] for key in ModelConfig.model_fields if fields.get(key) is not None}
    if "num_attention_heads" in known:
        known.setdefault("num_key_value_heads", known["num_attention_heads"])
    theta, scaling = _rope(fields, path)
    dtype = _single_value(path, {key: fields.get(key) for key in ("dtype", "torch_dtype")})
    try:
        model = ModelConfig.model_validate({**DEFAULTS, **known, "rope_theta": theta, "rope_scaling": scaling})
    except ValidationError as error:
        raise InterchangeError(f"{path}: {explain(error)}") from error
    return model, dtype


def dump_huggingface_config(
    model: ModelConfig, dtype: str, ids: dict[str, Any] | None = None, quantization: dict[str, Any] | None = None
) -> str:
    """A `config.json` that transformers 4 and 5 read alike: RoPE and dtype are under both the old and the new keys.

    `ids` are those of special tokens, such as `eos_token_id`: one or a list.
    """
    scaling = model.rope_scaling.model_dump() if model.rope_scaling else None
    if scaling and scaling["rope_type"] == "linear":
        scaling = {"rope_type": "linear", "factor": scaling["factor"]}
    fields = {
        "architectures": ["LlamaForCausalLM"],
        **LLAMA_FIELDS,
        **model.model_dump(exclude={"rope_scaling", "head_dim"}),
        "head_dim": model.head_size,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": model.rope_theta},
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": None,  # absent, the two would default to 1 and 2
        "eos_token_id": None,
        **(ids or {}),
        **({"quantization_config": quantization} if quantization else {}),
    }
    return json.dumps(fields, indent=2) + "\n"


def read_json(path: Path, place: str = "a complete model directory") -> dict[str, Any]:
    """A JSON object from a file; `place` is where such a file is found, for the error.

    Raises:
        InterchangeError: unreadable, or not a JSON object.
    """
    try:
        fields = reading.read_json(path)
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read ({error.strerror}); name {place}") from error
    except reading.ReadError as error:
        raise InterchangeError(f"{path}: {error}; fetch the file again") from error
    if not isinstance(fields, dict):
        raise InterchangeError(f"{path}: is not a JSON object; fetch the file again")
    return fields


def explain(error: ValidationError) -> str:
    """The first broken rule of a model configuration, with key and value."""
    detail = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{where} is missing"
    rule = detail["msg"].removeprefix("Value error, ")
    return f"{where}={detail['input']!r}: {rule}" if where else rule


def _check_architectures(path: Path, names: Any) -> None:
    """A classifier or an encoder has a Llama's blocks, and no head that says the next token."""
    listed = names if isinstance(names, list) else [] if names is None else [names]
    if listed and not any(str(name).endswith("ForCausalLM") for name in listed):
        raise InterchangeError(
            f"{path}: architectures={names!r} is no language model; name a model whose architecture is LlamaForCausalLM"
        )


def _check_quantization(path: Path, table: Any) -> None:
    """Only bitsandbytes' NF4 is supported; the table's other fields are repeated with each tensor."""
    if not table:
        return
    for key, ours in NF4.items():
        value = table.get(key) if isinstance(table, dict) else None
        if value != ours:
            raise InterchangeError(
                f"{path}: quantization_config: {key}={value!r} is not supported, only {ours!r} is; "
                "choose the unquantized weights, or a GGUF file"
            )


def _rope(fields: dict[str, Any], path: Path) -> tuple[Any, dict[str, Any] | None]:
    """RoPE's base and scaling, from `rope_parameters`, or `rope_theta` and `rope_scaling`, or both agreeing."""
    tables = {key: fields[key] for key in ("rope_parameters", "rope_scaling") if fields.get(key) is not None}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise InterchangeError(f"{path}: {key}={table!r}; expected an object")
    thetas = {f"{key}.rope_theta": table.get("rope_theta") for key, table in tables.items()}
    theta = _single_value(path, {"rope_theta": fields.get("rope_theta"), **thetas})
    scalings = {key: _scaling(table, f"{path}: {key}") for key, table in tables.items()}
    return 10000.0 if theta is None else theta, _single_value(path, scalings)


def _scaling(table: dict[str, Any], where: str) -> dict[str, Any] | None:
    kind = table.get("rope_type", table.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise InterchangeError(f"{where}: rope_type={kind!r} is not supported; only default, linear and llama3 are")
    if table.get("partial_rotary_factor", 1.0) != 1.0:
        raise InterchangeError(f"{where}: partial_rotary_factor={table['partial_rotary_factor']!r}; only 1.0 is read")
    rest = {key: value for key, value in table.items() if key not in ROPE_KEYS}
    return None if kind == "default" else {"rope_type": kind, **rest}


def _single_value(path: Path, values: dict[str, Any]) -> Any:
    """The value on which all present keys agree; None stands for an absent key."""
    given = {key: value for key, value in values.items() if value is not None}
    if any(value != next(iter(given.values())) for value in given.values()):
        spelled = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise InterchangeError(f"{path}: {spelled} contradict each other; correct one of them")
    return next(iter(given.values()), None)
