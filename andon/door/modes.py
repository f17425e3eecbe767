"""Whether a model's method calls its parts in the mode that it is called in: one that sets another is no pass."""

import torch
from torch import nn


class Modes:
    """Of the method that is running."""

    def __init__(self) -> None:
        self._caller: nn.Module | None = None
        self._begun = (False, False)
        self._same: set[bool] = set()

    def begin(self, caller: nn.Module | None) -> None:
        """A method of the caller's begins; None for a pass that is no method's."""
        self._caller, self._same = caller, set()
        if caller is not None:
            self._begun = _mode(caller)

    def part(self) -> None:
        """A module is called."""
        if self._caller is not None:
            self._same.add(_mode(self._caller) == self._begun)

    def end(self) -> bool:
        """It has ended: has it called all its parts in another mode?"""
        self._caller = None
        return self._same == {False}


def _mode(module: nn.Module) -> tuple[bool, bool]:
    return torch.is_grad_enabled(), module.training
