"""A subject's adapters: added to a base, filled as if they were trained, and moderate beside what they adapt."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import needed, new_model, seeded
from andon.verify.errors import NotApplicable
from andon.verify.observation.adapted_layers import effective_layers
from andon.verify.observation.adapter_tensors import is_one_of, namesake, tensors_of
from andon.verify.observation.parameters import State, trainable
from andon.verify.observation.tolerances import rms
from andon.verify.subject import Adapters, Subject

RANK, ALPHA = 3, 12.0  # neither 1, nor each other, nor a divisor of common widths
SPREAD = 0.1  # of the random values that stand for a trained adapter
HALVINGS = 5  # of an adapter's values, at most, until it is no larger than its base


def adapters_of(subject: Subject) -> Adapters:
    """The subject's adapters.

    Raises:
        NotApplicable: it has none.
    """
    return needed(subject, "adapters")


def method(subject: Subject, name: str) -> Callable[..., Any]:
    """What the subject's adapters can do beside being added.

    Raises:
        NotApplicable: they cannot.
    """
    found = getattr(adapters_of(subject), name)
    if found is None:
        raise NotApplicable(f"adapters.{name}")
    return found


def new_base(subject: Subject) -> nn.Module:
    """A new model of a subject that has adapters."""
    adapters_of(subject)
    return new_model(subject)


def add(subject: Subject, base: nn.Module, rank: int, alpha: float) -> nn.Module:
    """This base with a fresh adapter, the same each time."""
    with seeded(1):
        return adapters_of(subject).add(base, rank, alpha)


def added(subject: Subject) -> nn.Module:
    """A new base with a fresh adapter."""
    return add(subject, new_base(subject), RANK, ALPHA)


def filled(model: nn.Module, seed: int = 2, spread: float = SPREAD) -> nn.Module:
    """The model with random values in its adapter, in place: as if trained.

    What begins positive throughout, as gains and magnitudes do, stays so, near its first values.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread
            positive = parameter.numel() > 1 and bool((parameter > 0).all())
            parameter.copy_(parameter.double() * drawn.to(parameter.device).exp() if positive else drawn)
    return model


def otherwise_scaled(subject: Subject) -> nn.Module | None:
    """The filled model with what has the same shape at another rank, and so is no side of B A, half as large again."""
    model, found = filled(added(subject)), False
    other = trainable(add(subject, new_base(subject), 2 * RANK, ALPHA))
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            if name in other and other[name].shape == parameter.shape:
                parameter.mul_(1.5)
                found = True
    return model if found else None


def spread_of_weights(subject: Subject) -> float:
    """A spread of an adapter's values with which merging at most doubles a weight: what cancels is not the base's."""
    merge, base = method(subject, "merge"), tensors_of(new_base(subject))
    floating = {name: weight for name, weight in base.items() if weight.is_floating_point()}

    def merged(spread: float) -> Iterable[tuple[Tensor, Tensor | None]]:
        after = tensors_of(merge(filled(added(subject), spread=spread)))
        return [(weight, namesake(name, weight, after)) for name, weight in floating.items()]

    return _moderate(merged)


def spread_of_layers(subject: Subject, plain: State, widths: dict[str, int]) -> float:
    """A spread with which an adapter at most doubles what a layer computes, so that a base that is lost is seen."""

    def adapted(spread: float) -> Iterable[tuple[Tensor, Tensor | None]]:
        after = effective_layers(filled(added(subject), spread=spread), widths)
        return [(before, after.get(name)) for name, before in plain.items()]

    return _moderate(adapted)


def still_learning(names: Mapping[nn.Parameter, str], values: State, model: nn.Module) -> list[str]:
    """The base's tensors that learn in the adapted model: as they are, or as a copy in the place of one that is gone.

    A copy beside what is frozen is the adapter's own.
    """
    own = {names[p] for p in model.parameters() if p in names}
    gone = {name: value for name, value in values.items() if name not in own}
    learning = trainable(model)
    kept = [names[p] for p in learning.values() if p in names]
    return kept + [name for name, p in learning.items() if p not in names and is_one_of(p, gone)]


def _moderate(pairs_at: Callable[[float], Iterable[tuple[Tensor, Tensor | None]]]) -> float:
    """The largest spread, of those that are halved a few times, that at most doubles each tensor that is not zero."""
    spread = SPREAD
    for _ in range(HALVINGS):
        pairs = [(before, after) for before, after in pairs_at(spread) if after is not None and bool(before.any())]
        if all(rms(after) <= 2 * rms(before) for before, after in pairs):
            break
        spread /= 2
    return spread
