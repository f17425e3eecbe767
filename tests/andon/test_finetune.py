"""`andon finetune`: a run like any other, whose frozen model stays what it was; and bad input, refused by name."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from andon.core.adapters.lora import LoRALinear
from andon.core.config import load_config
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from andon.log import of_kind, read_log
from andon.runs import run
from andon.runs.finetune_data import open_data
from andon.runs.models import FinetuneError, FinetuneJob, load_any_model, read_job
from tests.andon.test_bad_input import content, refused, toml
from tests.core.foreign import unsealed
from tests.small_run import TABLES
from tests.tuning import andon, tune

pytestmark = pytest.mark.tier3

LIKE_CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def result_of(folder: Path) -> dict[str, Any]:
    """What a run left as its result."""
    return json.loads((folder / "result.json").read_text())


def steps(folder: Path) -> list[float]:
    """Each step's logged loss."""
    return [line["loss"] for line in of_kind(read_log(folder), "step")]


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("data", ["corpus", "samples.jsonl"])
def test_a_fine_tune_is_a_run(method: str, data: str, tuning: Path) -> None:
    """Behavior: folder, log, checkpoints in PEFT's layout, result and report; the loss falls; the base stays."""
    before = content(tuning / "base")
    result = tune(method, "--model", "base", "--data", data, "--out", "run")
    assert 0 == result.exit_code, result.output
    found = result_of(tuning / "run")
    tuned = found["finetune"]
    assert tuned["loss_after"] < tuned["loss_before"]
    assert (method, 4, 8.0, True) == tuple(tuned[key] for key in ("method", "rank", "alpha", "base_unchanged"))
    wide, narrow, layers = 4 * (16 + 16), 4 * (16 + 8), 2
    assert layers * (2 * wide + 2 * narrow) == tuned["trained_parameters"]
    assert tuned["all_parameters"] == found["parameters"]
    assert found["peak_bytes"] > 4 * tuned["trained_parameters"]
    assert 0 == of_kind(read_log(tuning / "run"), "validation")[0]["step"]
    newest = max((tuning / "run" / "checkpoints").iterdir())
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {p.name for p in newest.iterdir()}
    assert not (newest / "model.safetensors").exists()
    assert "Fine-tuned" in (tuning / "run" / "report.html").read_text()
    assert f"{tuned['trained_parameters']:,} of {tuned['all_parameters']:,} parameters trained" in result.output
    assert before == content(tuning / "base")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_adapter_starts_as_the_base(method: str, tuning: Path) -> None:
    """Behavior: before the first step the loss is the base's own; QLoRA's is that of the base in 4 bits."""
    assert 0 == tune(method, "--model", "base", "--data", "corpus", "--out", "run").exit_code
    (job,) = [read_job(tuning / "run" / "finetune.json")]
    plain, tokenizer = load_model(job.base)
    config = load_config(tuning / "run" / "config.json")
    dataset = open_data(job, config, tokenizer, tuning / "run")
    from andon.core.data import dataset as data
    from andon.core.training import loop as training

    loss, _ = training.validate(plain, data.validation_batches(dataset, config))
    measured = result_of(tuning / "run")["finetune"]["loss_before"]
    assert (loss == measured) == (method == "lora")
    assert abs(loss - measured) < 0.3


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_stopped_fine_tune_resumes_bitwise(method: str, tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: stopped after its second step and resumed, with dropout, it logs the losses of the one left alone."""
    arguments = ("--model", "base", "--data", "samples.jsonl", "--dropout", "0.2")
    assert 0 == tune(method, *arguments, "--out", "whole").exit_code
    noted = run.stop_signals
    steps_done = iter(range(100))
    monkeypatch.setattr(run, "stop_signals", lambda: fake(lambda: signal.SIGTERM if next(steps_done) == 1 else 0))
    stopped = tune(method, *arguments, "--out", "run")
    assert 128 + signal.SIGTERM == stopped.exit_code, stopped.output
    assert f"andon finetune {method} --resume run" in stopped.output
    monkeypatch.setattr(run, "stop_signals", noted)
    resumed = andon("finetune", method, "--no-trace", "--resume", "run")
    assert 0 == resumed.exit_code, resumed.output
    assert steps(tuning / "whole") == steps(tuning / "run")
    assert len(steps(tuning / "run")) > 2
    whole, parts = (result_of(tuning / name)["finetune"] for name in ("whole", "run"))
    assert whole == parts


class fake:  # noqa: N801 - stands for a function
    """A context manager that hands out a given function."""

    def __init__(self, stopped: Callable[[], int]) -> None:
        self.stopped = stopped

    def __enter__(self) -> Callable[[], int]:
        return self.stopped

    def __exit__(self, *_: object) -> None:
        """Nothing was changed."""


def test_a_changed_base_turns_the_run_red(tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: one bit of a frozen weight that changes ends the run with exit code 1, and the result says so."""
    from andon.core.training import loop

    original = loop.initial_state_of

    def leaky(model: Any, config: Any) -> Any:
        state = original(model, config)
        weight = model.model.norm.weight
        state.optimizer.register_step_post_hook(lambda *_: weight.data[0].mul_(1.0000001).add_(1e-7))
        return state

    monkeypatch.setattr(loop, "initial_state_of", leaky)
    result = tune("lora", "--model", "base", "--data", "corpus", "--out", "run")
    assert 1 == result.exit_code
    assert "the frozen model has changed" in result.output
    assert result_of(tuning / "run")["finetune"]["base_unchanged"] is False
    assert 1 == result_of(tuning / "run")["exit"]


@pytest.mark.usefixtures("tuning")
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_model_takes_a_fine_tune(method: str) -> None:
    """Behavior: `--model` reads a fine-tune as base with adapter, QLoRA's in 4 bits, and continues a prompt."""
    assert 0 == tune(method, "--model", "base", "--data", "corpus", "--out", "run").exit_code
    model, _ = load_any_model(Path("run"))
    wrapped = [module for module in model.modules() if isinstance(module, LoRALinear)]
    assert 8 == len(wrapped)
    assert {method == "qlora"} == {hasattr(module.base, "dequantize") for module in wrapped}
    assert any(bool(module.adapter("default").lora_B.any()) for module in wrapped)  # ty: ignore
    result = andon("generate", "--model", "run", "--prompt", "a1", "--max-new-tokens", "3", "--temperature", "0")
    assert 0 == result.exit_code, result.output


def test_messages_are_written_by_the_given_template(tuning: Path) -> None:
    """Behavior: `--chat-template` is kept with the run, so that it resumes without the file."""
    talk = [{"role": role, "content": f"{role[0]} said"} for role in ("user", "assistant")]
    lines = [json.dumps({"messages": [*talk, {"role": "assistant", "content": f"c{n}"}]}) for n in range(6)]
    (tuning / "chats.jsonl").write_text("\n".join(lines) + "\n")
    (tuning / "chat.jinja").write_text(LIKE_CHAT)
    arguments = ("--model", "base", "--data", "chats.jsonl")
    refused(tune("lora", *arguments, "--out", "run"), "chats.jsonl:1", "--chat-template")
    assert not (tuning / "run").exists()
    assert 0 == tune("lora", *arguments, "--chat-template", "chat.jinja", "--out", "run").exit_code
    (tuning / "chat.jinja").unlink()
    again = tune("lora", "--resume", "run", "--epochs", "4")
    assert 0 == again.exit_code, again.output


def test_a_file_s_tables_count_and_its_model_does_not(tuning: Path) -> None:
    """Behavior: --config brings its tables, the shape is the base's, and flags go before both."""
    tables: dict[str, dict[str, Any]] = {"training": {"batch_size": 3}, "lora": {"rank": 2}}
    tables["model"] = {**TABLES["model"], "hidden_size": 64}
    tables["schedule"], tables["data"] = {"warmup_steps": 1}, {"sequence_length": 16}
    (tuning / "own.toml").write_text(toml(tables))
    arguments = ("finetune", "lora", "--no-trace", "--model", "base", "--data", "corpus", "--config", "own.toml")
    result = andon(*arguments, "--out", "run", "--set", "training.max_steps=2", "--target", "all-linear")
    assert 0 == result.exit_code, result.output
    config = json.loads((tuning / "run" / "config.json").read_text())
    assert (16, 3, 2) == (config["model"]["hidden_size"], config["training"]["batch_size"], config["lora"]["rank"])
    assert "all-linear" == config["lora"]["target_modules"]


BROKEN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "absent model": (("--model", "absent", "--data", "corpus"), ("absent",)),
    "absent data": (("--model", "base", "--data", "nowhere"), ("nowhere",)),
    "no data": (("--model", "base"), ("name --model and --data",)),
    "nothing to adapt": (("--model", "base", "--data", "corpus", "--target", "query"), ("query", "q_proj")),
    "the head": (("--model", "base", "--data", "corpus", "--target", "lm_head"), ("lm_head",)),
    "rank too large": (("--model", "base", "--data", "corpus", "--rank", "999"), ("999",)),
    "another shape": (("--model", "base", "--data", "corpus", "--set", "model.hidden_size=8"), ("remove the",)),
    "unknown key": (("--model", "base", "--data", "corpus", "--set", "lora.r=8"), ("lora.rank",)),
    "broken sample": (("--model", "base", "--data", "broken.jsonl"), ("broken.jsonl:2", "is not valid JSON")),
    "no template there": (("--model", "base", "--data", "corpus", "--chat-template", "no.jinja"), ("no.jinja",)),
    "nothing to resume": (("--resume", "base"), ("holds no fine-tune",)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_refused_and_leaves_nothing(case: str, tuning: Path) -> None:
    """Behavior: one message that names what is wrong, exit code 2, and no folder."""
    (tuning / "broken.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    arguments, parts = BROKEN[case]
    before = content(tuning / "base")
    out = () if "--resume" in arguments else ("--out", "run")
    refused(tune("lora", *arguments, *out), *parts)
    assert not (tuning / "run").exists()
    assert before == content(tuning / "base")


def test_a_base_with_nan_is_refused(tuning: Path) -> None:
    """Behavior: a model with NaN in a frozen matrix is refused by the matrix's name, by both methods."""
    assert 0 == andon("export", "--model", "base", "--out", "bad").exit_code
    file = unsealed(tuning / "bad") / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.self_attn.k_proj.weight"][0, 0] = torch.nan
    save_file(weights, file)
    for method in ("lora", "qlora"):
        refused(tune(method, "--model", "bad", "--data", "corpus", "--out", "run"), "layers.1.self_attn.k_proj")
        assert not (tuning / "run").exists()


def test_a_base_without_tokenizer_is_refused(tmp_path: Path) -> None:
    """Behavior: the message names the base and the file that it lacks."""
    job: Any = FinetuneJob("lora", tmp_path, None, False, None)
    with pytest.raises(FinetuneError, match=r"has no tokenizer; put its tokenizer\.json there"):
        open_data(job, None, None, tmp_path)  # ty: ignore[invalid-argument-type]


def test_verbs_are_not_mixed_up(tuning: Path) -> None:
    """Behavior: a LoRA run resumes as LoRA only, an adapter is not a base, and `andon train` does not go on with it."""
    assert 0 == tune("lora", "--model", "base", "--data", "corpus", "--out", "run").exit_code
    before = content(tuning / "run")
    refused(tune("qlora", "--resume", "run"), "andon finetune lora --resume run")
    refused(tune("lora", "--model", "run", "--data", "corpus", "--out", "other"), "andon merge --model run")
    refused(andon("train", "--no-trace", "--resume", "run"), "run")
    assert before == content(tuning / "run")


def test_another_base_under_a_resumed_run_is_refused(tuning: Path) -> None:
    """Behavior: where the base's weights are no longer those of the start, the resume stops before its first step."""
    assert 0 == andon("export", "--model", "base", "--out", "mine").exit_code
    assert 0 == tune("lora", "--model", "mine", "--data", "corpus", "--out", "run").exit_code
    model, tokenizer = load_model(tuning / "mine")
    model.model.norm.weight.data[0] += 1
    for path in (tuning / "mine").iterdir():
        path.unlink()
    (tuning / "mine").rmdir()
    export_huggingface(model, tuning / "mine", tokenizer)
    before = content(tuning / "run" / "checkpoints")
    refused(tune("lora", "--resume", "run", "--epochs", "5"), "was trained on a base with SHA-256")
    assert before == content(tuning / "run" / "checkpoints")
    refused(andon("merge", "--model", "run", "--out", "merged"), "was trained on a base with SHA-256")
    assert not (tuning / "merged").exists()
