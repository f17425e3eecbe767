"""Norms, found by what they do: scaling their input changes nothing.

Legend: R rows, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.access.batches import small_batch
from andon.verify.access.calls import loss_of, new_batch
from andon.verify.access.logits import logits_of
from andon.verify.errors import NotApplicable
from andon.verify.observation.tolerances import distance
from andon.verify.subject import Subject

ROWS = 64
SCALE = 16.0
INVARIANT = 1e-2


class Norm(NamedTuple):
    """A module that divides rows of its input by their size."""

    name: str
    module: nn.Module
    width: int


def norms_of(subject: Subject, model: nn.Module) -> list[Norm]:
    """The modules without children whose output does not follow the scale of their input.

    Raises:
        NotApplicable: there are none.
    """
    batch = small_batch(subject)
    widths: dict[str, int] = {}

    def note(name: str, arguments: tuple[object, ...], output: object) -> None:
        if len(arguments) == 1 and isinstance(output, Tensor) and output.is_floating_point():
            given = arguments[0]
            if isinstance(given, Tensor) and given.shape == output.shape and given.is_floating_point():
                widths[name] = given.shape[-1]

    hooks = [
        module.register_forward_hook(lambda _, arguments, output, name=name: note(name, arguments, output))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    try:
        with torch.no_grad():
            try:
                logits_of(subject, model, batch)
            except NotApplicable:
                loss_of(subject, model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = [Norm(name, model.get_submodule(name), width) for name, width in widths.items() if width > 1]
    found = [norm for norm in found if _is_norm(norm)]
    if not found:
        raise NotApplicable("norms that are modules")
    return found


def given_dtypes(subject: Subject, model: nn.Module, names: list[str]) -> dict[str, torch.dtype]:
    """In which dtype the subject's own pass gives each norm its input, by name; the narrowest of several.

    Raises:
        NotApplicable: the loss's pass runs none of one of them.
    """
    given: dict[str, torch.dtype] = {}

    def note(name: str, value: object) -> None:
        if isinstance(value, Tensor) and value.dtype.itemsize < given.get(name, torch.float64).itemsize:
            given[name] = value.dtype

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, arguments, name=name: note(name, arguments[0]))
        for name in names
    ]
    try:
        with torch.no_grad():
            loss_of(subject, model, new_batch(subject))
    finally:
        for hook in hooks:
            hook.remove()
    if len(given) < len(names):
        raise NotApplicable("norms that the loss's own pass runs")
    return given


@torch.no_grad()
def _is_norm(norm: Norm) -> bool:
    rows = random_rows(norm.width, norm.module, offset=0.5)
    try:
        small, large = norm.module(rows), norm.module(SCALE * rows)
    except (RuntimeError, ValueError, IndexError):
        return False
    return distance(large, small) < INVARIANT and float(small.float().std()) > 0


def random_rows(width: int, module: nn.Module, offset: float = 0.0) -> Tensor:
    """Rows of a width for this module, the same each time."""
    rows = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(0)) + offset
    like = next(module.parameters(), None)
    return rows if like is None else rows.to(like)
