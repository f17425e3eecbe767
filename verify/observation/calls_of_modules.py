"""Modes that see torch's functions, and know within which modules' calls they run."""

from collections.abc import Iterable
from typing import Any, Self

from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle


class WithinModules(TorchFunctionMode):
    """Within `with`, keeps the calls of these modules that are running, the outermost first."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.running: list[nn.Module] = []
        self._modules = list(dict.fromkeys(modules))
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Begin to watch."""
        for module in self._modules:
            self._hooks.append(module.register_forward_pre_hook(self.begin, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(lambda *_: self._end(), always_call=True))
        super().__enter__()
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        """Watch no more."""
        super().__exit__(exc_type, exc_val, exc_tb)
        for hook in self._hooks:
            hook.remove()

    def begin(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Torch calls this before each call of a module, with what it is given."""
        del arguments, keywords
        self.running.append(module)

    def _end(self) -> None:
        self.running.pop()
