"""Autograd's graph of a tensor."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor


def nodes_of(value: Tensor) -> Generator[Any]:
    """All of a tensor's graph."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [each for each, _ in node.next_functions]


def coarsest(value: Tensor) -> float:
    """The largest eps of the dtypes in which a tensor's graph computes: a part in float32 rounds all that it is in."""
    given = (each for node in nodes_of(value) for each in node._input_metadata)  # noqa: SLF001 - no public name
    sizes = [torch.finfo(each.dtype).eps for each in given if each.dtype.is_floating_point]
    return max([torch.finfo(value.dtype).eps, *sizes])
