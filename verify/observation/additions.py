"""What happens within a block: what is added to its input, and which of its parts run how often."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from andon.verify.access.batches import tensors_in
from andon.verify.observation.calls_of_modules import WithinModules
from andon.verify.observation.uses import PRODUCTS

ADDING = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
ATTENDING = {
    functional.scaled_dot_product_attention, functional.multi_head_attention_forward, functional.softmax,
    torch.softmax, Tensor.softmax,
}  # fmt: skip
TWICE = 2


class Additions(WithinModules):
    """Within `with`, notes which blocks add to what they are given, which attend, and which have products but zeros."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__(blocks)
        self.adding: set[nn.Module] = set()
        self.attending: set[nn.Module] = set()
        self.multiplying: set[nn.Module] = set()  # with a product that depends on parameters and is not zero
        self._states: dict[nn.Module, Tensor | None] = {}  # that a block was given last, as they were

    @property
    def residual(self) -> set[nn.Module]:
        """Blocks that add or attend, and those beside them of a kind that adds: who does not has lost it."""
        alike = {type(block) for block in self.adding}
        seen = self.adding | self.attending
        return {block for block in self._modules if block in seen or type(block) in alike}

    def begin(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Torch calls this before each call of a block."""
        super().begin(module, arguments, keywords)
        given = (each for each in tensors_in((arguments, keywords)) if each.is_floating_point() and each.dim() > 1)
        states = next(given, None)
        self._states[module] = None if states is None else states.detach().clone()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        if not self.running:
            return func(*args, **(kwargs or {}))
        block = self.running[-1]
        if func in ADDING and any(_is(self._states[block], each) for each in args[:2]):
            self.adding.add(block)
        elif func in ATTENDING:
            self.attending.add(block)
        output = func(*args, **(kwargs or {}))
        if func in PRODUCTS and _is_live(output):
            self.multiplying.add(block)
        return output


@contextmanager
def repeats(blocks: list[nn.Module]) -> Generator[dict[str, str]]:
    """Within `with`, the parts with parameters that run twice in one call of a block, while a part like it runs never.

    By name, with the name of the part that does not run.
    """
    found: dict[str, str] = {}
    counts: dict[nn.Module, int] = {}
    hooks: list[RemovableHandle] = []

    def judge(block: nn.Module) -> None:
        parts = {name: part for name, part in block.named_modules() if name and _shapes(part)}
        for name, part in parts.items():
            if counts.get(part, 0) >= TWICE:
                like = [n for n, each in parts.items() if type(each) is type(part) and _shapes(each) == _shapes(part)]
                idle = [other for other in like if not counts.get(parts[other], 0)]
                found.update({name: idle[0]} if idle else {})

    for block in dict.fromkeys(blocks):
        hooks.append(block.register_forward_pre_hook(lambda *_: counts.clear()))
        hooks.append(block.register_forward_hook(lambda each, *_: judge(each)))
        parts = [part for part in block.modules() if part is not block]
        hooks += [part.register_forward_hook(lambda each, *_: _count(counts, each)) for part in parts]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _count(counts: dict[nn.Module, int], part: nn.Module) -> None:
    counts[part] = counts.get(part, 0) + 1


def _shapes(part: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in part.parameters()]


def _is(states: Tensor | None, value: Any) -> bool:
    """Whether a value is these states, number by number."""
    if states is None or not isinstance(value, Tensor):
        return False
    return value.shape == states.shape and torch.equal(value, states)


def _is_live(output: Any) -> bool:
    """Whether what a product returns depends on parameters and is not zero."""
    return any(each.requires_grad and bool(each.any()) for each in tensors_in(output)[:1])
