"""What a model's state dict holds, a model that was given it, and the parameters that are one tensor."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import gradients, new_model, precise, seeded
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.parameters import norm, trainable
from andon.verify.observation.protect import default_dtype
from andon.verify.subject import Batch, Subject

STEP = 1e-3  # the longest step of all parameters together


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


def built_narrow(subject: Subject, state: Mapping[str, Any]) -> nn.Module | None:
    """A float32 model of this state that was built while torch's default was bfloat16.

    None where that default does not decide the dtype of the parameters, or they were not float32.
    """
    with default_dtype(torch.bfloat16):
        other = new_model(subject)
    if _dtypes(new_model(subject)) != {torch.float32} or _dtypes(other) != {torch.bfloat16}:
        return None
    other = other.float().eval()
    other.load_state_dict(state, strict=False)
    return other


def train_a_step(subject: Subject, model: nn.Module, batch: Batch) -> None:
    """One small step of plain descent in train mode, so that what moves with training has moved."""
    with seeded(1):
        found = gradients(subject, model.train(), batch)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.add_(found[name], alpha=-STEP / max(1.0, norm(found)))


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}


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
