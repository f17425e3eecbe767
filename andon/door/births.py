"""In which order parameters come into modules, and optimizers are made."""

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from andon.door.safely import safely

if TYPE_CHECKING:
    from andon.door.records import Run


class Births:
    """A number for each parameter that a module was given: that of its first module."""

    def __init__(self) -> None:
        self.count = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def install(self, run: "Run") -> None:
        """Be told of each."""
        register_module_parameter_registration_hook(partial(safely, run, self.registered))

    def registered(self, _: nn.Module, __: str, parameter: Any) -> None:
        """A module was given a parameter."""
        if parameter is not None and self.number(parameter) is None:
            self.count += 1
            self._known[id(parameter)] = (weakref.ref(parameter), self.count)

    def number(self, parameter: Any) -> int | None:
        """A parameter's; None where no module was seen to be given it, as in a copy."""
        known = self._known.get(id(parameter))
        return known[1] if known is not None and known[0]() is parameter else None
