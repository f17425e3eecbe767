"""State that is carried: what a pass is given is what the one before returned, as a recurrent model's hidden state is.

Told by numbers: a detached tensor, a copy and a part of a tuple are the same.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andon.door.readable import is_readable
from andon.door.rows import fingerprints
from andon.verify.access.batches import tensors_in

ENTRIES = 16  # of a tensor
TENSORS = 8  # of a pass
READ = 512  # passes of one place that are looked at
KEPT, TOKENS = 64, 8192  # chunks of text that are kept, and of each
ONCE_AN_EPOCH = 2  # how much oftener one batch comes than another: an epoch has begun, and the first is not counted

Mark = tuple[tuple[int, ...], tuple[float, ...]]


@dataclass
class Carrying:
    """What passes of one place hand to each other."""

    passes: int = 0
    carried: int = 0
    chunks: list[np.ndarray] = field(default_factory=list)  # (time, rows) of token ids that came with carried state
    followers: dict[int, int] = field(default_factory=dict)  # a batch to the one that its state was carried to
    again: int = 0  # batches that came again with state carried from them
    elsewhere: int = 0  # of them, those whose state was then carried to another batch
    times: Counter[int] = field(default_factory=Counter)  # batches by how often they came
    _returned: set[Mark] = field(default_factory=set)
    _before: int = 0

    def given(self, values: Any) -> None:
        """A pass begins."""
        if self.passes >= READ:
            return
        self.passes += 1
        tensors = tensors_in(values)
        state = next((each for each in tensors if _is_state(each) and _mark(each) in self._returned), None)
        ids = next((each for each in tensors if not each.is_floating_point() and each.dim() == 2), None)
        batch = hash(tuple(fingerprints(ids))) if ids is not None and self._returned else 0
        self.times[batch] += batch != 0
        if state is not None:
            self.carried += 1
            if ids is not None:
                self._note_text(ids, state, batch)
        self._before = batch

    @property
    def by_epochs(self) -> bool:
        """Whether batches come as often as each other, as a text's chunks do; what a text is made of does not."""
        counts = [count for count in self.times.values() if count]
        return bool(counts) and max(counts) - min(counts) <= ONCE_AN_EPOCH

    def returned(self, result: Any) -> None:
        """It ends."""
        tensors = tensors_in(result) if self.passes < READ else []
        self._returned = {_mark(each) for each in tensors[:TENSORS] if _is_state(each)} if len(tensors) > 1 else set()
        self._returned = {each for each in self._returned if len(set(each[1])) > 1}

    def _note_text(self, ids: Tensor, state: Tensor, batch: int) -> None:
        """Of text whose rows have a state each: the state has their dimension, and not that of time."""
        rows = [place for place in (0, 1) if ids.shape[place] in state.shape]
        if len(rows) != 1:
            return
        if self._before:
            known = self.followers.get(self._before)
            self.again += known is not None
            self.elsewhere += known not in (None, batch)
            self.followers[self._before] = batch
        if len(self.chunks) < KEPT and ids.numel() <= TOKENS:
            self.chunks.append(ids.detach().cpu().numpy() if rows == [1] else ids.detach().t().cpu().numpy())


def _is_state(tensor: Tensor) -> bool:
    return (
        is_readable(tensor)
        and tensor.is_floating_point()
        and tensor.dim() > 1
        and type(tensor) is Tensor
        and tensor.numel() > 0
    )


def _mark(tensor: Tensor) -> Mark:
    last = tensor.detach()
    while last.dim() > 1:
        last = last[-1]
    return tuple(tensor.shape), tuple(last[:ENTRIES].to(torch.float64).tolist())
