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
    dropouts: list[Any]  # its modules that act otherwise in training: dropout, norms by a batch's statistics
    learned: int = 0  # steps of the run at its last pass with gradients
    place: Place | None = None  # of the last pass without gradients
    with_gradients: int = 0
    alone: int = 0  # passes since then, whose result no gradient can reach
    acting: int = 0  # of them, those in which such a module acted


def use_of(module: nn.Module) -> Use:
    """Nothing is known of it yet."""
    kinds = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - all of torch's
    acting = [each for each in module.modules() if isinstance(each, kinds) and getattr(each, "p", 1.0) > 0]
    return Use(module, acting)


def drops(use: Use) -> bool:
    """Whether dropout acts in it now."""
    return any(each.training for each in use.dropouts if hasattr(each, "p"))


def acts(use: Use) -> bool:
    """Whether a part of it is as in training now."""
    return any(each.training for each in use.dropouts)
