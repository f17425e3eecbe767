"""Passes on a text that grows, as in generation, and whether what they are given then stands still.

Legend: B batch, T time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from andon.verify.access.batches import tensors_in

MOST = 1 << 16  # token ids of a batch that are looked at
ROSE = 4  # passes in a row that were each given more, so that the text is one that is generated


@dataclass
class Growing:
    """Consecutive passes at one place of the script, in eval mode and without gradients."""

    grown: bool = False  # a text was seen to grow
    stood: int = 0  # most passes in a row that were given what the pass before was, right after it grew
    shape: tuple[int, ...] = ()  # of that
    _last: tuple[Tensor, ...] = ()
    _rose: int = 0
    _still: int = 0
    _by: int = 0  # tokens that the last pass of a growing text had more

    def end(self) -> None:
        """Something else came between."""
        self._last, self._rose, self._still = (), 0, 0

    def given(self, values: Any) -> None:
        """A pass begins."""
        now = tuple(tensors_in(values))
        if not any(map(_is_text, now)) or sum(each.numel() for each in now) > MOST:
            self.end()
            return
        before, self._last = self._last, tuple(each.detach().clone() for each in now)
        if _are_equal(before, now):
            self._stand(now)
            return
        by = longer(before, now)
        self._rose, self._still, self._by = (self._rose + 1 if by and not self._still else 0), 0, by
        self.grown = self.grown or self._rose >= ROSE

    def _stand(self, now: tuple[Tensor, ...]) -> None:
        """What has a period of the tokens that are added is the same when they are, and no oldest is kept."""
        self._still += 1
        text = next(each for each in now if _is_text(each))
        if self._rose >= ROSE and self._still > self.stood and not _has_period(text, self._by):
            self.stood, self.shape = self._still, tuple(text.shape)


def _is_text(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and not tensor.is_floating_point() and tensor.dtype != torch.bool


def _are_equal(before: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> bool:
    return len(before) == len(now) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, now, strict=True)
    )


def longer(before: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> int:
    """By how many tokens a text (B, T) went on, which begins as it did; 0 where it did not."""
    if len(before) != len(now):
        return 0
    for a, b in zip(before, now, strict=True):
        begins = _is_text(a) and _is_text(b) and len(a) == len(b) and 0 < a.shape[1] < b.shape[1]
        if begins and torch.equal(a, b[:, : a.shape[1]]):
            return b.shape[1] - a.shape[1]
    return 0


def _has_period(text: Tensor, by: int) -> bool:
    return text.shape[1] <= by or torch.equal(text[:, by:], text[:, :-by])
