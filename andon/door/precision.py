"""In which dtype a loss was computed, read off the loss and the graph behind it."""

from typing import Any

from torch import Tensor

DEEP = 8  # steps back from the loss
OF_CLASSES = ("LogSoftmaxBackward0", "NllLossBackward0", "NllLoss2DBackward0")


def half_of(loss: Tensor) -> str:
    """What of a loss is in less than 32 bits: itself, or the probabilities that it is made of; empty if nothing is."""
    if loss.is_floating_point() and loss.dtype.itemsize < 4:
        return f"the loss is {loss.dtype}"
    waiting = [loss.grad_fn]
    for _ in range(DEEP):
        waiting = [node for node in waiting if node is not None]
        for node in waiting:
            made = _made(node)
            if node.name() in OF_CLASSES and made is not None and made.is_floating_point and made.itemsize < 4:
                return f"the logarithms of probabilities, from which the loss is made, are {made}"
        waiting = [following for node in waiting if _is_scalar(node) for following, _ in node.next_functions]
    return ""


def _made(node: Any) -> Any:
    """The dtype of what a step forward has made."""
    told = getattr(node, "_input_metadata", ())
    return told[0].dtype if told else None


def _is_scalar(node: Any) -> bool:
    told = getattr(node, "_input_metadata", ())
    return bool(told) and all(size == 1 for size in told[0].shape)
