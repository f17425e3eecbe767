"""Dropout that acts, seen where torch's functions are called."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

# The place of the rate among the arguments, and of what switches it; attention has no switch.
RATE, SWITCH, ATTENTIONS_RATE, HEADS_RATE, HEADS_SWITCH = 1, 2, 4, 10, 13
BY_DEFAULT = 0.5
DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)  # act by default
ALPHAS = (functional.alpha_dropout, functional.feature_alpha_dropout)


class Dropouts(TorchFunctionMode):
    """Within `with`, notes the largest rate at which torch's dropout acts within calls of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.rate = 0.0
        self._depth, self._model = 0, model
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        for module in self._model.modules():
            self._hooks.append(module.register_forward_pre_hook(lambda *_: self._go(1)))
            self._hooks.append(module.register_forward_hook(lambda *_: self._go(-1)))
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
        kwargs = kwargs or {}
        if self._depth:
            self.rate = max(self.rate, _rate(func, args, kwargs))
        return func(*args, **kwargs)

    def _go(self, by: int) -> None:
        self._depth += by


def _rate(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The rate at which a call drops numbers; 0 where it drops none or is no dropout."""

    def given(place: int, name: str, default: object) -> Any:
        return args[place] if len(args) > place else kwargs.get(name, default)

    if func is functional.scaled_dot_product_attention:
        return float(given(ATTENTIONS_RATE, "dropout_p", 0.0))
    if func is functional.multi_head_attention_forward:
        return float(given(HEADS_RATE, "dropout_p", 0.0)) if given(HEADS_SWITCH, "training", True) else 0.0
    if func in (torch.dropout, torch.dropout_):
        return float(given(RATE, "p", 0.0)) if given(SWITCH, "train", False) else 0.0
    if func in DROPOUTS or func in ALPHAS:
        return float(given(RATE, "p", BY_DEFAULT)) if given(SWITCH, "training", func in DROPOUTS) else 0.0
    return 0.0
