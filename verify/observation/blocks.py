"""The repeated blocks of a model, found by their being alike, and what one of them is called with.

Legend: B batch, T time, D dim.
"""

from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from andon.verify.access.batches import tensors_in
from andon.verify.errors import NotApplicable
from andon.verify.observation.tolerances import distance

FEWEST = 2
IDENTITY = 1e-5  # of states' rms: they are the same ones
OTHER = 0.5  # of states' rms: they are others


class Call(NamedTuple):
    """One call of a module: what it was given, before it could change it, and what it returned."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    states_BTD: Tensor
    result_BTD: Tensor


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The list of modules of one type with the most parameters.

    Raises:
        NotApplicable: no list holds two of one type.
    """
    lists = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({type(child) for child in module}) == 1
        if None not in list(module)  # a place that is left empty
    ]
    found = max((each for each in lists if len(each) >= FEWEST), key=_size, default=None)
    if found is None or not _size(found):
        raise NotApplicable("a list of at least 2 blocks of one type")
    return found


@contextmanager
def calls(modules: list[nn.Module]) -> Generator[dict[nn.Module, list[Call]]]:
    """Within `with`, records each call of these modules whose first tensors are states (B, T, D)."""
    seen: dict[nn.Module, list[Call]] = {module: [] for module in modules}
    given: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    modules = list(seen)

    def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        given[module] = _copied(arguments), _copied(keywords)

    def after(module: nn.Module, _arguments: object, _keywords: object, output: Any) -> None:
        arguments, keywords = given.pop(module)
        states, results = _states((arguments, keywords)), _states(output)
        if states is not None and results is not None:
            seen[module].append(Call(arguments, keywords, states, results.detach()))

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    hooks += [module.register_forward_hook(after, with_kwargs=True) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def neighbors(blocks: list[nn.Module], seen: dict[nn.Module, list[Call]]) -> dict[int, tuple[Call, Call]]:
    """By the first one's index, the first calls of neighbors that take and return states of one shape."""
    pairs = {
        index: (seen[one][0], seen[after][0])
        for index, (one, after) in enumerate(pairwise(blocks))
        if seen[one] and seen[after]
    }
    return {
        index: (one, after) for index, (one, after) in pairs.items() if one.result_BTD.shape == after.states_BTD.shape
    }


def are_chained(blocks: list[nn.Module], seen: dict[nn.Module, list[Call]]) -> bool:
    """Whether any block is seen to be given what the one before it returned."""
    return any(distance(after.states_BTD, one.result_BTD) < IDENTITY for one, after in neighbors(blocks, seen).values())


def passed_over(blocks: list[nn.Module], seen: dict[nn.Module, list[Call]]) -> dict[int, float]:
    """By index, blocks that run once and whose neighbor is given what they were given; how far that is from theirs."""
    found = {}
    for index, (one, after) in neighbors(blocks, seen).items():
        off = distance(after.states_BTD, one.result_BTD)
        if off > OTHER and len(seen[blocks[index]]) == 1 and distance(after.states_BTD, one.states_BTD) < IDENTITY:
            found[index] = off
    return found


def call_again(module: nn.Module, call: Call, states_BTD: Tensor, first: int, time: int) -> Tensor:
    """The block's output for other states (B, n, D), with all else as at positions `first` to `first + n` of `time`.

    Raises:
        NotApplicable: nothing else says where the states stand, or the block cannot be called so.
    """
    count = states_BTD.shape[1]

    def sliced(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value is call.states_BTD:
                return states_BTD
            return _cut(value, first, count, time).clone()
        if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            return type(value)(sliced(each) for each in value)
        return {key: sliced(each) for key, each in value.items()} if isinstance(value, dict) else deepcopy(value)

    given = tensors_in((call.arguments, call.keywords))
    if not any(time in tensor.shape for tensor in given if tensor is not call.states_BTD):
        raise NotApplicable("blocks that are given their positions, masks or rotations")
    arguments, keywords = sliced(call.arguments), sliced(call.keywords)
    try:
        with torch.no_grad():
            output = module(*arguments, **keywords)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise NotApplicable(f"blocks that can be called on a part of the sequence ({error})") from error
    result = _states(output)
    if result is None or result.shape != states_BTD.shape:
        raise NotApplicable("blocks that return states of the shape they are given")
    return result


def masks_at(call: Call, first: int, count: int, time: int) -> list[Tensor]:
    """What a block is given of masks, tensors of two values at most, at positions `first` to `first + count`."""
    given = [each for each in tensors_in((call.arguments, call.keywords)) if each is not call.states_BTD]
    return [_cut(each, first, count, time) for each in given if time in each.shape and len(each.unique()) <= 2]


def _cut(value: Tensor, first: int, count: int, time: int) -> Tensor:
    """A part of each dimension that is as long as the row."""
    for dim in (dim for dim, size in enumerate(value.shape) if size == time):
        value = value.narrow(dim, first, count)
    return value


def called_with(module: nn.Module, call: Call, states_BTD: Tensor) -> Tensor | None:
    """The block's output for other states of the same shape, with all else as it was; None where it returns none."""
    given = (call.arguments, call.keywords)
    arguments, keywords = tree_map(lambda each: states_BTD if each is call.states_BTD else each, given)
    with torch.no_grad():
        return _states(module(*arguments, **keywords))


def _states(value: Any) -> Tensor | None:
    return next((tensor for tensor in tensors_in(value) if tensor.dim() == 3 and tensor.is_floating_point()), None)


def _copied(value: Any) -> Any:
    """A copy, tensors without their graphs."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_copied(each) for each in value)
    return {key: _copied(each) for key, each in value.items()} if isinstance(value, dict) else deepcopy(value)


def _size(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
