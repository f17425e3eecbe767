"""What a pass does with each parameter: look rows of it up, multiply by it as a whole, or something else."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PRODUCTS = {
    functional.linear, functional.bilinear, functional.multi_head_attention_forward,
    functional.conv1d, functional.conv2d, functional.conv3d,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, torch.mv,
    torch.conv1d, torch.conv2d, torch.conv3d,
    Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.mv,
}  # fmt: skip
TABLES = {functional.embedding, functional.embedding_bag}  # whose second argument is the table
INDEXED = {Tensor.__getitem__, Tensor.index_select, torch.index_select, torch.gather, Tensor.gather, torch.take}


class Product(NamedTuple):
    """A product with parameters: the names of those that entered it whole, and what came of it."""

    names: tuple[str, ...]
    width: int  # of the result's rows


class Uses(TorchFunctionMode):
    """Within `with`, notes what the pass of a model does with its parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.looked_up: set[str] = set()  # by whole numbers, in rows
        self.products: list[Product] = []
        self.live_inputs: dict[str, Tensor] = {}  # of a matrix that is given data: which of its columns were given any
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._places = {_place(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in PRODUCTS:
            self._note_product(func, args, kwargs, output)
        elif func in TABLES:
            self.looked_up.update(self._whole(args[1:] or kwargs.get("weight")))
        elif func in INDEXED and args:
            self.looked_up.update(self._whole(args[0]))
        return output

    def multiplied(self) -> set[str]:
        """The names of all parameters that entered products whole, their biases with them."""
        return {name for product in self.products for name in product.names}

    def _note_product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        names = tuple(self._whole((args, kwargs)))
        result = output[0] if isinstance(output, tuple) else output
        if names and isinstance(result, Tensor) and result.dim():
            self.products.append(Product(names, result.shape[-1]))
            if func is functional.linear:
                given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
                self._note_inputs(given["input"], given["weight"])

    def _note_inputs(self, given: Tensor, weight: Tensor) -> None:
        if given.requires_grad:
            return
        live = given.detach().reshape(-1, given.shape[-1]).ne(0).any(0)
        for name in self._whole(weight):
            self.live_inputs[name] = self.live_inputs[name] | live if name in self.live_inputs else live

    def _whole(self, value: Any) -> Iterator[str]:
        """The names of the parameters that are all of a tensor in this value, as they are or seen otherwise."""
        if isinstance(value, Tensor):
            name = self._names.get(id(value)) or self._places.get(_place(value))
            if name is not None:
                yield name
        elif isinstance(value, tuple | list):
            for each in value:
                yield from self._whole(each)
        elif isinstance(value, dict):
            yield from self._whole(list(value.values()))


def _place(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor's numbers lie, and how many there are."""
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return id(tensor), -1
    return tensor.data_ptr(), tensor.numel()
