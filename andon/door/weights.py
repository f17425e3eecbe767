"""Weights between an optimizer's step and the next pass of training: who else moves them, and when.

A sample of the first matrices is kept after each step, and compared where the next backward pass begins.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

MOST, ENTRIES = 4, 256  # parameters, and of each
ALONE = 64  # windows without an evaluation that are looked at


@dataclass
class Between:
    """What was seen of one optimizer's weights."""

    windows: Counter[str] = field(default_factory=Counter)
    left: Tensor | None = None  # by the last step
    evaluated: Tensor | None = None  # in the first pass of an evaluation since then

    def stepped(self, optimizer: Any) -> None:
        """The optimizer has moved weights."""
        self.left, self.evaluated = _sample(optimizer), None

    def evaluating(self, optimizer: Any) -> None:
        """The model makes a pass without gradients."""
        if self.left is not None and self.evaluated is None:
            self.evaluated = _sample(optimizer)

    def training(self, optimizer: Any) -> None:
        """The first backward pass since the step begins."""
        left, self.left = self.left, None
        kind = "alone" if self.evaluated is None else "evaluated"
        if left is None or (kind == "alone" and self.windows["alone"] >= ALONE):
            return
        now = _sample(optimizer)
        if now is None or now.shape != left.shape:
            return
        moved = not torch.equal(now, left)
        self.windows[kind] += 1
        self.windows[f"{kind} moved"] += moved
        self.windows["stayed"] += moved and self.evaluated is not None and torch.equal(now, self.evaluated)


def _sample(optimizer: Any) -> Tensor | None:
    held = (p for group in optimizer.param_groups for p in group["params"])
    plain = (p for p in held if p.dim() > 1 and type(p) in (nn.Parameter, Tensor) and p.is_contiguous())
    parts = [p.detach().as_strided((min(ENTRIES, p.numel()),), (1,)) for p in islice(plain, MOST)]
    return torch.cat(parts) if parts else None  # a copy, in a dtype that holds each of them exactly
