"""What happens within a block: what is added to its input, and which of its parts run how often."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from andon.verify.access.batches import tensors_in
from andon.verify.observation.uses import PRODUCTS

ADDING = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
ATTENDING = {
    functional.scaled_dot_product_attention, functional.multi_head_attention_forward, functional.softmax,
    torch.softmax, Tensor.softmax,
}  # fmt: skip
TWICE = 2


class Additions(TorchFunctionMode):
    """Within `with`, notes which blocks add to what they are given, which attend, and which have products but zeros."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.adding: set[nn.Module] = set()
        self.attending: set[nn.Module] = set()
        self.multiplying: set[nn.Module] = set()  # with a product that depends on parameters and is not zero
        self._blocks = list(dict.fromkeys(blocks))
        self._now: list[tuple[nn.Module, list[Tensor]]] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        for block in self._blocks:
            self._hooks.append(block.register_forward_pre_hook(self._begin, with_kwargs=True))
            self._hooks.append(block.register_forward_hook(lambda *_: self._now.clear()))
        super().__enter__()
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        """Watch no more."""
        super().__exit__(exc_type, exc_val, exc_tb)
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        for block, states in self._now:
            if func in ADDING and any(_is_one_of(each, states) for each in args[:2]):
                self.adding.add(block)
            elif func in ATTENDING:
                self.attending.add(block)
        output = func(*args, **(kwargs or {}))
        if func in PRODUCTS and any(each.requires_grad and bool(each.any()) for each in tensors_in(output)[:1]):
            self.multiplying.update(block for block, _ in self._now)
        return output

    def _begin(self, block: nn.Module, arguments: Any, keywords: Any) -> None:
        given = [each.detach().clone() for each in tensors_in((arguments, keywords)) if each.is_floating_point()]
        self._now[:] = [(block, [each for each in given if each.dim() > 1][:1])]


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


def _is_one_of(value: Any, states: list[Tensor]) -> bool:
    return isinstance(value, Tensor) and any(value.shape == s.shape and torch.equal(value, s) for s in states)
