"""`andon train --profile` and `andon trace top`: which lines took the time, and nothing changed by asking."""

import gzip
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from andon.cli.main import cli
from andon.core.training import loop
from andon.log import of_kind, read_log
from andon.reading import file_sha256
from andon.runs.run import run
from andon.tracing.analysis.functions import profiles_of, top
from andon.tracing.analysis.steps import read_windows
from andon.tracing.read import read_spans
from tests.small_run import small_config, write_corpus

pytestmark = pytest.mark.long

LOSS, NORM, STEP = loop.loss, loop.gradient_norm, loop.step


def slow_loss(*args: Any, **kwargs: Any) -> Any:
    """Takes long, once for each of three micro-batches, and then what it stands for."""
    turns = 2_000_000
    while turns:
        turns -= 1
    return LOSS(*args, **kwargs)


def slow_norm(*args: Any, **kwargs: Any) -> Any:
    """Takes long, and then what it stands for."""
    turns = 4_500_000
    while turns:
        turns -= 1
    return NORM(*args, **kwargs)


def slow_step(*args: Any, **kwargs: Any) -> Any:
    """Takes long, and then what it stands for."""
    turns = 3_000_000
    while turns:
        turns -= 1
    return STEP(*args, **kwargs)


PLANTED = {"loss": slow_loss, "gradient_norm": slow_norm, "step": slow_step}


def trained(folder: Path, profile: int | None) -> dict[str, Any]:
    """A run of ten steps, whose cord asks after every two of them."""
    bounds = (("cord.tokens_per_second_below", 1e-3), ("cord.window_steps", 2))
    config = small_config(write_corpus(folder.parent / "corpus"), ("training.max_steps", 10), *bounds)
    return run(config, folder, profile=profile, quiet=True, say=lambda text: None)


def test_three_slow_functions_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: planted ones lead, each with its line, in their order; shares sum to 100% at most."""
    for name, slow in PLANTED.items():
        monkeypatch.setattr(loop, name, slow)
    trained(tmp_path / "run", 4)
    found = top(profiles_of(tmp_path / "run"))
    lines = {slow.__name__: inspect.getsourcelines(slow)[1] for slow in PLANTED.values()}
    assert ["slow_loss", "slow_norm", "slow_step"] == [each.name for each in found.functions[:3]]
    for each in found.functions[:3]:
        assert each.source.endswith(f"test_profile.py:{lines[each.name]}")
    assert [3, 1, 1] == [each.calls for each in found.functions[:3]]
    assert 4 == found.steps
    for rows in (found.functions, found.modules):
        assert 0 < sum(each.share for each in rows) <= 1
    result = CliRunner().invoke(cli, ["trace", "top", str(tmp_path / "run"), "-n", "3"])
    assert 0 == result.exit_code
    assert all(name in result.output for name in lines)


def test_nothing_changes_but_what_is_marked(tmp_path: Path) -> None:
    """Behavior: losses, norms and weights are bitwise equal; profiled steps are marked, and outside of statistics."""
    for name, profile in (("alone", None), ("profiled", 4)):
        assert 0 == trained(tmp_path / name, profile)["exit"]
    logs = [of_kind(read_log(tmp_path / name), "step") for name in ("alone", "profiled")]
    numbers = [[(each["step"], each["loss"], each["grad_norm"]) for each in log] for log in logs]
    assert numbers[0] == numbers[1]
    weights = [sorted((tmp_path / name).rglob("*.safetensors")) for name in ("alone", "profiled")]
    assert weights[0]
    assert [file_sha256(each) for each in weights[0]] == [file_sha256(each) for each in weights[1]]
    assert [4, 5, 8, 9] == [each["step"] for each in logs[1] if each.get("profiled")]
    trace = tmp_path / "profiled" / "trace.jsonl"
    steps = [step for window in read_windows(trace, {}) for step in window.steps]
    assert [1, 4, 5, 8, 9] == [step.number for step in steps if step.measuring]
    root = next(span for span in read_spans(trace).spans if span.name == "train window")
    assert root.attributes["train.window.slowest_step"] not in (4, 5, 8, 9)


def test_a_profile_opens_elsewhere(tmp_path: Path) -> None:
    """Behavior: complete events, as Perfetto takes them, without the host's name; speedscope's calls close in turn."""
    trained(tmp_path / "run", 9)
    (path,) = profiles_of(tmp_path / "run")
    content = json.loads(gzip.decompress(path.read_bytes()))
    assert "host_name" not in content
    complete = [each for each in content["traceEvents"] if each["ph"] == "X"]
    assert complete
    assert all({"name", "pid", "tid", "ts", "dur"} <= each.keys() for each in complete)
    target = tmp_path / "out.json"
    CliRunner().invoke(cli, ["trace", "top", str(path), "--speedscope", str(target)], catch_exceptions=False)
    scope = json.loads(target.read_text(encoding="utf-8"))
    assert 2 == len(scope["profiles"])
    for profile in scope["profiles"]:
        stack, last = [], 0.0
        for event in profile["events"]:
            assert last <= event["at"] <= profile["endValue"]
            last = event["at"]
            if event["type"] == "O":
                stack.append(event["frame"])
            else:
                assert stack.pop() == event["frame"]
        assert not stack


def test_a_run_without_a_profile(tmp_path: Path) -> None:
    """Behavior: it is said how one is recorded."""
    result = CliRunner().invoke(cli, ["trace", "top", str(tmp_path)])
    assert 2 == result.exit_code
    assert "--profile" in result.output
