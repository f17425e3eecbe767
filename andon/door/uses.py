"""How each module of a script is used: with gradients or without, and whether its dropout acts then."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from andon.door.places import Place

OFTEN = 1000  # passes after which nothing new is expected


@dataclass
class Use:
    """One module that is called outermost."""

    module: nn.Module
    dropouts: list[Any]  # its modules that can drop
    place: Place | None = None  # of the last pass without gradients
    with_gradients: int = 0
    alone: int = 0  # passes whose result no gradient can reach
    dropping: int = 0  # of them, those in which dropout acted


def use_of(module: nn.Module) -> Use:
    """Nothing is known of it yet."""
    kinds = nn.modules.dropout._DropoutNd  # noqa: SLF001 - all of torch's dropouts
    return Use(module, [each for each in module.modules() if isinstance(each, kinds) and each.p > 0])


def drops(use: Use) -> bool:
    """Whether a part of it drops now."""
    return any(each.training for each in use.dropouts)
