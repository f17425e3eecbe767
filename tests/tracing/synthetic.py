"""Steps of a training run that never was, with what is planted into them."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from andon.tracing.analysis.steps import Seconds, Step
from andon.tracing.analysis.verdict import Analysis, Verdict

TYPICAL = {"data": 0.001, "forward": 0.030, "backward": 0.060, "clip": 0.001, "optimizer": 0.006}  # seconds
NOISE = 0.05  # of the logarithm
DRIFT = 0.9  # by which a step's noise is that of the step before: steps are autocorrelated
WINDOW = 100
STEP_NS = 10**8
ATTRIBUTES = {"train.threads": 1, "train.device": "cpu"}
SLOW_FROM = 301
CAUSES = (
    "data-bound",
    "validation-heavy",
    "checkpoint-heavy",
    "unaccounted",
    "gc-heavy",
    "machine busy",
    "slowing down",
    "not measured",
    "compute-bound",
)


def plain_steps(count: int, seed: int, *, drift: float = 0.0, noise: float = NOISE) -> list[Step]:
    """Clean steps: their processor time has noise, of which a share stays from step to step."""
    chance, level, steps = random.Random(seed), 0.0, []
    for number in range(1, count + 1):
        level = drift * level + math.sqrt(1 - drift**2) * chance.gauss(0, noise)
        phases = {
            name: Seconds(seconds * 1.01, seconds)
            for name, typical in TYPICAL.items()
            for seconds in (typical * math.exp(level + chance.gauss(0, noise / 2)),)
        }
        loss = 6 * number**-0.1 * math.exp(chance.gauss(0, 0.02))
        steps.append(assembled(number, phases, loss, math.exp(chance.gauss(0, 0.2))))
    return steps


def assembled(number: int, phases: dict[str, Seconds], loss: float, norm: float) -> Step:
    """A step that consists of its phases, and a millisecond after it."""
    wall, cpu = (sum(each[index] for each in phases.values()) for index in (0, 1))
    return Step(number, number * STEP_NS, Seconds(wall, cpu), phases, loss, norm, 10**8, after=0.001)


def times(step: Step, factor: float, name: str = "") -> Step:
    """A step that takes so many times as long, or one phase of it."""
    phases = {
        phase: Seconds(own.wall * factor, own.cpu * factor) if name in ("", phase) else own
        for phase, own in step.phases.items()
    }
    return assembled(step.number, phases, step.loss, step.norm)


def with_cause(step: Step, cause: str, share: float) -> Step:
    """A step of a run, a share of whose time goes where `cause` says."""
    more = share / (1 - share) * (step.seconds.wall + step.after)
    wall = Seconds(step.seconds.wall + more, step.seconds.cpu)
    forward = step.phases["forward"]
    changes: dict[str, dict[str, Any]] = {
        "data-bound": {"seconds": wall, "phases": step.phases | {"data": Seconds(more, 0.0)}},
        "validation-heavy": {"after": step.after + more, "beside": {"validation": more}},
        "checkpoint-heavy": {"after": step.after + more, "beside": {"checkpoint": more}},
        "unaccounted": {"seconds": wall},
        "gc-heavy": {"seconds": wall, "collected": more},
        "machine busy": {
            "seconds": wall,
            "phases": step.phases | {"forward": Seconds(forward.wall + more, forward.cpu)},
        },
        "not measured": {"seconds": wall, "phases": {"forward": forward}},
    }
    return step._replace(**changes.get(cause, {}))


def planted(cause: str, share: float, seed: int) -> Verdict:
    """The verdict on a run of 600 steps with one cause."""
    steps = plain_steps(600, seed)
    if cause == "slowing down":
        part = (600 - SLOW_FROM + 1) / 600
        factor = 1 + share / (1 - share) / part / (TYPICAL["forward"] / sum(TYPICAL.values()))
        steps = [times(step, factor, "forward") if step.number >= SLOW_FROM else step for step in steps]
    found = analyzed([with_cause(step, cause, share) for step in steps]).verdict()
    assert found
    return found


def analyzed(steps: Sequence[Step], attributes: Mapping[str, str | int] | None = None) -> Analysis:
    """Steps in windows, analyzed."""
    analysis = Analysis(ATTRIBUTES if attributes is None else attributes, {"data": "loop.py:7"})
    for begin in range(0, len(steps), WINDOW):
        analysis.add(steps[begin : begin + WINDOW])
    return analysis


def mixed(count: int, share: float, factor: float, seed: int) -> tuple[list[Step], list[int]]:
    """Steps of which a share takes `factor` times as long, and which these are."""
    chance = random.Random(seed + 1)
    own = [int(chance.random() < share) for _ in range(count)]
    plain = plain_steps(count, seed, drift=DRIFT)
    return [times(step, factor if slow else 1.0) for step, slow in zip(plain, own, strict=True)], own


def agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """The adjusted Rand index of two partitions (Hubert and Arabie 1985)."""

    def pairs(counts: Mapping[Any, int]) -> int:
        return sum(math.comb(each, 2) for each in counts.values())

    both, rows, columns = pairs(Counter(zip(one, other, strict=True))), pairs(Counter(one)), pairs(Counter(other))
    expected = rows * columns / math.comb(len(one), 2)
    most = (rows + columns) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)
