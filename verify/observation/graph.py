"""Autograd's graph of a tensor."""

from collections.abc import Generator
from typing import Any

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
