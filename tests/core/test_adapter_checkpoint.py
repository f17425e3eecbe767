"""Checkpoints of a run that trains an adapter: PEFT's folder, without the base."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from andon.core.adapters.lora import active_adapter, add_lora, base_digest, lora_parameters, set_adapter
from andon.core.checkpoint import load_checkpoint, save_checkpoint
from andon.core.config import Config
from andon.core.files.folders import checkpoints
from andon.core.files.manifest import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    MANIFEST,
    CheckpointError,
    read_manifest,
    record_files,
    write_manifest,
)
from andon.core.formats.peft import load_adapter
from andon.core.model.llama import Llama
from andon.core.training.optimizer import build_optimizer
from andon.core.training.state import TrainState
from tests.core.test_checkpoint import advance, assert_refused, configuration, fingerprint, new_state, tokenizer_file

LORA: dict[str, Any] = {"rank": 2, "dropout": 0.25, "target_modules": ["q_proj", "up_proj"]}


def new_adapted(config: Config, seed: int = 0, base_seed: int = 0) -> TrainState:
    """The same with an adapter, which alone learns, as `lora` in the configuration says."""
    model = Llama(config.model)
    model.init_weights(torch.Generator().manual_seed(base_seed))
    add_lora(model, config.lora, torch.Generator().manual_seed(seed))
    return TrainState(model, build_optimizer(model, config.training))


@pytest.mark.tier2
def test_an_adapter_resumes_bitwise_and_again(tmp_path: Path) -> None:
    """Behavior: losses, factors and moments after one and two resumes are the uninterrupted run's, with dropout."""
    config = configuration(lora=LORA)
    state = new_adapted(config)
    torch.manual_seed(1)
    random.seed(1)
    advance(state, 3)
    first = save_checkpoint(tmp_path, state, config)
    before = fingerprint(state)
    expected = advance(state, 2)

    state_2 = new_adapted(config, seed=7)
    assert [] == load_checkpoint(first, state_2, config)
    assert before == fingerprint(state_2)
    second = save_checkpoint(tmp_path, state_2, config)
    state_3 = new_adapted(config, seed=8)
    assert [] == load_checkpoint(second, state_3, config)
    assert expected == advance(state_3, 2)
    assert fingerprint(state) == fingerprint(state_3)
    assert expected[0] != advance(new_adapted(config), 1)[0]


