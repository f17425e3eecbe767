"""The small model that libraries without one are checked with, and what a check says of an adapter on it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from andon.verify.run.runner import check
from andon.verify.subject import Adapters, Subject
from andon.verify.subjects import small


class Shifted(nn.Module):
    """A linear layer and an adapter's bias, zero at first, as the layer's own is."""

    def __init__(self, base: nn.Module, first: Tensor) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.shift = nn.Parameter(first.clone())

    def forward(self, states: Tensor) -> Tensor:
        """The layer's output, shifted."""
        return self.base(states) + self.shift


def shifted(value: float) -> Subject:
    """Adapters whose shift begins with the values of the layer's own bias, which are multiples of this."""

    def model() -> nn.Module:
        made = small.Model()
        with torch.no_grad():
            made.mix.bias.copy_(value * torch.arange(1, len(made.mix.bias) + 1))
        return made

    def add(base: nn.Module, _rank: int, _alpha: float) -> nn.Module:
        made = copy.deepcopy(base).requires_grad_(False)
        mix = made.get_submodule("mix")
        made.set_submodule("mix", Shifted(mix, made.get_parameter("mix.bias").detach()))
        return made

    return small.subject(model=model, adapters=Adapters(add=add))


@pytest.mark.long
def test_the_small_model_passes_what_applies_to_it() -> None:
    """Behavior: nothing is found in the model itself, so that a finding is the library's."""
    assert () == check(small.subject(), tier=2).findings


@pytest.mark.long
def test_zeros_that_learn_are_not_a_copy_of_zeros_that_are_frozen() -> None:
    """Behavior: a fresh side at zero is not taken for the base's zero bias; a copy of other values is."""
    report = check(shifted(0.0), only=["adapters.frozen"])
    assert ("adapters.frozen",) == report.passed, report.findings
    assert "1 of the base's" in check(shifted(0.5), only=["adapters.frozen"]).findings[0].message
