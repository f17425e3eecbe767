"""What each step of a run was, in a few numbers, so that a resumed run can be held to it.

A number stands with the size of what it was summed of: rounding is a share of that.
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.batches import tensors_in
from andon.verify.observation.optimizers import tensors_of

MOST, ENTRIES, BYTES = 8, 256, 1 << 16  # parameters of an optimizer, numbers of each, bytes of an input
STEPS = 5000  # that are noted
Number = tuple[float, float]  # and its size


@dataclass
class Step:
    """One step of an optimizer, as it is about to be made."""

    losses: list[Number] = field(default_factory=list)
    rates: list[Number] = field(default_factory=list)
    rows: int = 0  # a mark of what the passes with gradients were given
    state: list[Number] = field(default_factory=list)  # of the optimizer
    weights: list[Number] = field(default_factory=list)


class Trail:
    """The steps of one process, its checkpoints, and the files that it read."""

    def __init__(self, end: Callable[[], None] | None = None) -> None:
        self.steps: list[Step] = []
        self.saved: list[tuple[str, int]] = []  # files, and after how many steps
        self.loaded: list[str] = []
        self._next = Step()
        self._end = end  # called before the first step that follows a save

    def note_loss(self, loss: Any) -> None:
        """A backward pass begins."""
        if isinstance(loss, Tensor) and loss.numel() == 1:
            value = float(loss.detach())
            self._next.losses.append((value, abs(value)))

    def note_rows(self, given: tuple[Any, ...]) -> None:
        """A pass with gradients begins."""
        for each in tensors_in(given):
            self._next.rows = zlib.crc32(_bytes(each), self._next.rows)

    def before_step(self, optimizer: Any) -> None:
        """An optimizer is about to move weights."""
        if self._end is not None and any(steps for _, steps in self.saved):
            self._end()
        if len(self.steps) >= STEPS:
            return
        step, self._next = self._next, Step()
        parameters = [each for each in tensors_of(optimizer) if type(each) in (Tensor, nn.Parameter)]
        chosen = parameters[:: max(1, len(parameters) // MOST)][:MOST]
        step.rates = [_alone(group.get("lr", 0.0)) for group in optimizer.param_groups]
        step.weights = [_summed(each) for each in chosen]
        states = [optimizer.state.get(each, {}) for each in chosen]
        step.state = [
            _summed(state[key]) for state in states for key in sorted(state, key=str) if _is_numbers(state[key])
        ]
        self.steps.append(step)

    def note_save(self, file: Any) -> None:
        """Torch writes a file."""
        name = _named(file)
        if name:
            self.saved.append((name, len(self.steps)))

    def note_load(self, file: Any) -> None:
        """Torch reads one."""
        name = _named(file)
        if name:
            self.loaded.append(name)

    def as_json(self) -> dict[str, Any]:
        """For the file in which a process says what it saw."""
        return {"steps": [asdict(each) for each in self.steps], "saved": self.saved, "loaded": self.loaded}


def _named(file: Any) -> str:
    name = file if isinstance(file, str | os.PathLike) else getattr(file, "name", "")
    return str(Path(name).resolve()) if isinstance(name, str | os.PathLike) and name else ""


def _alone(value: Any) -> Number:
    return float(value), abs(float(value))


def _is_numbers(value: Any) -> bool:
    return isinstance(value, int | float) or (type(value) is Tensor and value.layout == torch.strided)


def _summed(value: Any) -> Number:
    """A weighted sum of its first numbers, in which each place counts otherwise, and that of their sizes."""
    if not isinstance(value, Tensor):
        return _alone(value)
    first = value.detach().reshape(-1)[:ENTRIES].double().cpu()
    weighted = first * torch.linspace(1.0, 2.0, len(first), dtype=torch.double)
    return float(weighted.sum()), float(weighted.abs().sum())


def _bytes(tensor: Tensor) -> bytes:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        return b""
    flat = tensor.detach().reshape(-1)[:BYTES].cpu()
    return (flat.float() if flat.dtype == torch.bfloat16 else flat).numpy().tobytes()