@pytest.mark.tier2
def test_a_checkpoint_of_an_adapter_is_pefts_folder(tmp_path: Path) -> None:
    """Behavior: it holds the active adapter and what its base is called, never the base, and loads as an adapter."""
    config = configuration(lora=LORA)
    state = new_adapted(config)
    add_lora(state.model, config.lora, torch.Generator().manual_seed(3), "other")
    set_adapter(state.model, "default")
    advance(state, 1)
    folder = save_checkpoint(tmp_path, state, config, tokenizer_file(tmp_path), base="models/small")
    assert {*ADAPTER_FILES, MANIFEST} == {path.name for path in folder.iterdir()}
    assert "models/small" == json.loads((folder / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    assert 2 * 2 == len(load_file(folder / ADAPTER))
    assert (folder / ADAPTER).stat().st_size < 4000
    plain = new_state(config).model
    load_adapter(plain, folder)
    tokens_BT = torch.arange(8)[None]
    assert torch.equal(state.model.eval()(tokens_BT), plain.eval()(tokens_BT))


@pytest.mark.parametrize("name", [*ADAPTER_FILES, MANIFEST])
@pytest.mark.tier3
def test_a_damaged_checkpoint_of_an_adapter_is_refused(tmp_path: Path, name: str) -> None:
    """Behavior: each file, cut short, with a flipped bit or missing, is refused by name and nothing is changed."""
    config = configuration(lora=LORA)
    state = new_adapted(config)
    advance(state, 1)
    folder = save_checkpoint(tmp_path, state, config, tokenizer_file(tmp_path))
    whole = bytearray((folder / name).read_bytes())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    for content in (whole[: len(whole) // 2], flipped):
        (folder / name).write_bytes(content)
        assert_refused(folder, config, f"{name}: ", new_adapted(config, seed=9))
    (folder / name).unlink()
    assert_refused(folder, config, f"{name}: ", new_adapted(config, seed=9))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 3}, "adapter_config.json: r=2 in the checkpoint and 3 in this run"),
        ({"alpha": 2}, "adapter_config.json: lora_alpha=4 in the checkpoint and 2 in this run"),
        ({"dropout": 0.5}, "adapter_config.json: lora_dropout=0.25 in the checkpoint and 0.5 in this run"),
        ({"use_rslora": True}, "adapter_config.json: use_rslora=False in the checkpoint and True in this run"),
        ({"target_modules": ["q_proj"]}, "adapter_config.json: target_modules=['q_proj', 'up_proj'] in the checkpoint"),
        ({"rank_pattern": {"q_proj": 1}}, "adapter_config.json: rank_pattern={} in the checkpoint and {'q_proj': 1}"),
    ],
)
@pytest.mark.tier2
def test_refuses_another_adapter(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    """Behavior: the field and both values are named, by PEFT's name, even where the tensors would fit."""
    config = configuration(lora=LORA)
    folder = save_checkpoint(tmp_path, new_adapted(config), config)
    other = configuration(lora=LORA | changed)
    assert_refused(folder, other, message, new_adapted(other))


@pytest.mark.tier2
def test_refuses_another_base_and_another_method(tmp_path: Path) -> None:
    """Behavior: the same adapter on other weights is refused by both hashes; a full model is not an adapter."""
    config = configuration(lora=LORA)
    state, whole = new_adapted(config), new_state(config)
    folder = save_checkpoint(tmp_path / "adapter", state, config)
    other = new_adapted(config, base_seed=1)
    assert_refused(
        folder, config, f"was trained on a base with SHA-256 {base_digest(state.model)[:12]}..., and this run's", other
    )
    assert_refused(folder, config, "holds an adapter and this run trains a full model; resume as", whole)
    folder = save_checkpoint(tmp_path / "whole", whole, config)
    assert_refused(folder, config, "holds a full model and this run trains an adapter; resume as", state)
    set_adapter(state.model, None)
    with pytest.raises(CheckpointError, match="no adapter is active"):
        save_checkpoint(tmp_path / "none", state, config)
    assert [] == checkpoints(tmp_path / "none")


@pytest.mark.tier2
def test_refuses_an_adapter_with_another_reading(tmp_path: Path) -> None:
    """Behavior: with hashes that match, fields and tensors are still checked before anything is changed."""
    config = configuration(lora=LORA)
    state = new_adapted(config)
    folder = save_checkpoint(tmp_path, state, config)
    text = (folder / ADAPTER_CONFIG).read_text()
    (folder / ADAPTER_CONFIG).write_text(text.replace('"use_dora": false', '"use_dora": true'))
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": record_files(folder)}))
    assert_refused(folder, config, "adapter_config.json: use_dora=True is not supported", new_adapted(config, seed=9))
    (folder / ADAPTER_CONFIG).write_text(text)
    (folder / ADAPTER).write_bytes(b"a pickle, perhaps")
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": record_files(folder)}))
    assert_refused(folder, config, f"{folder / ADAPTER}: 17 bytes do not hold", new_adapted(config, seed=9))
    assert "default" == active_adapter(state.model)
    assert 4 == len(lora_parameters(state.model, "default"))


@pytest.mark.tier2
def test_a_base_that_was_not_named_has_no_name(tmp_path: Path) -> None:
    """Behavior: an empty one, which is the name of no model."""
    config = configuration(lora=LORA)
    folder = save_checkpoint(tmp_path, new_adapted(config), config)
    assert "" == json.loads((folder / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
