"""`andon merge` and `andon export --format peft`: the same model in other forms, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from andon.core.formats.interchange import load_model
from andon.core.model.llama import Llama
from andon.runs.models import load_any_model
from tests.andon.test_bad_input import content, refused
from tests.tuning import andon, tune

pytestmark = pytest.mark.tier3

TOKENS_BT = torch.tensor([[5, 17, 44, 3, 250, 9, 9, 1]])


def logits(model: Llama) -> Tensor:
    """What the model says, without gradients."""
    with torch.no_grad():
        return model.eval()(TOKENS_BT)


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference, over the root of the mean square."""
    return float((one - other).abs().max() / one.square().mean().sqrt())


@pytest.fixture
def tuned(request: pytest.FixtureRequest, tuning: Path) -> Path:
    """A fine-tune of the requested method in `run`, with matrices of both kinds adapted."""
    targets = ("--target", "q_proj", "--target", "down_proj")
    result = tune(request.param, "--model", "base", "--data", "corpus", "--out", "run", *targets)
    assert 0 == result.exit_code, result.output
    return tuning


@pytest.mark.parametrize("tuned", ["lora", "qlora"], indirect=True)
def test_the_merged_model_says_what_the_adapted_one_does(tuned: Path) -> None:
    """Behavior: a full model in float32 with the adapted one's logits; what it went into is printed."""
    result = andon("merge", "--model", "run", "--out", "merged")
    assert 0 == result.exit_code, result.output
    adapted, (merged, tokenizer) = load_any_model(tuned / "run")[0], load_model(tuned / "merged")
    assert difference(logits(adapted), logits(merged)) < 1e-5
    assert difference(logits(load_any_model(tuned / "base")[0]), logits(merged)) > 1e-3
    assert tokenizer is not None
    assert "quantization_config" not in json.loads((tuned / "merged" / "config.json").read_text())
    in_4_bits = json.loads((tuned / "run" / "finetune.json").read_text())["method"] == "qlora"
    assert in_4_bits == ("into the dequantized NF4 weights of" in result.output)
    assert "nothing is quantized" in result.output


@pytest.mark.parametrize("tuned", ["lora", "qlora"], indirect=True)
def test_the_exported_adapter_is_the_run_s(tuned: Path) -> None:
    """Behavior: a PEFT directory that `--model` and `merge` read, on its own base or on one that is named."""
    result = andon("export", "--model", "run", "--format", "peft", "--out", "adapter")
    assert 0 == result.exit_code, result.output
    names = {"adapter_model.safetensors", "adapter_config.json", "finetune.json", "SHA256SUMS"}
    assert names == {path.name for path in (tuned / "adapter").iterdir()}
    assert torch.equal(logits(load_any_model(tuned / "run")[0]), logits(load_any_model(tuned / "adapter")[0]))
    assert 0 == andon("export", "--model", "base", "--out", "elsewhere").exit_code
    result = andon("merge", "--model", "adapter", "--base", "elsewhere", "--out", "merged", "--dtype", "bfloat16")
    assert 0 == result.exit_code, result.output
    assert "bfloat16" == json.loads((tuned / "merged" / "config.json").read_text())["dtype"]


@pytest.mark.parametrize("tuned", ["lora"], indirect=True)
def test_a_peft_adapter_from_elsewhere_is_read(tuned: Path) -> None:
    """Behavior: PEFT's two files alone, naming a base that lies elsewhere, merge into the base that is given."""
    source = max((tuned / "run" / "checkpoints").iterdir())
    (tuned / "theirs").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(source / name, tuned / "theirs")
    config = tuned / "theirs" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "meta/llama"}))
    refused(andon("merge", "--model", "theirs", "--out", "merged"), "'meta/llama' is not on this machine", "--base")
    assert 0 == andon("merge", "--model", "theirs", "--base", "base", "--out", "merged").exit_code
    assert difference(logits(load_any_model(tuned / "run")[0]), logits(load_model(tuned / "merged")[0])) < 1e-5


@pytest.mark.parametrize("tuned", ["lora"], indirect=True)
def test_bad_input_is_refused_and_leaves_nothing(tuned: Path) -> None:
    """Behavior: an adapter of another base, truncated or unsupported, or a full model: an error, nothing written."""
    assert 0 == andon("export", "--model", "run", "--format", "peft", "--out", "adapter").exit_code
    for name in ("short", "dora", "damaged"):
        shutil.copytree(tuned / "adapter", tuned / name)
    weights = tuned / "short" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    config = tuned / "dora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    (tuned / "damaged" / "finetune.json").write_text('{"method": "lora"}')
    command = ("train", "--no-trace", "--quiet", "--data", "corpus", "--set", "training.max_steps=1")
    shapes = ("--set", "model.hidden_size=32", "--set", "schedule.warmup_steps=0")
    small = str((tuned / "base").resolve().parent / "small.toml")
    assert 0 == andon(*command, small, "--out", "other", *shapes).exit_code
    before = content(tuned)
    for arguments, parts in (
        (("merge", "--model", "adapter", "--base", "other"), ("has shape", "load the base it was trained on")),
        (("merge", "--model", "short"), ("adapter_model.safetensors",)),
        (("merge", "--model", "dora"), ("use_dora=True is not supported",)),
        (("merge", "--model", "damaged"), ("finetune.json: is damaged",)),
        (("merge", "--model", "base"), ("is not an adapter",)),
        (("export", "--model", "base", "--format", "peft"), ("is a full model",)),
        (("export", "--model", "run", "--format", "hf"), ("andon merge --model run",)),
        (("export", "--model", "run", "--format", "peft", "--dtype", "float16"), ("stays in float32",)),
        (("import", "--model", "run"), ("andon merge --model run",)),
    ):
        refused(andon(*arguments, "--out", "out"), *parts)
        assert not (tuned / "out").exists(), arguments
    refused(andon("export", "--model", "run", "--format", "peft", "--out", "base"), "is not an empty folder")
    assert before == content(tuned)
