"""The tensors of adapters, told by names and shapes: on which weight of the base each sits."""

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor, nn

from andon.verify.observation.adapted_layers import effective
from andon.verify.observation.parameters import State, trainable
from andon.verify.observation.wrapped_names import is_within, is_wrapped

SIDES = 2  # matrices of a low-rank adapter


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
    found = [key for key, tensor in tensors.items() if tensor.shape == weight.shape and is_wrapped(key, name)]
    return tensors[min(found, key=len)] if found else None


def rank_of(name: str, change: Tensor, sides: State, rank: int) -> int:
    """The rank that a change of this weight may have: the adapter's, or that of several that share a weight."""
    inner = [len(side) for side in _own(name, sides) if side.shape[1] in change.shape and not len(side) % rank]
    return max(rank, sum(inner))


def _own(name: str, sides: State) -> list[Tensor]:
    """The matrices of the adapter on this weight, told by name."""
    owner = name.rpartition(".")[0]
    return [tensor.double() for key, tensor in sides.items() if tensor.dim() == 2 and is_within(key, owner)]


def product_of(name: str, change: Tensor, sides: State, rank: int, *, across: bool | None) -> Tensor | None:
    """B A of the adapter on this weight, as the weight lies, where its two matrices can be told by shape.

    None, too, where it is not known whether the weight lies across, and both would fit.
    """
    own, (rows, columns) = _own(name, sides), change.shape
    if len(own) != SIDES or (across is None and rows == columns):
        return None  # a third matrix stands between or beside the two
    for turned in (False, True) if across is None else (across,):
        product = _product(own, (columns, rows) if turned else (rows, columns), rank)
        if product is not None:
            return product.T if turned else product
    return None


def _product(sides: list[Tensor], shape: tuple[int, int], rank: int) -> Tensor | None:
    """The one product of two matrices that has this shape, over this rank."""
    fitting = [(up, down) for up, down in permutations(sides) if up.shape == (shape[0], rank)]
    products = [up @ down for up, down in fitting if down.shape == (rank, shape[1])]
    return products[0] if len(products) == 1 else None


def lies_across(base: nn.Module, name: str) -> bool | None:
    """Whether a weight lies (inputs, outputs), as Conv1D's do: what its module makes of unit vectors. None: neither."""
    module = base.get_submodule(name.rpartition(".")[0])
    weight = getattr(module, name.rpartition(".")[2])
    if isinstance(module, nn.Linear):
        return False
    for turned in (False, True):
        found = effective(module, weight.shape[0 if turned else 1])
        if found is not None and torch.equal(found, (weight if turned else weight.T).detach()):
            return turned
    return None


def is_layer(module: nn.Module) -> bool:
    """Whether a module has no children, or parameters or buffers that are not theirs."""
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return bool(own) or not any(True for _ in module.children())


def learning_owners(model: nn.Module, owners: list[str]) -> set[str]:
    """The modules of the base on which something learns: each tensor's is the longest path whose parts its name has."""
    named = model.named_parameters(remove_duplicate=False)  # layers may share a tensor
    found = (
        max((owner for owner in owners if is_within(name, owner)), key=len, default="")
        for name, parameter in named
        if parameter.requires_grad
    )
    return {owner for owner in found if owner}


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
