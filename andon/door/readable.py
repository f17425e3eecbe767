"""Whether there are numbers to read: a model may be gone through to be traced, transformed or measured, without any."""

import torch
from torch import Tensor
from torch.fx import _symbolic_trace
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _get_current_dispatch_mode


def computes() -> bool:
    """Whether a pass computes with plain tensors now: it is not traced, not transformed, and no mode sees its calls."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.compiler.is_exporting()
    traced = traced or _symbolic_trace._is_fx_tracing_flag  # noqa: SLF001 - its public name prints a warning
    transformed = torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001 - as torch.func tells it
    return not traced and not transformed and _get_current_dispatch_mode() is None


def is_readable(tensor: Tensor) -> bool:
    """Whether a tensor has numbers of its own, one after another, as numpy knows them."""
    if is_lazy(tensor) or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    return tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta or tensor.is_quantized)
