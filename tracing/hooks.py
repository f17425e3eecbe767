"""Phases of a stranger's step, by torch's public hooks on a model and its optimizers.

Between a model's outputs and the first gradient that arrives at them lies `loss`, with its own gradient; from there to
the optimizer's step hooks separate nothing, so that is one phase, `backward and clip`. On a GPU a phase is as long as
it takes to be launched.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from andon.tracing.phases import FORWARD, Phases

LOSS, REST = "loss", "backward and clip"
DEEP = 3  # of outputs within outputs


def watch(phases: Phases, model: Any, optimizers: tuple[Any, ...]) -> Callable[[], None]:
    """Mark the phases of what passes through `model` and `optimizers`; returns what ends that."""
    handles = [*_passes(phases, model)]
    for optimizer in optimizers:
        handles.append(optimizer.register_step_pre_hook(lambda *_: phases.optimizer_begins()))
        handles.append(optimizer.register_step_post_hook(lambda *_: phases.optimizer_ended()))
    stack = ExitStack()
    for handle in handles:
        stack.callback(handle.remove)
    return stack.close


def _passes(phases: Phases, model: Any) -> Iterator[Any]:
    """Hooks around a model's pass, and on the gradients of what it returns."""
    from torch import is_grad_enabled
    from torch.compiler import is_compiling  # a hook that is compiled with its model must do nothing

    def gradient(_: Any) -> None:
        phases.gradient(REST)

    def before(*_: Any) -> None:
        if is_compiling():
            return
        if is_grad_enabled():
            phases.enter(FORWARD)
        else:
            phases.forget_fetches()

    def after(_: Any, __: Any, output: Any) -> None:
        if is_compiling() or not is_grad_enabled() or phases.optimizing:
            return
        phases.enter(LOSS)
        for each in tensors(output):
            if each.requires_grad:
                each.register_hook(gradient)

    yield model.register_forward_pre_hook(before)
    yield model.register_forward_hook(after)


def tensors(output: Any, deep: int = DEEP) -> Iterator[Any]:
    """The tensors of what a model returned."""
    if hasattr(output, "register_hook"):
        yield output
    elif deep and isinstance(output, Mapping | list | tuple):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(each, deep - 1)
    elif deep and hasattr(output, "__dataclass_fields__"):
        yield from tensors(list(vars(output).values()), deep)
