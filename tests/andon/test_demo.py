"""`andon demo`: all parts leave evidence, a verdict and one report; a fine-tune alone takes the newest demo's model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from andon.core.config import load_config
from andon.demo import measure, parts
from andon.gates.config import load_gates
from andon.runs.folder import RUNS
from tests import learn
from tests.andon.test_bad_input import toml
from tests.small_run import TABLES, write_corpus
from tests.tuning import andon

pytestmark = pytest.mark.tier3

GATES = Path(__file__).parents[2] / "configs" / "gates.toml"
ADAPTERS = ("--set", "lora.rank=2", "--set", "qlora.rank=4")


def thresholds_of(name: str) -> set[str]:
    """The metrics of one evidence file that the shipped gates set thresholds on: at least one."""
    metrics = [each.metric.partition(".") for each in load_gates(GATES).thresholds]
    found = {key for file, _, key in metrics if file == name}
    assert found, name
    return found


def test_both_fine_tunes_of_published_weights_write_what_is_judged() -> None:
    """Behavior: each threshold on `learn_adapters` has its metric, of that very name."""
    result = {"finetune": {"loss_before": 2.0, "loss_after": 1.0, "base_unchanged": True}}
    assert set() == thresholds_of(learn.NAME) - set(learn.metrics(learn.summarize(result, result)))


def test_each_part_is_judged_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: training and both fine-tunes in one report; then one fine-tune of the same model by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "SAMPLES", 2)
    monkeypatch.setattr(measure, "SAMPLE_TOKENS", 8)
    monkeypatch.setitem(parts.SHORT["training"], "max_steps", 8)
    monkeypatch.setitem(parts.SHORT, "validation", {"max_sequences": 8})
    shutil.copytree(Path(__file__).parents[2] / "configs", tmp_path / "configs")
    tables: dict[str, Any] = {
        **TABLES,
        "data": {"sequence_length": 16, "paths": write_corpus(tmp_path / "corpus", documents=30)},
    }
    (tmp_path / "small.toml").write_text(toml(tables))

    result = andon("demo", "small.toml", *ADAPTERS)
    assert result.exit_code in (0, 1), result.output  # what so small a model has learned is another matter
    (folder,) = RUNS.glob("demo-*")
    page = (folder / "report.html").read_text()
    whole = json.loads((folder / "result.json").read_text())
    assert ["lora", "qlora"] == [each["finetune"]["method"] for each in whole["finetunes"]]
    for method, rank in (("lora", 2), ("qlora", 4)):
        evidence = json.loads(Path(f"reports/evidence/demo_{method}.json").read_text())["metrics"]
        assert 0 == evidence["changed"]["value"]
        assert evidence["loss_after_minus_before"]["value"] < 0
        assert (folder / method / "checkpoints").is_dir()
        assert f"demo_{method}.loss_after_minus_before" in page
        assert f"{method}, rank {rank}: " in result.output
    assert "demo.validation_loss_minus_bigram" in page
    for name in ("demo", *(f"demo_{method}" for method in parts.FINETUNES)):
        metrics = json.loads(Path(f"reports/evidence/{name}.json").read_text())["metrics"]
        assert set() == thresholds_of(name) - set(metrics), name
    against_trigram, _ = measure.measure(load_config(Path("small.toml")), folder, "trigram")
    assert set() == thresholds_of(parts.EVIDENCE["trigram"]) - set(against_trigram)

    alone = andon("demo", "small.toml", "--part", "qlora", *ADAPTERS)
    assert 0 == alone.exit_code, alone.output
    (tuned,) = RUNS.glob("qlora-demo-*")
    assert str(folder) in json.loads((tuned / "finetune.json").read_text())["base"]
    assert "demo PASS: all (2 of 2 checks pass)" in alone.output


@pytest.mark.parametrize(("code", "ends"), [(0, False), (1, False), (5, True), (130, True)])
def test_a_run_that_stops_early_ends_the_demo(
    code: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: its exit code is the demo's; a frozen model that changed is for the verdict to say."""
    monkeypatch.setattr(parts.run, "run", lambda *_, **__: {"exit": code})
    whole: Any = parts.Demo(config=None, gates=None, sources={}, begun=0.0, quiet=True)  # ty: ignore[invalid-argument-type]
    if ends:
        with pytest.raises(SystemExit) as stopped:
            whole.run(None, tmp_path)
        assert code == stopped.value.code
    else:
        assert {"exit": code} == whole.run(None, tmp_path)


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_says_nothing(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Behavior: a line unless asked not to."""
    whole: Any = parts.Demo(config=None, gates=None, sources={}, begun=0.0, quiet=quiet)  # ty: ignore[invalid-argument-type]
    whole.say("part 1")
    assert ("" if quiet else "part 1\n") == capsys.readouterr().out
