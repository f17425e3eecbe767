"""What a model's state dict holds, a model that was given it, and the parameters that are one tensor."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import new_model, precise
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.subject import Subject


@torch.no_grad()
def empty(parameters: Iterable[nn.Parameter]) -> None:
    """Put zeros into what holds floating numbers, in place."""
    for parameter in parameters:
        if parameter.is_floating_point():
            parameter.zero_()


def copied(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        NotApplicable: it cannot be copied.
    """
    try:
        return deepcopy(model)
    except RuntimeError as error:
        raise NotApplicable(f"a model that can be copied ({error})") from error


def state_of(model: nn.Module) -> dict[str, Any]:
    """A copy of the state dict."""
    return {name: each.clone() if isinstance(each, Tensor) else each for name, each in model.state_dict().items()}


def loaded(subject: Subject, state: Mapping[str, Any]) -> nn.Module:
    """Another new model that was given this state.

    Raises:
        CheckFailed: its keys do not fit.
    """
    other = precise(subject, new_model(subject, 1)).eval()
    missing = other.load_state_dict(state, strict=False)
    unknown = [*missing.unexpected_keys, *(key for key in missing.missing_keys if key not in _aliases(other))]
    if unknown:
        raise CheckFailed(f"{len(unknown)} keys of a state dict do not fit a new model, the first is {unknown[0]!r}")
    return other


def shared_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of parameters that are one tensor."""
    first: dict[int, str] = {}
    pairs = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            pairs.append((first[id(parameter)], name))
        first.setdefault(id(parameter), name)
    return pairs


def _aliases(model: nn.Module) -> set[str]:
    return {name for pair in shared_pairs(model) for name in pair}
