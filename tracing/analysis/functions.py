"""Functions and modules of profiled steps by self time, out of the `python_function` events of torch's profiler.

A chrome trace has an event a call, nested by time. What is built in, such as torch's operators, has no line, and counts
for the function that called it. Counted is what lies within a step, in its own thread: shares sum to at most 100%.
"""

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from andon.tracing.errors import TraceError

STEP = "train.step"
FUNCTION = re.compile(r"(?P<file>.+\.py)\((?P<line>\d+)\): (?P<name>.+)")
MODULE = "nn.Module: "
OURS = ("torch/profiler/", "torch/autograd/profiler")  # the profiler's own


class Call(NamedTuple):
    """One call within a step, in microseconds: what is called, with its file and line unless it is a module."""

    name: str
    begun: float
    ended: float


class Row(NamedTuple):
    """A function or a module: its share of the profiled steps, its seconds a step, and its calls a step."""

    name: str
    source: str  # file:line, or empty
    share: float
    seconds: float
    calls: float


class Top(NamedTuple):
    """What took longest in the profiled steps."""

    steps: int
    seconds: float  # a step
    functions: list[Row]
    modules: list[Row]


def profiles_of(run: Path) -> list[Path]:
    """The profiles in a run's folder, or the one that is named.

    Raises:
        TraceError: there is none.
    """
    found = sorted((run / "profile").glob("steps-*.json.gz")) if run.is_dir() else [run]
    if not found:
        raise TraceError(f"{run}: holds no profile; record one: andon train CONFIG --profile 100")
    return found


def steps_of(path: Path) -> Iterator[list[Call]]:
    """The calls of each profiled step, outermost first: the step itself, functions with a line, modules.

    Raises:
        TraceError: the file is no chrome trace of ours.
    """
    try:
        raw = path.read_bytes()
        events = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)["traceEvents"]
        steps = [each for each in events if each.get("name") == STEP and each.get("cat") == "user_annotation"]
        python = [each for each in events if each.get("cat") == "python_function"]
        for step in sorted(steps, key=lambda each: each["ts"]):
            yield _calls(step, [each for each in python if each["tid"] == step["tid"]])
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path} is no profile of a run ({error!r}); remove it to read the others") from error


def _calls(step: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Call]:
    begun, ended = step["ts"], step["ts"] + step["dur"]
    found = [
        Call(each["name"], max(each["ts"], begun), min(each["ts"] + each["dur"], ended))
        for each in events
        if each["ts"] < ended and each["ts"] + each["dur"] > begun and _counts(each["name"])
    ]
    return [Call(STEP, begun, ended), *sorted(found, key=lambda call: (call.begun, -call.ended))]


def _counts(name: str) -> bool:
    return name.startswith(MODULE) or (FUNCTION.fullmatch(name) is not None and not name.startswith(OURS))


def self_times(calls: Sequence[Call]) -> Iterator[tuple[str, float]]:
    """Microseconds of each call without the calls within it."""
    open_calls: list[tuple[Call, float]] = []  # and what is within it
    for call in [*calls, Call("", calls[0].ended, calls[0].ended)]:
        while open_calls and open_calls[-1][0].ended <= call.begun:
            done, inside = open_calls.pop()
            yield done.name, max(0.0, done.ended - done.begun - inside)
        if open_calls:
            outer, inside = open_calls[-1]
            end = min(call.ended, outer.ended)
            open_calls[-1] = outer, inside + max(0.0, end - call.begun)
            open_calls.append((call._replace(ended=end), 0.0))
        else:
            open_calls.append((call, 0.0))


def top(paths: Sequence[Path]) -> Top:
    """Of all steps in profiles. Raises TraceError as `steps_of`, and where they hold no step."""
    steps, total = 0, 0.0
    functions, modules = defaultdict[str, float](float), defaultdict[str, float](float)
    calls = Counter[str]()
    for found in chain.from_iterable(map(steps_of, paths)):
        steps += 1
        total += found[0].ended - found[0].begun
        calls.update(call.name for call in found)
        _add(functions, [call for call in found if not call.name.startswith(MODULE)])
        _add(modules, [found[0], *(call for call in found if call.name.startswith(MODULE))])
    if not total:
        raise TraceError(f"{', '.join(map(str, paths))}: no profiled step; the run ended within its first")
    tables = (_rows(sums, calls, steps, total) for sums in (functions, modules))
    return Top(steps, total / steps / 1e6, *tables)


def _add(sums: dict[str, float], calls: Sequence[Call]) -> None:
    for name, microseconds in self_times(calls):
        sums[name] += microseconds


def _rows(sums: Mapping[str, float], calls: Mapping[str, int], steps: int, total: float) -> list[Row]:
    """Without what is the step's own, the largest first."""
    rows = [row(*each, calls, steps, total) for each in sums.items() if each[0] != STEP]
    return sorted(rows, key=lambda each: -each.share)


def row(name: str, microseconds: float, calls: Mapping[str, int], steps: int, total: float) -> Row:
    """One line of a table."""
    said = FUNCTION.fullmatch(name)
    source = f"{said['file']}:{said['line']}" if said else ""
    short = said["name"] if said else name.removeprefix(MODULE)
    share = round(1e3 * microseconds) * 10**6 // round(1e3 * total) / 10**6  # cut: shares never sum to more than 1
    return Row(short, source, share, microseconds / steps / 1e6, calls[name] / steps)


def speedscope(paths: Sequence[Path]) -> dict[str, Any]:
    """The profiled steps in speedscope's format, a profile a step: https://www.speedscope.app/file-format-schema.json."""
    frames: dict[str, int] = {}
    profiles = []
    for path in paths:
        for number, calls in enumerate(steps_of(path)):
            begun, ended = calls[0].begun, calls[0].ended
            events = list(_events(calls, frames))
            name = f"{path.name.partition('.')[0]}, {number + 1}"
            profiles.append(
                {"type": "evented", "name": name, "unit": "microseconds", "startValue": 0, "endValue": ended - begun}
                | {"events": events}
            )
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "andon",
        "shared": {"frames": [_frame(name) for name in frames]},
        "profiles": profiles,
    }


def _events(calls: Sequence[Call], frames: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Each call opened and closed, none beyond the one around it."""
    begun, stack = calls[0].begun, list[Call]()
    for call in [*calls, Call("", calls[0].ended, calls[0].ended)]:
        while stack and stack[-1].ended <= call.begun:
            done = stack.pop()
            yield {"type": "C", "frame": frames[done.name], "at": done.ended - begun}
        if call.name:
            stack.append(call._replace(ended=min(call.ended, stack[-1].ended)) if stack else call)
            yield {"type": "O", "frame": frames.setdefault(call.name, len(frames)), "at": call.begun - begun}


def _frame(name: str) -> dict[str, Any]:
    said = FUNCTION.fullmatch(name)
    return {"name": said["name"], "file": said["file"], "line": int(said["line"])} if said else {"name": name}
