"""One adapted module: y = W x + scale B A x, with W frozen (Hu et al. 2022, arXiv:2106.09685, section 4.1).

Legend: N tokens, I inputs, O outputs, R rank.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout

from andon.core.config import LoraConfig


class Origin(NamedTuple):
    """What an adapter was made from; `base` is the model's `base_digest`, empty for a model on the meta device."""

    config: LoraConfig
    base: str


class Unmerged(NamedTuple):
    """What undoes a merge: the adapter's name, the base before it, and dtype and device of the merge."""

    adapter: str
    base: nn.Module
    dtype: torch.dtype
    device: torch.device


class Adapter(nn.Module):
    """One pair of factors. With B zero the adapted module's output is bitwise that of the base module."""

    def __init__(self, lora_A: Tensor, lora_B: Tensor, scale: float, origin: Origin) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(lora_A)
        self.lora_B = nn.Parameter(lora_B)
        self.scale, self.origin = scale, origin


class LoRALinear(nn.Module):
    """A linear module, and adapters by name of which at most one is active.

    `base` is any module with `in_features` and `out_features`. One without a plain `weight` (O, I) has `dequantize()`
    instead, which only merging calls.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.unmerged: Unmerged | None = None  # a tuple, and so not a submodule
        self.in_features, self.out_features = base.in_features, base.out_features
        self.train(base.training)

    def adapter(self, name: str | None) -> Adapter | None:
        """The adapter of that name, if this module has one."""
        return cast("Adapter", self.adapters[name]) if name is not None and name in self.adapters else None

    @property
    def dropout(self) -> float:
        """The fraction of inputs that the active adapter drops in training mode, named as in torch's modules."""
        adapter = self.adapter(self.active)
        return adapter.origin.config.dropout if adapter else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O), in the dtype of the base's output."""
        y, adapter = self.base(x), self.adapter(self.active)
        if adapter is None:
            return y
        if self.dropout and self.training:
            x = dropout(x, self.dropout)
        return _LowRank.apply(y.contiguous(), x, adapter.lora_A, adapter.lora_B, adapter.scale)


class _LowRank(Function):
    """Adds to the base's output in place, and saves x and R numbers per token for the backward pass.

    With B zero no bit of the output changes: products that start at +0 sum to +0, never -0, whatever the kernel, and
    subtracting +0 leaves even -0 alone. Narrow matrices have R first, which is fastest in BLAS.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float) -> Tensor:
        ctx.mark_dirty(y)
        low_RN = a_RI.to(y.dtype) @ _rows(x).to(y.dtype).t()
        y_NO = _rows(y)
        y_NO.sub_(torch.zeros_like(y_NO).addmm_(low_RN.t(), b_OR.to(y.dtype).t(), alpha=-1), alpha=scale)
        ctx.save_for_backward(x, low_RN, a_RI, b_OR)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, low_RN, a_RI, b_OR), (grad,) = ctx.saved_tensors, grads
        _, wanted_x, wanted_a, wanted_b, _ = ctx.needs_input_grad
        grad_NO, grad_x, grad_a, grad_b = _rows(grad), None, None, None
        if wanted_x or wanted_a:
            back_RN = (b_OR.to(grad.dtype).t() @ grad_NO.t()).mul_(ctx.scale)
            grad_x = (back_RN.t() @ a_RI.to(grad.dtype)).view_as(x).to(x.dtype) if wanted_x else None
            grad_a = (back_RN @ _rows(x).to(grad.dtype)).to(a_RI.dtype) if wanted_a else None
        if wanted_b:
            grad_b = (grad_NO.t() @ low_RN.t()).mul_(ctx.scale).to(b_OR.dtype)
        return grad, grad_x, grad_a, grad_b, None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
