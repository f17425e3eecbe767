"""Dropout that acts, seen where torch's functions are called."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from andon.verify.observation.calls_of_modules import WithinModules

# The place of the rate among the arguments, and of what switches it; attention has no switch.
RATE, SWITCH, ATTENTIONS_RATE, HEADS_RATE, HEADS_SWITCH = 1, 2, 4, 10, 13
BY_DEFAULT = 0.5
DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)  # act by default
ALPHAS = (functional.alpha_dropout, functional.feature_alpha_dropout)


class Dropouts(WithinModules):
    """Within `with`, notes the largest rate at which torch's dropout acts within calls of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.modules())
        self.rate = 0.0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        if self.running:
            self.rate = max(self.rate, _rate(func, args, kwargs))
        return func(*args, **kwargs)


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
