"""`andon trace show` and what a run says of its time."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from andon.cli.main import cli
from andon.runs.run import run
from andon.runs.tracer import open_tracer
from andon.tracing.analysis.steps import Step
from andon.tracing.encode import attributes, frame, named, span
from tests.small_run import small_config, write_corpus
from tests.tracing.synthetic import plain_steps, times, with_cause

pytestmark = pytest.mark.tier2


def written(folder: Path, steps: Sequence[Step], **start: str | int | bool) -> Path:
    """The folder of a run with these steps in its trace, a hundred a window."""
    folder.mkdir()
    before, after = frame({"service.name": "andon"}, "andon.tracing")
    first = {"train.threads": 1, "train.device": "cpu", "train.torch": "2", "train.config.sha256": "c", **start}
    lines = [span(("f" * 32, "f" * 16, ""), named("train run start"), (1, 2), attributes(first))]
    for step in steps:
        trace = f"{(step.number - 1) // 100 + 1:032x}"
        own, begin = f"{step.number:016x}", step.end - int(1e9 * step.seconds.wall)
        spans, at = [], begin
        for index, (name, seconds) in enumerate(step.phases.items()):
            until = at + int(1e9 * seconds.wall)
            place = {"code.file.path": "loop.py", "code.line.number": 7, "train.cpu_seconds": seconds.cpu}
            ids = (trace, f"{index + 1:04x}{own[4:]}", own)
            spans.append(span(ids, named(name), (at, until), attributes(place)))
            at = until
        said = {"train.step": step.number, "train.cpu_seconds": step.seconds.cpu, "train.grad_norm": step.norm}
        spans.append(span((trace, own, "a" * 16), named("train.step"), (begin, step.end), attributes(said)))
        lines.append(",".join(spans))
    (folder / "trace.jsonl").write_text("".join(before + line + after for line in lines))
    return folder


def show(folder: Path, *options: str) -> Result:
    """The command's exit code and output."""
    return CliRunner().invoke(cli, ["trace", "show", str(folder), *options])


def test_it_says_where_the_time_went(tmp_path: Path) -> None:
    """Behavior: the verdict, each finding with its step, and the kinds of step, for a reader and for a program."""
    steps = [with_cause(times(each, 3 if each.number == 250 else 1), "data-bound", 0.4) for each in plain_steps(400, 0)]
    folder = written(tmp_path / "run", steps)
    head, verdict, *rest = show(folder).output.splitlines()
    assert head.startswith(f"{folder / 'trace.jsonl'}: 400 steps, ")
    assert verdict.startswith("data-bound, 40% of ")
    assert "(loop.py:7)" in verdict
    assert any(line.startswith("step 250: processor time ") for line in rest)
    assert "one kind of step" in rest
    content = json.loads(show(folder, "--json").output)
    assert ("data-bound", "loop.py:7", 400) == tuple(content["verdict"][key] for key in ("name", "source", "steps"))
    assert ("train.stall", 250) in [(each["kind"], each["step"]) for each in content["findings"]]
    assert [400] == [each["count"] for each in content["kinds"]]


def test_without_numpy_and_without_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what cannot be measured is said, and is null for a program."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    folder = written(tmp_path / "run", plain_steps(60, 0))
    assert "kinds of step: not measured without numpy" in show(folder).output
    assert json.loads(show(folder, "--json").output)["kinds"] is None
    empty = written(tmp_path / "empty", [])
    assert "no step was recorded" in show(empty).output
    assert json.loads(show(empty, "--json").output)["verdict"] is None


def test_a_run_says_it_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: one sentence, the same that `show` says afterwards; without a trace there is none."""
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    config = small_config(write_corpus(tmp_path / "corpus"))
    run(config, tmp_path / "run", quiet=True, say=said.append)
    (line,) = [each for each in said if each.startswith("where the time went: ")]
    assert line.removeprefix("where the time went: ") == show(tmp_path / "run").output.splitlines()[1]
    run(config, tmp_path / "untraced", quiet=True, traced=False, say=said.append)
    assert 1 == sum(each.startswith("where the time went: ") for each in said)


def test_a_file_may_say_anything(tmp_path: Path) -> None:
    """Behavior: attributes of other kinds count as not recorded; no trace, or a garbled one, is one line, code 2."""
    folder = written(tmp_path / "run", plain_steps(120, 0), **{"train.device": 3})
    trace = folder / "trace.jsonl"
    numbers, text = re.compile(r'"value":\{"(int|double)Value":"?[^,}]*\}'), trace.read_text()
    for other in ('"stringValue":"x"', '"doubleValue":"NaN"', '"doubleValue":"Infinity"'):
        for count in (0, 500):  # all, and some
            trace.write_text(numbers.sub(f'"value":{{{other}}}', text, count))
            assert 0 == show(folder).exit_code
            assert json.loads(show(folder, "--json").output)["verdict"]
    trace.write_text("{}\n")
    assert (2, 1) == (show(folder).exit_code, len(show(folder).output.splitlines()))
    trace.unlink()
    assert (2, 1) == (show(folder).exit_code, len(show(folder).output.splitlines()))
    assert 2 == diff(folder, folder).exit_code


def test_findings_are_said(tmp_path: Path) -> None:
    """Behavior: a line in the terminal for each finding, once, while the run goes on or at its end."""
    said: list[str] = []
    with open_tracer(tmp_path, {"train.threads": 2}, None, said.append, traced=True) as tracer:
        for step in range(1, 151):
            with tracer.span("train.step", step=step) as span:
                span.set_attributes(grad_norm=68.0 if step in (33, 133) else 1.0)
            tracer.say_findings(said.append)
    lines = ["gradient norm 68 times the median of the steps before"]
    assert [f"step {step}: {lines[0]}" for step in (33, 133)] == [each for each in said if "gradient" in each]


def diff(*arguments: str | Path) -> Result:
    """The command's exit code and output."""
    return CliRunner().invoke(cli, ["trace", "diff", *map(str, arguments)])


def test_two_runs_are_compared(tmp_path: Path) -> None:
    """Behavior: exit code 1 names the slower phase, 0 where --slower allows it; each phase has both ratios."""
    before = written(tmp_path / "a", plain_steps(200, 0))
    after = written(tmp_path / "b", [times(each, 1.4, "backward") for each in plain_steps(200, 1)])
    result = diff(before, after)
    assert 1 == result.exit_code
    assert "slower than 5% allows: step by 2" in result.output
    assert "backward by 4" in result.output
    assert 6 == len([line for line in result.output.splitlines() if " to " in line])
    assert 0 == diff(before, after, "--slower", "60%").exit_code
    assert 0 == diff(before, before).exit_code
    assert 2 == diff(before, after, "--slower", "much").exit_code


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    """Behavior: exit code 3 says what differs: configuration, threads, torch, machine; or that there are few steps."""
    steps = plain_steps(120, 0)
    one = written(tmp_path / "one", steps)
    for name, key, value in (("threads", "train.threads", 2), ("torch", "train.torch", "3"), ("configuration", "", 0)):
        other = written(tmp_path / name, steps, **{key or "train.config.sha256": value})
        result = diff(one, other)
        assert 3 == result.exit_code
        assert result.output.startswith(f"not comparable: {name}: ")
    machine = written(tmp_path / "machine", steps)
    (machine / "result.json").write_text(json.dumps({"processor": "another"}))
    assert "not comparable: machine: not recorded and another\n" == diff(one, machine).output
    few = diff(one, written(tmp_path / "few", steps[:90]))
    assert (3, "not measured: 100 steps are needed of each run, in blocks of 20\n") == (few.exit_code, few.output)
