"""Where a run's time went: one typical step from its spans, and the phases' shares over the run from its log."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from andon.tracing.read import RecordedSpan

STEP = "train.step"
BETWEEN = "between steps"
MAX_COLUMNS = 48
OTHER = "other"


class Bar(NamedTuple):
    """One span on the axis of its step, both in percent of it."""

    left: float
    width: float


class Row(NamedTuple):
    """A phase of the typical step: its spans, milliseconds together, and percent of the step."""

    name: str
    bars: list[Bar]
    milliseconds: float
    percent: float


class TypicalStep(NamedTuple):
    """The step of median duration, with its phases in order and the time outside all phases last."""

    step: int
    milliseconds: float
    rows: list[Row]


class OtherSpans(NamedTuple):
    """Spans of one name outside the steps, such as validation: how many, and their seconds in all."""

    name: str
    count: int
    seconds: float


class Column(NamedTuple):
    """Phases' shares of an interval of steps, in percent, in the order of the phases; they add up to 100."""

    first: int
    last: int
    percents: list[float]


def read_timeline(path: Path) -> tuple[TypicalStep | None, list[OtherSpans]]:
    """The typical step of a trace, and the spans outside the steps. None if no step was recorded.

    Reads the file twice and keeps one number per step, so that a long run's trace need not fit in memory.
    """
    from andon.tracing import lines, read

    durations: list[tuple[int, int]] = []
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    begin = 0
    for end, spans in read.lines_of_spans(path):
        if spans[-1].name == STEP:
            durations.append((spans[-1].end - spans[-1].start, begin))
        for span in outside_steps(spans):
            counts[span.name] += 1
            seconds[span.name] += (span.end - span.start) / 1e9
        begin = end
    beside = [
        OtherSpans(name, counts[name], total) for name, total in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    if not durations:
        return None, beside
    _, offset = median_low(durations)
    _, line = next(lines.complete_lines(path, offset))
    return typical_step(read.parse_line(line)), beside


def outside_steps(spans: Sequence["RecordedSpan"]) -> Iterator["RecordedSpan"]:
    """Of a line's spans those beside the steps, such as validation, without what is below them. Parents come last."""
    below: set[str] = set()
    for span in reversed(spans):
        if span.parent_id in below or span.name == STEP:
            below.add(span.span_id)
        elif span.parent_id and span.name != BETWEEN:
            below.add(span.span_id)
            yield span


def typical_step(spans: Sequence["RecordedSpan"]) -> TypicalStep:
    """A step laid out in time: `spans` are its phases, and the step itself last."""
    *phases, step = spans
    duration = step.end - step.start
    rows = []
    for name in dict.fromkeys(phase.name for phase in phases if phase.parent_id == step.span_id):
        own = [phase for phase in phases if phase.name == name and phase.parent_id == step.span_id]
        bars = [
            Bar(100 * (span.start - step.start) / duration, 100 * (span.end - span.start) / duration) for span in own
        ]
        percent = sum(bar.width for bar in bars)
        rows.append(Row(name, bars, percent / 100 * duration / 1e6, percent))
    rest = 100 - sum(row.percent for row in rows)
    rows.append(Row(OTHER, [], rest / 100 * duration / 1e6, rest))
    return TypicalStep(step.attributes["train.step"], duration / 1e6, rows)


def shares(steps: Sequence[dict[str, Any]]) -> tuple[dict[str, float], list[Column]]:
    """Seconds by phase over all logged steps, and the phases' shares in at most MAX_COLUMNS intervals of steps."""
    totals: Counter[str] = Counter()
    for record in steps:
        totals.update(record.get("seconds", {}))
    size = -(-len(steps) // MAX_COLUMNS) or 1
    columns = []
    for begin in range(0, len(steps), size):
        interval = steps[begin : begin + size]
        here: Counter[str] = Counter()
        for record in interval:
            here.update(record.get("seconds", {}))
        if total := sum(here.values()):
            percents = [100 * here[name] / total for name in totals]
            columns.append(Column(interval[0]["step"], interval[-1]["step"], percents))
    return dict(totals), columns
