"""What may hold a cache: lists, mappings and objects of plain classes, which are not looked into elsewhere."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from andon.door.readable import is_readable

DEEP = 4  # containers within each other


def held_in(values: Iterable[Any]) -> list[Tensor]:
    """The readable tensors of all containers among values."""
    return [each for value in values if not isinstance(value, Tensor) for each in _tensors(value)]


def copied(value: Any, depth: int = DEEP) -> Any:
    """Another container of other tensors; what is no plain container is the same."""
    if isinstance(value, Tensor):
        return value.detach().clone() if is_readable(value) else value
    if depth and type(value) in (list, tuple):
        return type(value)(copied(each, depth - 1) for each in value)
    if depth and type(value) is dict:
        return _copied_items(value, depth)
    if depth and _is_object(value):
        made = object.__new__(type(value))
        vars(made).update(_copied_items(vars(value), depth))
        return made
    return value


def _copied_items(items: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
    return {key: copied(each, depth - 1) for key, each in items.items()}


def _is_object(value: Any) -> bool:
    """An object of a plain class."""
    plain = type(value).__new__ is object.__new__ and isinstance(getattr(value, "__dict__", None), dict)
    return plain and not isinstance(value, nn.Module | Tensor | type | list | tuple | Mapping)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    return vars(value).values() if _is_object(value) else ()


def _tensors(value: Any, depth: int = DEEP) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if is_readable(value):
            yield value
    elif depth:
        for each in list(_parts(value)):
            yield from _tensors(each, depth - 1)
