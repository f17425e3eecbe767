"""Wrong backward passes beside what may hide them: a value that is held or read, the identity, a kink, a quantizer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject
from tests.verify.kinds.asked import Pair, asked

pytestmark = pytest.mark.tier2
WIDTH = 16
SMALL, LARGE = 1e-4, 0.3  # shares by which a backward is off


def custom(name: str, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Any:
    """A function of these values and slopes, whose backward is off by the share that its last argument says."""

    def forward(ctx: Any, x: Tensor, wrong: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return value(x)

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * slope(ctx.saved_tensors[0]) * (1 + ctx.wrong), None

    parts = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), parts)


def tanh_slope(x: Tensor) -> Tensor:
    """Of a tanh."""
    return 1 - x.tanh().square()


def near_tanh(x: Tensor) -> Tensor:
    """A tanh by a series."""
    y = x / 4
    short = y * (15 + y.square()) / (15 + 6 * y.square())  # of a quarter, doubled twice
    half = 2 * short / (1 + short.square())
    return 2 * half / (1 + half.square())


Tanh = custom("Tanh", torch.tanh, tanh_slope)
NearTanh = custom("NearTanh", near_tanh, tanh_slope)
Relu = custom("Relu", torch.relu, lambda x: (x > 0).to(x))
Same = custom("Same", lambda x: x.view_as(x), torch.ones_like)


class Differentiated(torch.autograd.Function):
    """A tanh, which differentiates within its forward, as fused losses do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrong: float) -> Tensor:
        """The right values."""
        with torch.enable_grad():
            own = x.detach().requires_grad_()
            value = own.tanh()
            (slope,) = torch.autograd.grad(value.sum(), own)
        ctx.save_for_backward(slope)
        ctx.wrong = wrong
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The gradient that it gives."""
        return grads[0] * ctx.saved_tensors[0] * (1 + ctx.wrong), None


class Ternary(torch.autograd.Function):
    """Three levels, as far apart as the mean says (BitNet b1.58); a straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - torch's own signature
        """Each number's level."""
        scale = x.abs().mean()
        return (x / scale).round().clamp(-1, 1) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004 - torch's own signature
        """The gradient that it gets."""
        return grads[0]


class Layers(nn.Module):
    """Three linear layers, one of the functions above before the last."""

    def __init__(self, function: Any, wrong: float, activation: nn.Module) -> None:
        super().__init__()
        self.function, self.wrong, self.activation = function, wrong, activation
        self.first, self.middle, self.last = nn.Linear(6, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        nn.init.zeros_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        hidden = self.middle(self.activation(self.first(x)))
        return self.last(self.function.apply(hidden, self.wrong))


class Quantized(nn.Module):
    """A linear layer of ternary weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(96, 96), nn.Linear(96, 3)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.last(F.linear(x, Ternary.apply(self.inner.weight)).tanh())


def points(generator: torch.Generator, width: int = 6) -> Pair:
    """Points of three classes."""
    return torch.randn(12, width, generator=generator), torch.randint(3, (12,), generator=generator)


def points_and_zeros(generator: torch.Generator) -> Pair:
    """The same, of which most are zeros, as the margins of pictures are: a ReLU stands at its kink there."""
    x, y = points(generator)
    x[:8] = 0
    return x, y


def plain(model: Any, batch: Pair) -> Tensor:
    """The mean cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def logged(model: Any, batch: Pair) -> Tensor:
    """The same, whose value is read."""
    loss = plain(model, batch)
    model.seen = loss.item()
    return loss


def held(model: Any, batch: Pair) -> Tensor:
    """A part of it is weighed by what is held."""
    logits = model(batch[0])
    confidence = logits.softmax(-1).amax(-1).detach()
    return F.cross_entropy(logits, batch[1]) + 0.1 * (logits.logsumexp(-1) * confidence).mean()


def lights(function: Any, wrong: float, loss: Any = plain, batch: Any = points, activation: Any = nn.Identity) -> str:
    """What the check of gradients says: red, yellow or nothing."""
    made = lambda: Layers(function, wrong, activation())  # noqa: E731
    report = asked(Subject(model=made, batch=batch, loss=loss, causal=False), "gradients.parameters")
    assert not any(each.mistake for each in report.findings)
    return "".join(each.light for each in report.findings)


@pytest.mark.parametrize("wrong", [SMALL, LARGE])
@pytest.mark.parametrize("loss", [plain, logged, held])
@pytest.mark.parametrize("function", [Tanh, Differentiated, Relu])
def test_a_wrong_backward_beside_what_is_held_or_read_is_red(function: Any, loss: Any, wrong: float) -> None:
    """Behavior: a `detach` or an `item` elsewhere in the loss hides no wrong backward, however little it is off."""
    assert lights(function, wrong, loss) == "red"


@pytest.mark.parametrize("function", [Tanh, Differentiated, Relu, Same])
def test_a_right_backward_beside_what_is_held_or_read_is_not_red(function: Any) -> None:
    """Behavior: of right functions nothing is said but that a part of the loss is held."""
    assert ["", "", "yellow"] == [lights(function, 0.0, loss) for loss in (plain, logged, held)]


def test_an_approximation_is_yellow_and_a_wrong_backward_of_one_is_red() -> None:
    """Behavior: a forward that is nearly what its backward derives may be meant; one that is farther off may not."""
    assert ["yellow", "red"] == [lights(NearTanh, wrong) for wrong in (0.0, LARGE)]


def test_a_wrong_backward_of_the_identity_is_yellow() -> None:
    """Behavior: only its author knows what the backward of an identity is to be: a reversal is written so."""
    assert ["yellow"] * 3 == [lights(Same, LARGE, loss) for loss in (plain, logged, held)]


@pytest.mark.parametrize("wrong", [1e-2, LARGE])
def test_a_wrong_backward_beside_a_kink_at_the_point_is_red(wrong: float) -> None:
    """Behavior: ReLUs at exactly zero, with two slopes, hide no wrong backward behind them, and are no wrong one."""
    assert lights(Tanh, 0.0, batch=points_and_zeros, activation=nn.ReLU) == ""
    assert lights(Tanh, wrong, batch=points_and_zeros, activation=nn.ReLU) == "red"


def test_a_quantizer_that_measures_its_step_is_yellow() -> None:
    """Behavior: a straight-through estimator is known by its levels where its forward moves with its scale."""
    subject = Subject(model=Quantized, batch=lambda generator: points(generator, 96), loss=plain, causal=False)
    (found,) = asked(subject, "gradients.parameters").findings
    assert (found.light, "rounds different numbers" in found.message) == ("yellow", True)
