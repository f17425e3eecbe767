"""Hugging Face's `config.json`: both spellings are read and written, and another model is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from andon.core.config import ModelConfig, RopeScaling
from andon.core.formats.huggingface_config import (
    NF4,
    InterchangeError,
    dump_huggingface_config,
    load_huggingface_config,
)
from tests.core.shapes import LLAMA3, SHAPE

pytestmark = pytest.mark.tier1

OLD = {"rope_theta": 5e5, "rope_scaling": LLAMA3, "torch_dtype": "bfloat16"}
NEW = {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "dtype": "bfloat16"}
LEGACY_LINEAR = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}
BASE = {"model_type": "llama", **SHAPE}


def read_config(folder: Path, fields: Any) -> tuple[ModelConfig, str | None]:
    """Through a file, as published."""
    (folder / "config.json").write_text(json.dumps(fields))
    return load_huggingface_config(folder / "config.json")


@pytest.mark.parametrize("keys", [OLD, NEW, {**OLD, **NEW}])
def test_reads_old_and_new_keys(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Reference: `rope_theta`, `rope_scaling`, `torch_dtype` until version 4; `rope_parameters`, `dtype` since 5."""
    config, dtype = read_config(tmp_path, {**BASE, **keys})
    assert (
        ModelConfig(**SHAPE, rope_theta=5e5, rope_scaling=RopeScaling(**LLAMA3), rms_norm_eps=1e-6),
        "bfloat16",
    ) == (config, dtype)


def test_reads_the_oldest_spelling_of_linear_scaling(tmp_path: Path) -> None:
    """Reference: `type` stood where `rope_type` stands now, and whole numbers are numbers."""
    config, dtype = read_config(tmp_path, {**BASE, **LEGACY_LINEAR})
    assert RopeScaling(rope_type="linear", factor=2.0) == config.rope_scaling
    assert dtype is None


def test_fills_in_what_hugging_face_would(tmp_path: Path) -> None:
    """Reference: LlamaConfig's defaults, not ours: eps 1e-6, as many key heads as query heads, an untied head."""
    required = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config, _ = read_config(tmp_path, {"model_type": "llama", **{key: SHAPE[key] for key in required}})
    filled = (config.rms_norm_eps, config.num_key_value_heads, config.tie_word_embeddings, config.vocab_size)
    assert (1e-6, 4, False, 32000) == filled
    assert (10000.0, 2048) == (config.rope_theta, config.max_position_embeddings)


def test_writes_old_and_new_keys_alike() -> None:
    """Reference: readers of either version find RoPE and dtype; without eos_token_id they would take 2 for the end."""
    config = ModelConfig(**SHAPE, rope_theta=5e5, rope_scaling=RopeScaling(**LLAMA3))
    fields = json.loads(dump_huggingface_config(config, "bfloat16"))
    assert {**OLD, **NEW}.items() <= fields.items()
    assert (None, None) == (fields["bos_token_id"], fields["eos_token_id"])
    assert ["LlamaForCausalLM"] == fields["architectures"]


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"model_type": "mistral"}, "model_type='mistral'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quant_method=None is not supported"),
        ({"quantization_config": NF4 | {"bnb_4bit_quant_type": "fp4"}}, "bnb_4bit_quant_type='fp4' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling: rope_type='yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters: rope_type='dynamic'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"rope_scaling": "linear"}, "rope_scaling='linear'; expected an object"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope_scaling.factor='2'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1}}, "rope_scaling.mscale=1"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta=10000.0, rope_parameters.rope_theta"),
        ({"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "contradict each other"),
        ({"dtype": "float32", "torch_dtype": "float16"}, "dtype='float32', torch_dtype='float16' contradict"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide"),
        ({"hidden_size": "16"}, "hidden_size='16'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_attention_heads": None, "num_key_value_heads": None}, "num_attention_heads is missing"),
        ({"model_type": None}, "model_type is missing"),
    ],
)
def test_refuses_what_this_model_is_not(tmp_path: Path, keys: dict[str, Any], complaint: str) -> None:
    """Behavior: a feature that would change the result is refused by key and value, never ignored."""
    fields = {key: value for key, value in {**BASE, **keys}.items() if value is not None}
    with pytest.raises(InterchangeError) as caught:
        read_config(tmp_path, fields)
    assert f"{tmp_path / 'config.json'}: " in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "not a JSON object"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        (None, "cannot be read"),
    ],
)
def test_refuses_an_unreadable_config(tmp_path: Path, text: str | None, complaint: str) -> None:
    """Behavior: a missing or broken config.json is named."""
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InterchangeError) as caught:
        load_huggingface_config(tmp_path / "config.json")
    assert complaint in str(caught.value)
