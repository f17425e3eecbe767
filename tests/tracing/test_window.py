"""Findings and verdict in the trace of a run that goes on."""

import os
import sys
import threading
from pathlib import Path

import pytest

from andon.tracing import window
from andon.tracing.analysis.findings import KINDS
from andon.tracing.analysis.run import analyze
from andon.tracing.analysis.steps import Builder
from andon.tracing.read import read_spans
from andon.tracing.record import open_trace

pytestmark = pytest.mark.tier2


def recorded(path: Path) -> list[str]:
    """A run of 240 quick steps with a gradient jump; the lines that it says."""
    with open_trace(path, "run-1", {"train.threads": 2, "train.device": "cpu"}) as trace:
        for step in range(1, 241):
            with trace.span("train.step", step=step) as span:
                for phase in ("data", "forward", "backward", "optimizer"):
                    with trace.span(phase):
                        pass
                span.set_attributes(loss=3.0 - step / 1000, grad_norm=68.0 if step == 133 else 1.0 + step % 7 / 100)
    assert trace.verdict
    return [each.text for each in trace.findings if each.kind == "train.gradient_jump"] + [trace.verdict.sentence()]


def test_findings_are_in_the_trace(tmp_path: Path) -> None:
    """Behavior: an event and an attribute of its window; the verdict one of the last span; read back they are equal."""
    path = tmp_path / "trace.jsonl"
    text, sentence = recorded(path)
    assert text.startswith("step 133: gradient norm 6")
    spans = read_spans(path).spans
    windows = [span for span in spans if span.name == "train window"]
    assert 133 == windows[1].attributes["train.found.gradient_jump"]
    assert windows[1].attributes["train.finding"] in KINDS[KINDS.index("train.gradient_jump") :]
    (event,) = [event for event in windows[1].events if event.name == "train.gradient_jump"]
    step = next(span for span in spans if span.attributes.get("train.step") == 133)
    assert (133, step.end) == (event.attributes["train.step"], event.time)
    (said,) = spans[-1].events
    assert ("train run end", "train.verdict") == (spans[-1].name, said.name)
    analysis = analyze(path)
    found = analysis.verdict()
    assert found
    assert found.sentence() == sentence
    assert said.attributes["train.cause"] == found.cause.name
    assert text in [each.text for each in analysis.findings]


def test_what_lies_deeper_is_not_kept(tmp_path: Path) -> None:
    """Behavior: spans below a phase, or of another thread, are let go once the step has ended."""
    path = tmp_path / "trace.jsonl"
    step, phase, layer = ("train.step", "forward", "layer")
    with open_trace(path, "run-1", {}) as trace, trace.span(step), trace.span(phase), trace.span(layer):
        pass
    spans, builder = read_spans(path).spans, Builder()
    deeper = next(span for span in spans if span.name == layer)
    references = sys.getrefcount(deeper)
    builder.add(spans)
    assert references == sys.getrefcount(deeper)
    (own,) = builder.take()
    assert [phase] == list(own.phases)


def test_a_fault_of_ours_costs_no_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: where looking through a window raises, the trace is whole and the run's notes say it."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(window.Analysis, "add", broken)
    path = tmp_path / "trace.jsonl"
    with open_trace(path, "run-1", {}, window_steps=2) as trace:
        for step in range(1, 6):
            with trace.span("train.step", step=step):
                pass
    assert ["findings are not complete: ZeroDivisionError()"] == trace.notes
    assert 3 == sum(span.name == "train window" for span in read_spans(path).spans)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_waits_for_nobody(tmp_path: Path) -> None:
    """Behavior: a child that goes on with its parent's trace has nobody who looks through windows, and never waits."""
    path = tmp_path / "trace.jsonl"
    with open_trace(path, "run-1", {}, window_steps=2) as trace:
        child = os.fork()
        if not child:
            setattr(threading.Event, "wait", lambda *_: os._exit(1))  # noqa: B010 - a process of its own
        for step in range(1, 6):
            with trace.span("train.step", step=step):
                pass
        if not child:
            os._exit(0)
        assert 0 == os.waitpid(child, 0)[1]
    assert 5 == sum(span.name == "train.step" for span in read_spans(path).spans)
