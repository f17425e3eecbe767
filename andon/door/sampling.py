"""What one micro-batch of the script's own was, in numbers: several of them show what one cannot.

Legend: B batch.
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from andon.door.levels import levels_of, noise_in, share_of
from andon.door.masks import Counted, counted_in
from andon.door.mixing import mixes_rows
from andon.door.questions.targets import shown_in
from andon.door.ratios import ratio_of
from andon.door.twins import twins_of
from andon.verify.access.calls import gradients, new_batch, new_model, seeded
from andon.verify.capturing.micro_batch import Captured, as_subject
from andon.verify.checks.structure import DEAD_ROWS, DEAD_SHARE
from andon.verify.errors import NotApplicable
from andon.verify.observation.idle_parameters import Idle
from andon.verify.observation.protect import protected
from andon.verify.observation.uses import Uses

ALIKE = 1e-3  # of a weight in float32
LINES = re.compile(r"\d+ of (\d+) ((?:row|column)s of \S+) get no gradient")  # what structure.parameters says
SMALLEST = 4  # numbers of a row that can be told from others


@dataclass(frozen=True)
class Sample:
    """One micro-batch."""

    optimizer: int  # id
    step: int
    line: str  # of its backward pass
    mark: int = 0  # of its numbers
    targets: int = 0  # of a cross-entropy that count
    weight: float = 0.0  # of each of them in what the step sums; 0 where they weigh unlike, or none are shown
    rows: int = 0
    times: int = 1  # that each row stands in it, where all do as often
    idle: dict[str, list[int]] = field(default_factory=dict)  # rows and columns of a matrix without a gradient
    counted: list[list[tuple[int, int]]] = field(default_factory=list)  # of each row: places and labels that count
    mixed: str = ""  # which of the model's outputs depend, at each row, on all others
    ratio: float | None = None  # how far a policy's ratios are from 1, at most
    twins: dict[str, int] = field(default_factory=dict)  # pairs that the loss takes, alike, by a mark of them
    noise: int = 0  # of the noise that the model is to tell; 0: none
    share: float | None = None  # of one of two parts that all rows of what it is given are mixed of
    levels: dict[str, float | None] = field(default_factory=dict)  # one number a row; None: they differ

    @property
    def places(self) -> Counted:
        """Those labels of each row that count, by their place."""
        return [dict(row) for row in self.counted]

    def as_json(self) -> dict[str, Any]:
        """For the file in which a child answers."""
        return asdict(self)


def sample(captured: Captured, optimizer: int, step: int, line: str) -> Sample:
    """What this micro-batch was."""
    with protected():
        mark, rows, times = _rows(captured)
        targets, weight = _weights(captured)
        idle, mixed, ratio = _idle(captured), _mixed(captured), ratio_of(captured)
    counted = [list(row.items()) for row in counted_in(captured.parts.values())]
    noise = noise_in(captured)
    share = None if noise else share_of(captured)
    levels = levels_of(captured) if noise or share is not None else {}
    told = twins_of(captured), noise, share, levels
    return Sample(optimizer, step, line, mark, targets, weight, rows, times, idle, counted, mixed, ratio, *told)


def _mixed(captured: Captured) -> str:
    """What depends on all rows; nothing where the model refuses rows in another place, as sorted ones are."""
    try:
        return mixes_rows(captured)
    except Exception:  # noqa: BLE001 - our own change provoked it
        return ""


def _weights(captured: Captured) -> tuple[int, float]:
    """How many targets count, and what each weighs."""
    try:
        shown = shown_in(captured)
    except NotApplicable:
        return 0, 0.0
    weights = shown.weights[shown.counted]
    alike = bool((weights - weights.mean()).abs().max() <= ALIKE * weights.abs().mean())
    return len(weights), float(weights.mean()) * captured.factor if alike else 0.0


def _rows(captured: Captured) -> tuple[int, int, int]:
    """A mark of the batch, its rows, and how often each stands in it, where all do as often and are told apart."""
    parts = [each.detach() for each in captured.parts.values() if each.dim() and not each.is_sparse]
    count = max((len(each) for each in parts if each.dim() > 1), default=0)
    rows = _marks([each.reshape(count, -1) for each in parts if count and len(each) == count])
    times = set(Counter(rows).values())
    return hash(tuple(rows)) if rows else 0, count, times.pop() if len(times) == 1 else 1


def _marks(parts: list[Tensor]) -> list[int]:
    """A number for each row, the same for the same row; none where rows have too few numbers to be told apart."""
    if sum(each.shape[1] for each in parts) < SMALLEST:
        return []
    return [hash(b"".join(map(_bytes, row))) for row in zip(*parts, strict=True)]


def _bytes(row: Tensor) -> bytes:
    return (row.float() if row.dtype == torch.bfloat16 else row).contiguous().numpy().tobytes()


def _idle(captured: Captured) -> dict[str, list[int]]:
    """Rows and columns of matrices that get no gradient as the script trains, by what a finding calls them."""
    subject = as_subject(captured)
    model = new_model(subject).train()
    with seeded(), Uses(model) as uses:
        found = gradients(subject, model, new_batch(subject))
    return {f"{what}s of {name}": sorted(lines.idle) for (name, what), lines in Idle.of(found, uses).lines.items()}


def is_reached(samples: list[Sample], message: str) -> bool:
    """Whether it says of lines that they get no gradient, and in all micro-batches together fewer do than count."""
    said = LINES.match(message)
    if said is None or len(samples) < 2:
        return False
    idle = set.intersection(*(set(each.idle.get(said[2], ())) for each in samples))
    return len(idle) < max(DEAD_ROWS, DEAD_SHARE * int(said[1]))
