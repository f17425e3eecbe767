"""How each module of a script is used: with gradients or without, and whether its dropout acts then."""

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from andon.door.moments import Moments
from andon.door.places import Place
from andon.door.readable import is_readable

MOST, ENTRIES = 8, 64  # parameters, and of each


@dataclass
class Use:
    """One module that is called outermost."""

    module: nn.Module
    dropouts: list[Any]  # its modules that act otherwise in training: dropout, norms by a batch's statistics
    learned: int = 0  # steps of the run at its last pass with gradients
    place: Place | None = None  # of the last pass without gradients
    with_gradients: int = 0
    alone: int = 0  # passes since then, whose result no gradient can reach
    moments: Moments = field(default_factory=Moments)  # of passes without gradients
    moved: int = 0  # of them, after the first: with other weights than the one before
    weights: Tensor | None = None  # a sample, at the last of them
    acting: int = 0  # of them, those in which such a module acted


def look_again(use: Use, steps: int) -> None:
    """A pass without gradients, after so many steps of the run: are the weights those of the last one?"""
    if use.moments.count and steps == use.moments.last:
        return
    use.moments.note(steps)
    first = use.weights
    plain = (p for p in use.module.parameters() if is_readable(p))
    parts = [p.detach().reshape(-1)[:ENTRIES].float().cpu() for p in islice(plain, MOST)]
    use.weights = torch.cat(parts) if parts else None
    use.moved += first is not None and use.weights is not None and not torch.equal(first, use.weights)


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
