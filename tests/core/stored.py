"""Random matrices, and the comparison of what NF4 makes of them."""

from typing import Any

import torch
from torch import Tensor

from andon.core.adapters.nf4 import NF4Tensor


def normal(*shape: int) -> Tensor:
    """Random weights."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def flat(weight: NF4Tensor) -> list[Any]:
    """Every part of a stored tensor."""
    return [*(weight.nested or ()), *(part for part in weight if not isinstance(part, tuple))]


def assert_same(expected: NF4Tensor, actual: NF4Tensor) -> None:
    """Equal to the bit, part by part."""
    assert expected.shape == actual.shape
    assert len(flat(expected)) == len(flat(actual))
    for one, other in zip(flat(expected), flat(actual), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
