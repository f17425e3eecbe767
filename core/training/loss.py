"""Cross-entropy in chunks of rows, fused with the head: the logits of a full batch never exist.

Legend: B batch, T time, R rows (counted tokens of a batch), C rows of one chunk, D dim, V vocab.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from andon.core.data.batch import IGNORE
from andon.core.memory.sizes import CHUNK_ELEMENTS
from andon.core.model.ops import at_least_fp32, compute_dtype

if TYPE_CHECKING:
    from andon.core.data.batch import Batch
    from andon.core.model.llama import Llama


def loss(model: "Llama", batch: "Batch", tokens: int | None = None) -> Tensor:
    """Nats per token, a scalar in at least fp32; NaN where no label counts.

    The sum over the batch's counted labels is divided by `tokens`, by default their number. Micro-batches of one step
    pass the step's total, so that their losses, and gradients, add up to those of one large batch.
    """
    x_BTD = model.hidden(batch.tokens_BT, batch.documents_BT)
    return cross_entropy(x_BTD, model.lm_head.weight, batch.labels_BT, tokens)


def cross_entropy(x_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor, tokens: int | None = None) -> Tensor:
    """-sum log softmax(x weight^T)[label] / tokens over labels that are not IGNORE, a scalar in at least fp32.

    Computed in autocast's dtype where autocast is on; the softmax always in at least fp32.
    """
    counted_BT = labels_BT != IGNORE
    count = int(counted_BT.sum()) if tokens is None else tokens
    compute = compute_dtype(x_BTD)
    with torch.autocast(x_BTD.device.type, enabled=False):
        return _ChunkedCrossEntropy.apply(x_BTD[counted_BT], weight_VD, labels_BT[counted_BT], count, compute)


class _ChunkedCrossEntropy(Function):
    """The gradients are computed with the loss, while a chunk's probabilities are at hand, and handed out once.

    Products are in `compute`; the softmax, and gradients until the loss's own gradient has scaled them, in at least
    fp32: a float16 run's loss scale comes after them, too late for what has underflowed.
    """

    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, weight_VD: Tensor, labels_R: Tensor, count: int, compute: torch.dtype
    ) -> Tensor:
        high, share = at_least_fp32(compute), 1 / count if count else math.nan
        wanted_x, wanted_weight = ctx.needs_input_grad[:2]
        ctx.dtypes = x_RD.dtype, weight_VD.dtype
        x_RD, weight_VD = x_RD.to(compute), weight_VD.to(compute)
        grad_x = torch.empty_like(x_RD, dtype=high) if wanted_x else None
        fills = compute == high and len(x_RD) > 0  # the first chunk's product, so that nothing need be zeroed
        blank = torch.empty_like if fills else torch.zeros_like
        grad_weight = blank(weight_VD, dtype=high) if wanted_weight else None
        total = torch.zeros((), dtype=high, device=x_RD.device)
        rows = max(1, CHUNK_ELEMENTS // weight_VD.shape[0])
        for start in range(0, x_RD.shape[0], rows):
            chunk = slice(start, start + rows)
            labels_C1 = labels_R[chunk, None]
            logs_CV = (x_RD[chunk] @ weight_VD.t()).to(high).log_softmax(-1)
            total -= logs_CV.gather(1, labels_C1).sum()
            if not (wanted_x or wanted_weight):
                continue
            # d loss / d logits = (softmax - one_hot) / count
            errors_CV = logs_CV.exp_().scatter_add_(1, labels_C1, -torch.ones_like(labels_C1, dtype=high)).to(compute)
            if grad_x is not None:
                grad_x[chunk] = (errors_CV @ weight_VD).to(high).mul_(share)
            if grad_weight is not None and compute == high:
                grad_weight.addmm_(errors_CV.t(), x_RD[chunk], beta=float(start > 0), alpha=share)
            elif grad_weight is not None:
                grad_weight.add_(errors_CV.t() @ x_RD[chunk], alpha=share)
            del logs_CV, errors_CV  # or they would stay in memory beside the next chunk's
        ctx.grads = grad_x, grad_weight
        return total * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (grad_x, grad_weight) = grads, ctx.grads
        ctx.grads = None  # a second backward fails loudly, and the head's gradient needs no copy
        if grad.device.type != "cpu" or grad != 1:  # a GPU would wait for the comparison
            grad_x = None if grad_x is None else grad_x * grad
            grad_weight = None if grad_weight is None else grad_weight * grad
        x_dtype, weight_dtype = ctx.dtypes
        grad_x = None if grad_x is None else grad_x.to(x_dtype)
        grad_weight = None if grad_weight is None else grad_weight.to(weight_dtype)
        return grad_x, grad_weight, None, None, None
