"""Experts that a router chooses for each token, with a balancing loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject
from tests.reports.small import DIM, Batch, Decoder, draw, loss

BUG = "one expert a token, its weight divided by the sum of the weights, which is itself: the router learns nothing"


class Experts(nn.Module):
    """A few small networks, of which each token passes `chosen`, weighed by the router."""

    def __init__(self, count: int, chosen: int, balance: float, *, divided: bool) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, count, bias=False)
        self.up = nn.Parameter(torch.randn(count, DIM, 2 * DIM) * DIM**-0.5)
        self.down = nn.Parameter(torch.randn(count, 2 * DIM, DIM) * (2 * DIM) ** -0.5)
        self.chosen, self.balance, self.divided = chosen, balance, divided
        self.extra: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """The chosen experts' sum; what balancing adds to the loss is left in `extra`."""
        share = torch.softmax(self.router(x), -1)
        top, names = share.topk(self.chosen, -1)
        if self.divided:
            top = top / top.sum(-1, keepdim=True)
        weight = torch.zeros_like(share).scatter(-1, names, top)
        each = torch.einsum("btef,efd->bted", F.silu(torch.einsum("btd,edf->btef", x, self.up)), self.down)
        load = F.one_hot(names, share.shape[-1]).sum(-2).float().flatten(0, 1).mean(0) / self.chosen
        self.extra = self.balance * share.shape[-1] * (load * share.flatten(0, 1).mean(0)).sum()
        return (weight.unsqueeze(-1) * each).sum(-2)


def balanced_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The language model's loss and the balancing of every layer."""
    return loss(model, batch) + sum(part.extra for part in model.modules() if isinstance(part, Experts))


def subject(*, divided: bool, experts: int = 4, chosen: int = 1, balance: float = 0.01, rows: int = 5) -> Subject:
    """A mixture of this shape."""
    return Subject(
        name=f"top {chosen} of {experts} experts", loss=balanced_loss, mixture_of_experts=True,
        model=lambda: Decoder(lambda: Experts(experts, chosen, balance, divided=divided)),
        batch=lambda generator: draw(generator, rows),
    )  # fmt: skip


def faulty() -> Subject:
    """Its weight is always 1."""
    return subject(divided=True)


def fixed() -> Subject:
    """The weight is the softmax's own."""
    return subject(divided=False)
