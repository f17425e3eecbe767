"""A loss that is fused with its head is captured with its logits where its values and gradients show them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from andon.door.questions.targets import shown_in
from andon.verify.capturing.micro_batch import Captured, capture
from andon.verify.capturing.torch_calls import Recorder
from andon.verify.errors import NotApplicable

pytestmark = pytest.mark.tier2

WORDS, WIDTH, ROWS, TIME = 11, 6, 3, 5


class Fused(Function):
    """The sum over labels divided by a count; `scale` is on the gradient alone."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, count: int, scale: float) -> Tensor:
        """Keeps what the gradient needs."""
        logits = hidden @ weight.t()
        errors = logits.softmax(-1) - functional.one_hot(labels, len(weight))
        ctx.save_for_backward(errors @ weight * (scale / count), errors.t() @ hidden * (scale / count))
        return functional.cross_entropy(logits, labels, reduction="sum") / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """As kept."""
        of_hidden, of_weight = ctx.saved_tensors
        return grads[0] * of_hidden, grads[0] * of_weight, None, None, None


class Squares(Fused):
    """Another loss of the same arguments."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, count: int, scale: float) -> Tensor:
        """The squared distance of each hidden state from its label's row."""
        off = hidden - weight[labels]
        of_weight = torch.zeros_like(weight).index_add_(0, labels, -2 * scale * off / count)
        ctx.save_for_backward(2 * scale * off / count, of_weight)
        return off.square().sum() / count


def recorded(
    function: type[Fused], scale: float = 1.0, count: int = 2 * ROWS * TIME
) -> tuple[Captured, Tensor, Tensor]:
    """One micro-batch, its tokens and its labels, of which some are ignored; a loss by this function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(WORDS, WIDTH), nn.Tanh())
    weight = nn.Parameter(torch.randn(WORDS, WIDTH))
    tokens = torch.randint(0, WORDS, (ROWS, TIME))
    labels = torch.randint(0, WORDS, (ROWS, TIME))
    labels[:, 0] = -100
    recorder = Recorder()
    recorder.keep(model)
    with recorder:
        hidden = recorder.call(model, nn.Module.__call__, (tokens,), {})
        counted = labels != -100
        loss = function.apply(hidden[counted], weight, labels[counted], count, scale)
    return capture(recorder, loss, None), tokens, labels


def test_a_fused_cross_entropy_shows_its_targets() -> None:
    """Behavior: targets in their places, each once, and the constant as the loss's factor."""
    captured, _, labels = recorded(Fused)
    shown = shown_in(captured)
    assert torch.equal(labels, shown.targets)
    assert shown.weights[shown.counted].tolist() == pytest.approx([1.0] * ROWS * (TIME - 1), rel=1e-4)
    assert captured.factor == pytest.approx(1 / (2 * ROWS * TIME), rel=1e-4)


def test_a_fused_mean_stays_a_mean() -> None:
    """Behavior: with half of the labels ignored the loss is the mean of the others."""
    captured, _, labels = recorded(Fused, count=ROWS * (TIME - 1))
    fewer = captured.parts | {"labels": labels.masked_fill(torch.arange(TIME) > TIME // 2, -100)}
    assert captured.factor == 1.0
    shown = shown_in(captured, fewer)
    assert float(shown.weights.sum()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(("function", "scale"), [(Fused, 0.9), (Squares, 1.0)])
def test_what_is_no_cross_entropy_stays_a_call_of_its_own(function: type[Fused], scale: float) -> None:
    """Behavior: another gradient, or another loss of the same arguments, is replayed as it is."""
    captured, _, _ = recorded(function, scale)
    assert captured.entries[-1].own
    with pytest.raises(NotApplicable):
        shown_in(captured)
