"""The settings that a model keeps, wherever it keeps them."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

KEPT = ("config", "cfg", "args", "hparams", "settings", "opt")  # attributes that hold a model's settings


def settings_of(model: nn.Module) -> Iterator[Any]:
    """The objects that hold a model's settings."""
    return (kept for kept in (getattr(model, name, None) for name in KEPT) if kept is not None)


def setting(holder: Any, name: str) -> Any:
    """What an object holds under a name, as a key or as an attribute; None where it lacks it."""
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
