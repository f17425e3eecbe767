"""Where in anybody's batch the tokens, labels and masks are, and how to exchange them.

A batch is a mapping, a named tuple, a dataclass, a tuple or list (tokens, labels), or a tensor of tokens.
Legend: B batch, T time.
"""

import dataclasses
import re
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from andon.verify.subject import Batch
from andon.verify.vocabulary import ROLES

IGNORE = -100  # the label that torch's cross_entropy does not count
SUFFIX = re.compile(r"_[A-Z][A-Z0-9]*$")  # of a shape: tokens_BT


def fields(batch: Batch) -> dict[str | int, Any]:
    """A batch's parts by key, field name or position; a bare tensor is part 0."""
    if isinstance(batch, Tensor):
        return {0: batch}
    if isinstance(batch, Mapping):
        return dict(batch)
    if dataclasses.is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    if is_keyed(batch):
        return {key: batch[key] for key in batch.keys()}  # noqa: SIM118 - not every one of them iterates over its keys
    return dict(enumerate(batch))


def is_keyed(batch: Batch) -> bool:
    """Whether a batch is indexed by key: a mapping, or what acts as one; a field called `keys` makes it none."""
    if isinstance(batch, Mapping):
        return True
    has_fields = dataclasses.is_dataclass(batch) or hasattr(batch, "_fields")
    return not has_fields and callable(getattr(batch, "keys", None))


def guessed(batch: Batch, given: Mapping[str, str | int]) -> dict[str, str | int]:
    """Role to key, for the roles that hold a tensor in this batch; `given` comes first, then names, then positions.

    Names alone: `access.parts.find` holds them to what the subject's own pass shows.
    """
    parts = _tensors(batch)
    found = {role: key for role, key in given.items() if key in parts}
    for role, known in ROLES.items():
        if named := [key for key in parts if _plain(key) in known.names and _fits(role, parts[key])]:
            found.setdefault(role, named[0])
    places = [key for key, value in parts.items() if isinstance(key, int) and is_index(value)]
    for role in ("tokens", "labels"):  # an unnamed pair
        if free := [key for key in places if key not in found.values()]:
            found.setdefault(role, free[0])
    return found


def _fits(role: str, value: Tensor) -> bool:
    """Whether a tensor can play a role: ids are whole numbers, a row per sequence; what weighs labels may be floats."""
    return role not in ("tokens", "labels", "positions", "documents") or not value.is_floating_point()


def is_index(value: Tensor) -> bool:
    """Whether a tensor can hold token ids, a row per sequence."""
    return value.dim() == 2 and value.dtype in (torch.int64, torch.int32)


def replaced(batch: Batch, changes: Mapping[str | int, Any]) -> Batch:
    """The batch with some parts exchanged, by key; of the same type. What was cut out of a tensor is a whole one."""
    changes = {key: as_whole(value) for key, value in changes.items()}
    if isinstance(batch, Tensor):
        return changes.get(0, batch)
    if is_keyed(batch):
        return _with_items(batch, changes)
    by_name = {str(key): value for key, value in changes.items()}
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return dataclasses.replace(batch, **by_name)
    if hasattr(batch, "_replace"):
        return batch._replace(**by_name)
    return type(batch)(changes.get(index, value) for index, value in enumerate(batch))


def as_whole(value: Any) -> Any:
    """A tensor laid out as loaders make them: code that calls `view` refuses a part of another."""
    return value.contiguous() if isinstance(value, Tensor) and value.layout == torch.strided else value


def rows(batch: Batch, chosen: Tensor) -> Batch:
    """The batch with these rows of each part that has a row per sequence; what has other dimensions is shared."""
    parts = {key: value for key, value in _tensors(batch).items() if value.dim()}
    count = max(map(len, parts.values()), default=0)
    return replaced(batch, {key: value[chosen] for key, value in parts.items() if len(value) == count})


def _tensors(batch: Batch) -> dict[str | int, Tensor]:
    return {key: value for key, value in fields(batch).items() if isinstance(value, Tensor)}


def _plain(key: str | int) -> str | int:
    """A part's name without the shape in it; a position as it is."""
    return SUFFIX.sub("", key).lower() if isinstance(key, str) else key


def _with_items(batch: Batch, changes: Mapping[str | int, Any]) -> Batch:
    """A copy of what is indexed by key, with other items."""
    other = copy(batch)
    if hasattr(other, "data") and isinstance(other.data, dict):  # Hugging Face's BatchEncoding shares it
        other.data = dict(other.data)
    for key, value in changes.items():
        other[key] = value
    return other
