"""Memory that nobody has filled, made visible."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

UNFILLED = {torch.empty, torch.empty_like, Tensor.new_empty}


class UnfilledAsNan(TorchFunctionMode):
    """Within `with`, what torch makes without filling it holds NaN: else it holds whatever was there, often zeros."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        result = func(*args, **(kwargs or {}))
        if func in UNFILLED and result.is_floating_point():
            result.detach().fill_(float("nan"))
        return result
