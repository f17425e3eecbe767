"""In which dtype a loss was computed, read off the loss and the graph behind it."""

from typing import Any

import torch
from torch import Tensor

DEEP = 8  # steps back from the loss
OF_CLASSES = ("LogSoftmaxBackward0", "NllLossBackward0", "NllLoss2DBackward0")


def half_of(loss: Tensor) -> str:
    """What of a loss is in less than 32 bits: itself, or the probabilities that it is made of; empty if nothing is."""
    if _is_half(loss.dtype):
        return f"the loss is {loss.dtype}"
    level = [loss.grad_fn] if loss.grad_fn is not None else []
    for _ in range(DEEP):
        for node in level:
            made = _made(node)
            if node.name() in OF_CLASSES and made is not None and _is_half(made):
                return f"the logarithms of probabilities, from which the loss is made, are {made}"
        level = [one for node in level if _is_scalar(node) for one, _ in node.next_functions if one is not None]
    return ""


def _is_half(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize < 4


def _made(node: Any) -> Any:
    """The dtype of what a step forward has made."""
    told = getattr(node, "_input_metadata", ())
    return told[0].dtype if told else None


def _is_scalar(node: Any) -> bool:
    told = getattr(node, "_input_metadata", ())
    return bool(told) and all(size == 1 for size in told[0].shape)
