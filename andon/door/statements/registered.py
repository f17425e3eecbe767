"""Parameters that a model computes with and does not have."""

import gc
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import nn

from andon.door.loose import Loose
from andon.door.records import Run
from andon.door.statements.statement import Statement
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed

DEEP = 3  # containers within each other
PLAIN = (list, tuple, set, frozenset, dict)


class Holder(NamedTuple):
    """Where parameters are kept: in a plain container that is an attribute of a module, or in a module somewhere."""

    said: str
    parameters: frozenset[int]
    plain: bool


def check_registered(run: Run) -> None:
    """Each parameter that a loss is computed of, and that gets a gradient, is some module's of the run or held.

    Asked of the leaves of a loss's graph, in a few steps: instances of `nn.Parameter` that no module that was called
    has by its `parameters()`, and no optimizer holds. Found where they get gradients again and again, and are at the
    end what they were; not where they are a module's that rests in eval mode.

    Silent because the others learn around what stays as it was drawn; it is in no file, and on no other device.

    Look for a list, tuple or dict of modules or parameters: `nn.ModuleList`, `nn.ModuleDict` and `nn.ParameterList`
    register them.

    Yellow where they may be a helper's that nobody forgot. Red where a module keeps them in a plain container, and they
    lie between trained weights: computed of some, and computed on by others.
    """
    if not run.loose.looks:
        raise NotApplicable("a backward pass of an optimizer's model, in the fourth step or later")
    left = run.loose.left(run)
    holders = _holders(run, left) if left else []
    named = {key for each in holders for key in each.parameters}
    left = {key: each for key, each in left.items() if key in named or not _is_a_modules(each)}
    if left:
        inside = {key for key, each in left.items() if each.inside}
        light = CheckFailed if any(each.plain and each.parameters & inside for each in holders) else Unusual
        raise light(_said(left, holders))


def _holders(run: Run, left: dict[int, Loose]) -> list[Holder]:
    """Of plain containers, and of modules for what is in none."""
    plain = _plain_holders(run, left)
    rest = left.keys() - {key for each in plain for key in each.parameters}
    return [*plain, *(_modules(rest) if rest else [])]


def _said(left: dict[int, Loose], holders: list[Holder]) -> str:
    shapes = sorted({str(tuple(each.kept.shape)) for each in left.values()})
    said = f"{len(left)} parameters {listed(shapes)} that the loss is computed of are in no module that was called and "
    said += "held by no optimizer, though gradients reach there; they are what they were"
    if holders:
        said += f": {listed(sorted({each.said for each in holders}))}"
    if any(each.plain for each in holders):
        said += (
            "; what a plain list, tuple or dict holds is not registered, as in nn.ModuleList: neither trained, saved "
        )
        said += "nor moved to a device"
    return said


def _plain_holders(run: Run, left: dict[int, Loose]) -> list[Holder]:
    """Plain containers that are attributes of the run's modules; parts that rest in eval mode are as frozen."""
    found: list[Holder] = []
    waiting, seen = [*run.modules.values(), *run.owners.values()], set[int]()
    while waiting:
        owner = waiting.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        waiting += list(owner.children())
        for name, value in vars(owner).items():
            if name.startswith("_") and name in vars(nn.Module()):
                continue
            parts = list(_parts(value, DEEP)) if isinstance(value, PLAIN) else []
            waiting += [each for each in parts if isinstance(each, nn.Module)]
            own = frozenset(id(p) for each in parts for p in _of(each) if id(p) in left)
            if own:
                kinds = listed(sorted({type(each).__name__ for each in parts}))
                said = f"{type(owner).__name__}.{name} is a {type(value).__name__} of {len(parts)} {kinds}"
                found.append(Holder(said, own, plain=True))
    return found


def _parts(value: Any, deep: int) -> Iterator[nn.Module | nn.Parameter]:
    if isinstance(value, nn.Module | nn.Parameter):
        yield value
    elif isinstance(value, PLAIN) and deep:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _parts(each, deep - 1)


def _of(part: nn.Module | nn.Parameter) -> Iterable[nn.Parameter]:
    if isinstance(part, nn.Parameter):
        return [part]
    return part.parameters() if part.training else []


def _modules(keys: Iterable[int]) -> list[Holder]:
    """Modules in train mode, wherever they are."""
    wanted, found = set(keys), []
    for module in _all_modules():
        own = frozenset(id(p) for p in module._parameters.values() if id(p) in wanted)  # noqa: SLF001 - its own, no part's
        if own and module.training:
            found.append(Holder(f"a {type(module).__name__} has some", own, plain=False))
    return found


def _is_a_modules(each: Loose) -> bool:
    return any(p is each.kept for module in _all_modules() for p in module._parameters.values())  # noqa: SLF001 - as above


def _all_modules() -> list[nn.Module]:
    objects = [each for each in gc.get_objects() if issubclass(type(each), nn.Module)]
    return [each for each in objects if "_parameters" in vars(each)]


STATEMENTS = (Statement("run.registered", check_registered),)
