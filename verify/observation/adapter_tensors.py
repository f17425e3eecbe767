"""The tensors of adapters, told by names and shapes: on which weight of the base each sits."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from andon.verify.observation.parameters import State, trainable


def tensors_of(model: nn.Module) -> State:
    """Copies of parameters and buffers."""
    return {name: t.detach().clone() for name, t in (*model.named_parameters(), *model.named_buffers())}


def frozen(model: nn.Module) -> State:
    """Copies of parameters and buffers that do not learn."""
    learning = trainable(model)
    return {name: value for name, value in tensors_of(model).items() if name not in learning}


def is_one_of(parameter: Tensor, values: State) -> bool:
    """Whether a tensor is a copy of one of these; constants, as fresh sides, biases and gains are, belong to none."""
    if len(parameter.unique()) == 1:
        return False
    return any(parameter.shape == value.shape and torch.equal(parameter, value) for value in values.values())


def namesake(name: str, weight: Tensor, tensors: State) -> Tensor | None:
    """The tensor that a base's has become: of its shape, with all parts of its name in order."""
    pattern = re.compile(r"(.*\.)?" + r"\.(.*\.)?".join(map(re.escape, name.split("."))))
    found = [key for key, tensor in tensors.items() if tensor.shape == weight.shape and pattern.fullmatch(key)]
    return tensors[min(found, key=len)] if found else None


def rank_of(name: str, change: Tensor, sides: State, rank: int) -> int:
    """The rank that a change of this weight may have: the adapter's, or that of several that share a weight."""
    inner = [len(side) for side in _own(name, sides) if side.shape[1] == change.shape[1] and not len(side) % rank]
    return max(rank, sum(inner))


def _own(name: str, sides: State) -> list[Tensor]:
    """The matrices of the adapter on this weight, told by name."""
    path = re.compile(r"(.*\.)?" + r"\.(.*\.)?".join(map(re.escape, name.split(".")[:-1])) + r"\..*")
    return [tensor.double() for key, tensor in sides.items() if path.fullmatch(key) and tensor.dim() == 2]


def product_of(name: str, change: Tensor, sides: State, rank: int) -> Tensor | None:
    """B A of the adapter on this weight, where its two matrices can be told by shape."""
    own = _own(name, sides)
    pairs = [
        up @ down for down in own for up in own
        if down is not up and down.shape == (rank, change.shape[1]) and up.shape == (change.shape[0], rank)
    ]  # fmt: skip
    return pairs[0] if len(pairs) == 1 and len(own) == 2 else None  # a third matrix stands between or beside the two


def sites_of(learning: dict[str, nn.Parameter]) -> dict[str, list[str]]:
    """Adapter tensors by the module they sit on: names are the same up to the part that tells the two sides apart."""
    names, found = list(learning), {}
    for one, other in _neighbors(names):
        first, second = one.split("."), other.split(".")
        common = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
        found.setdefault(".".join(first[:common]), [one, other])
    return found


def _neighbors(names: list[str]) -> Iterator[tuple[str, str]]:
    yield from zip(names[::2], names[1::2], strict=False)
