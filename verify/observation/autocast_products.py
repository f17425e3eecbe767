"""Products of matrices under autocast, and the dtypes in which they run below it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.batches import tensors_in
from andon.verify.observation.calls_of_modules import WithinModules
from andon.verify.observation.dispatch import DispatchMode
from andon.verify.observation.uses import PRODUCTS

BELOW = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"}  # what torch makes of products
WIDE = (torch.float32, torch.float64)


class _Operands(DispatchMode):
    """Notes the dtypes of what is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its operations."""
        if func.overloadpacket.__name__ in BELOW:
            self.dtypes += [each.dtype for each in tensors_in(args)]
        return func(*args, **(kwargs or {}))


class AutocastProducts(WithinModules):
    """Within `with`, counts the products that run while autocast is on, and notes the wide ones by module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.modules())
        self.count = 0
        self.wide: dict[str, torch.dtype] = {}
        self._names = {module: name for name, module in model.named_modules()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        given = tensors_in(args)
        if func not in PRODUCTS or not given or not _is_on(given[0]):
            return func(*args, **(kwargs or {}))
        self.count += 1
        with _Operands() as operands:
            output = func(*args, **(kwargs or {}))
        if wide := [dtype for dtype in operands.dtypes if dtype in WIDE]:
            self.wide.setdefault(self._place(), wide[0])
        return output

    def _place(self) -> str:
        return (self._names[self.running[-1]] if self.running else "") or "the model"


def _is_on(tensor: Tensor) -> bool:
    return bool(torch.is_autocast_enabled(tensor.device.type))
