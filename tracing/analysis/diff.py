"""Two runs side by side, phase by phase: the ratio of their seconds with its interval, from means of blocks of steps.

Steps are autocorrelated, so what is compared is blocks of 20 (Welch's test on logarithms of their means). A phase is
slower where even the lower end says so: its ratio is tested against the bound, with Holm's correction over the phases
(Holm 1979). Intervals are of 95%, each for itself. Where A and B were run in turn, several times each, what is compared
is the pairs (Student's test on logarithms of their ratios), and the clock can be believed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import NormalDist, fmean, variance
from typing import Any, NamedTuple

from andon.tracing.analysis.findings import SHARE
from andon.tracing.analysis.slowing import BLOCK
from andon.tracing.analysis.steps import Step

LEAST_BLOCKS = 4
LEAST_PAIRS = 3
LEVEL = 0.05
SAME = {  # of a run's start; where one differs, seconds say nothing about the code
    "train.config.sha256": "configuration",
    "train.model": "model",
    "train.adapter": "adapter",
    "train.dtype": "dtype",
    "train.device": "device",
    "train.threads": "threads",
    "train.torch": "torch",
}
WHOLE = "step"
NORMAL = NormalDist()


class Ratio(NamedTuple):
    """How many times as long B takes as A: the ratio, and between what it lies with 95%."""

    times: float
    low: float
    high: float
    p: float  # of a ratio of at most the bound


class Row(NamedTuple):
    """A phase in both runs: its share of A's step, and its ratios. `slower` is after Holm."""

    name: str
    share: float
    cpu: Ratio
    wall: Ratio
    slower: bool


class Run(NamedTuple):
    """What a run says of itself, and its steps."""

    attributes: Mapping[str, Any]
    steps: Sequence[Step]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Why two runs are not comparable, from what they say at their start."""
    return [
        f"{name}: {a.get(key, 'not recorded')} and {b.get(key, 'not recorded')}"
        for key, name in SAME.items()
        if a.get(key) != b.get(key)
    ]


def blocks_of(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """Whole blocks of steps; the first, in which a run warms up, is left out."""
    own = [step for step in steps if not step.measuring]
    return [own[begin : begin + BLOCK] for begin in range(BLOCK, len(own) - BLOCK + 1, BLOCK)]


def rows(a: Sequence[Step], b: Sequence[Step], slower: float) -> list[Row]:
    """The whole step and each phase of both runs; none where one of them has too few steps."""
    both = blocks_of(a), blocks_of(b)
    if min(map(len, both)) < LEAST_BLOCKS:
        return []
    names = [name for name in a[-1].phases if name in b[-1].phases]
    whole = sum(seconds(block, WHOLE, 1) for block in both[0])
    found = []
    for name in [WHOLE, *names]:
        wall, cpu = (
            compared(*([seconds(block, name, which) for block in own] for own in both), slower) for which in (0, 1)
        )
        share = sum(seconds(block, name, 1) for block in both[0]) / max(whole, 1e-12)
        found.append(Row(name, share, cpu, wall, slower=False))
    return _judged(found, lambda row: row.cpu.p)


def paired_rows(pairs: Sequence[tuple[Sequence[Step], Sequence[Step]]], slower: float) -> list[Row]:
    """The same of pairs of runs, made in turn; judged by the clock. None where they are too few, or too short."""
    whole = [tuple(list(chain.from_iterable(blocks_of(run))) for run in pair) for pair in pairs]
    runs = list(chain.from_iterable(whole))
    if len(pairs) < LEAST_PAIRS or not all(runs):
        return []
    names = [name for name in runs[0][-1].phases if all(name in run[-1].phases for run in runs)]
    return _judged([_paired_row(whole, name, slower) for name in [WHOLE, *names]], lambda row: row.wall.p)


def _paired_row(pairs: Sequence[Sequence[Sequence[Step]]], name: str, slower: float) -> Row:
    wall, cpu = (_paired(pairs, name, which, slower) for which in (0, 1))
    own, whole = (sum(seconds(run, each, 0) for run, _ in pairs) for each in (name, WHOLE))
    return Row(name, own / whole, cpu, wall, slower=False)


def _paired(pairs: Sequence[Sequence[Sequence[Step]]], name: str, which: int, slower: float) -> Ratio:
    means = [[seconds(run, name, which) for run in pair] for pair in pairs]
    logs = [math.log(max(b, 1e-9) / max(a, 1e-9)) for a, b in means]
    return _ratio(fmean(logs), math.sqrt(variance(logs) / len(logs)), len(logs) - 1, slower)


def _judged(found: list[Row], chance: Callable[[Row], float]) -> list[Row]:
    """Holm over the phases that are a tenth of the step at least: from the smallest p on, until one is too large."""
    counted = sorted((row for row in found if row.share >= SHARE), key=chance)
    slower = set()
    for place, row in enumerate(counted):
        if chance(row) > LEVEL / (len(counted) - place):
            break
        slower.add(row.name)
    return [row._replace(slower=row.name in slower) for row in found]


def seconds(block: Sequence[Step], name: str, which: int) -> float:
    """A block's mean of a phase or of the whole step: by the clock (0) or on processors (1)."""
    return fmean(
        step.seconds[which] if name == WHOLE else step.phases[name][which] if name in step.phases else 0.0
        for step in block
    )


def compared(a: Sequence[float], b: Sequence[float], slower: float) -> Ratio:
    """B's blocks over A's, and how likely such a ratio is where the true one is 1 + slower at the most."""
    logs = [[math.log(max(each, 1e-9)) for each in own] for own in (a, b)]
    effect = fmean(logs[1]) - fmean(logs[0])
    parts = [variance(own) / len(own) for own in logs]
    freedom = sum(parts) ** 2 / (sum(part**2 / (len(own) - 1) for part, own in zip(parts, logs, strict=True)) or 1e-300)
    return _ratio(effect, math.sqrt(sum(parts)), max(freedom, 1.0), slower)


def _ratio(effect: float, error: float, freedom: float, slower: float) -> Ratio:
    """A ratio out of its logarithm, with that one's error."""
    error = error or 1e-12
    reach = student_quantile(1 - LEVEL / 2, freedom) * error
    p = student_above((effect - math.log1p(slower)) / error, freedom)
    return Ratio(math.exp(effect), math.exp(effect - reach), math.exp(effect + reach), p)


def student_above(t: float, freedom: float) -> float:
    """The chance that Student's t is above a value (Wallace 1959, within 6% from 4 degrees on)."""
    normal = math.sqrt(freedom * math.log1p(t * t / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return 1 - NORMAL.cdf(math.copysign(normal, t))


def student_quantile(share: float, freedom: float) -> float:
    """The value below which Student's t is with a chance of `share`: the same, turned around."""
    normal = NORMAL.inv_cdf(share) * (8 * freedom + 3) / (8 * freedom + 1)
    return math.copysign(math.sqrt(freedom * math.expm1(normal * normal / freedom)), normal)
