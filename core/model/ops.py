"""The three element-wise operations of a LLaMA block, each with a backward that keeps only its inputs.

Plain autograd would keep every intermediate; these recompute them, which on a CPU costs less than the memory
traffic it saves. Backward passes are differentiable themselves, except SwiGLU's, whose fused kernel
has no second derivative.
Legend: B batch, T time, D dim, N heads, H head_dim, F ffn.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """The dtype "in fp32" means here: float32, or float64 where the model is float64."""
    return torch.promote_types(dtype, torch.float32)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products with x: autocast's where that is on, else x's own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, in at least fp32 (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).

    The result has the dtype of matrix products with x.
    """
    return _RMSNorm.apply(x, weight_D, eps, compute_dtype(x))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element (Shazeer 2020, arXiv:2002.05202, eq. 6)."""
    return _SwiGLU.apply(gate, up)


def rotate(x_BTNH: Tensor, cos_BT1H: Tensor, sin_BT1H: Tensor) -> Tensor:
    """Rotate the pairs (i, i + H/2) of each head by their angle (Su et al. 2021, arXiv:2104.09864, eq. 34).

    cos and sin hold H/2 angles each, and at least fp32; the result has x's dtype.
    """
    return _Rotate.apply(x_BTNH, cos_BT1H, sin_BT1H)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # one pass, where a mean of squares is two
    return torch.rsqrt(norm.square() / x.shape[-1] + eps)


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight_D)
        ctx.eps = eps
        high = x.to(at_least_fp32(x.dtype))
        return (high * _inverse_rms(high, eps)).mul_(weight_D).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight_D), (grad,) = ctx.saved_tensors, grads
        high, grad = x.to(at_least_fp32(x.dtype)), grad.to(at_least_fp32(x.dtype))
        inverse = _inverse_rms(high, ctx.eps)
        normal, weight = high * inverse, weight_D.to(high.dtype)
        along = grad * normal
        grad_weight = along.flatten(0, -2).sum(0).to(weight_D.dtype) if ctx.needs_input_grad[1] else None
        mean = (along @ weight).unsqueeze(-1) / weight.shape[0]
        grad_x = torch.addcmul(grad * weight, normal, mean, value=-1).mul_(inverse)
        return grad_x.to(x.dtype), grad_weight, None, None


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (gate, up), (grad,) = ctx.saved_tensors, grads
        grad_gate = grad * up
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)  # element by element, in place
        return grad_gate, torch.nn.functional.silu(gate).mul_(grad)


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x_BTNH, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, -sin), None, None  # the inverse of a rotation is the rotation back


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    turned = torch.cat((first * cos, second * cos), dim=-1)
    turned[..., : cos.shape[-1]].addcmul_(second, sin, value=-1)
    turned[..., cos.shape[-1] :].addcmul_(first, sin)
    return turned.to(x.dtype)
