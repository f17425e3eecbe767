"""Self times out of a profile's calls, in a chrome trace made by hand."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from andon.tracing.analysis.functions import profiles_of, speedscope, top
from andon.tracing.errors import TraceError

pytestmark = pytest.mark.tier1


def event(name: str, begun: float, ended: float, cat: str = "python_function", tid: int = 1) -> dict[str, Any]:
    """A call in microseconds."""
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": begun, "dur": ended - begun}


EVENTS = [
    event("train.step", 100, 200, "user_annotation"),
    event("train.py(1): main", 0, 300),  # open before and after
    event("model.py(7): forward", 110, 160),
    event("nn.Module: Block_0", 112, 158),
    event("<built-in method sort>", 120, 150),
    event("model.py(9): helper", 151, 155),
    event("model.py(7): forward", 210, 290),  # between steps
    event("loader.py(3): work", 100, 200, tid=2),  # in another thread
    event("aten::sort", 121, 149, "cpu_op"),
]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A profile of one step."""
    path = tmp_path / "profile" / "steps-000100.json.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": EVENTS}).encode()))
    return path


def test_self_time_is_without_calls_within(profile: Path) -> None:
    """Behavior: what is built in counts for its caller; other threads, and what lies outside of steps, do not count."""
    found = top(profiles_of(profile.parent.parent))
    assert (1, 100e-6) == (found.steps, pytest.approx(found.seconds))
    shares = {(each.name, each.source): each.share for each in found.functions}
    expected = {("main", "train.py:1"): 0.5, ("forward", "model.py:7"): 0.46, ("helper", "model.py:9"): 0.04}
    assert expected == pytest.approx(shares)
    assert [("Block_0", pytest.approx(0.46), 1)] == [(each.name, each.share, each.calls) for each in found.modules]


def test_speedscope_has_each_call_within_its_step(profile: Path) -> None:
    """Behavior: calls are cut to the step, and nested."""
    scope = speedscope([profile])
    names = [each["name"] for each in scope["shared"]["frames"]]
    order = [(each["type"], names[each["frame"]], each["at"]) for each in scope["profiles"][0]["events"]]
    assert ["train.step", "main", "forward", "nn.Module: Block_0", "helper"] == [
        name for kind, name, _ in order if kind == "O"
    ]
    assert ("C", "train.step", 100) == order[-1]


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"[]"), gzip.compress(b'{"traceEvents": [{"ph": 1}]}')],
    ids=["no gzip", "no mapping", "no duration"],
)
def test_what_is_no_profile_is_refused(content: bytes, profile: Path) -> None:
    """Behavior: the message names the file, or that no step is in it."""
    profile.write_bytes(content)
    with pytest.raises(TraceError, match=r"steps-000100"):
        top([profile])
