"""Code that casts to float32 by itself, run in float64 all the same: its casts become float64's.

Models take norms, softmax and the loss in float32 whatever they are given; in a float64 model these casts are the only
rounding, and it hides gradients from differences.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Float64Mode(TorchFunctionMode):
    """Within `with`, no cast makes float32 of a float64 tensor: it stays what it is. `casts` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.casts = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                self.casts += 1
                return args[0]
            if func in (Tensor.to, Tensor.type, Tensor.type_as):
                args = (args[0], *map(self._as_float64, args[1:]))
            kwargs = {key: self._as_float64(value) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _as_float64(self, value: Any) -> Any:
        """What says float32, saying float64."""
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            self.casts += 1
            return value.double()
        self.casts += value is torch.float32
        return torch.float64 if value is torch.float32 else value
