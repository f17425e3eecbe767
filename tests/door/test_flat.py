"""Scores of classes that hardly differ, as a watched run's backward passes show."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.statements.flat import check_flat
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
CLASSES, TEMPERATURE = 8, 0.07
Loss = Callable[[Tensor, Tensor], Tensor]


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """Of all pairs."""
    return functional.normalize(x, dim=-1) @ functional.normalize(y, dim=-1).T


def divided(x: Tensor, y: Tensor) -> Tensor:
    """A row's own class is the one of its number."""
    return functional.cross_entropy(cosines(x, y) / TEMPERATURE, torch.arange(len(x)))


def multiplied(x: Tensor, y: Tensor) -> Tensor:
    """The temperature the wrong way round."""
    return functional.cross_entropy(cosines(x, y) * TEMPERATURE, torch.arange(len(x)))


def with_gaps(x: Tensor, y: Tensor) -> Tensor:
    """The same, each row without one of the classes."""
    scores = (cosines(x, y) * TEMPERATURE).masked_fill(torch.eye(len(x)).roll(1, 1).bool(), -math.inf)
    return functional.nll_loss(scores.log_softmax(-1), torch.arange(len(x)))


def beside(x: Tensor, y: Tensor) -> Tensor:
    """Another cross-entropy finds something."""
    return multiplied(x, y) + divided(x, y)


def of_two(x: Tensor, y: Tensor) -> Tensor:
    """Two classes."""
    return functional.cross_entropy((cosines(x, y) * TEMPERATURE)[:, :2], torch.arange(len(x)) % 2)


def of_images(x: Tensor, y: Tensor) -> Tensor:
    """Classes second, of several places, some of which do not count."""
    scores = (cosines(x, y) * TEMPERATURE)[:, :, None].expand(-1, -1, 3)
    labels = torch.arange(len(x))[:, None].repeat(1, 3)
    labels[:, 0] = -100
    return functional.cross_entropy(scores, labels, label_smoothing=0.1)


def watched(loss: Loss, steps: int = 60, rate: float = 0.1) -> Watching:
    """A run of so many steps."""
    torch.manual_seed(0)
    watching, x, y = Watching(), nn.Linear(6, 4), nn.Linear(6, 4)
    optimizer = watching.optimizer([*x.parameters(), *y.parameters()], lr=rate)
    for _ in range(steps):
        rows = torch.randn(CLASSES, 6)
        watching.step(optimizer, loss(watching.call(x, rows), watching.call(y, rows)))
    return watching


@pytest.mark.parametrize(
    ("loss", "steps", "rate", "light"),
    [
        (divided, 60, 0.1, None),
        (multiplied, 60, 0.1, Unusual),
        (with_gaps, 60, 0.1, Unusual),
        (of_images, 60, 0.1, Unusual),
        (beside, 60, 0.1, None),
        (of_two, 60, 0.1, NotApplicable),
        (multiplied, 40, 0.1, NotApplicable),
        (multiplied, 60, 0.0, NotApplicable),
    ],
)
def test_scores_come_to_differ(loss: Loss, steps: int, rate: float, light: Light) -> None:
    """Behavior: scores within a narrow range through a whole run are yellow; of few steps or classes not asked."""
    assert light is light_of(check_flat, watched(loss, steps, rate).run)


@pytest.mark.parametrize(("reach", "light"), [(0.002, None), (0.0, Unusual)])
def test_scores_that_come_apart_slowly_are_on_their_way(reach: float, light: Light) -> None:
    """Behavior: a head that begins at zero, and is moved a little by each step, passes; one that stands does not."""
    watching, head = Watching(), nn.Linear(4, CLASSES, bias=False)
    nn.init.zeros_(head.weight)
    optimizer = watching.optimizer(head.parameters(), lr=1.0)
    for _ in range(60):
        scores = watching.call(head, torch.ones(3, 4))
        scores = reach * scores + 0.02 * torch.arange(CLASSES) * (not reach)
        watching.step(optimizer, functional.cross_entropy(scores, torch.tensor([0, 1, 1])))
    assert light is light_of(check_flat, watching.run)


def test_the_spread_is_that_of_the_scores() -> None:
    """Behavior: what the gradient shows is the scores' own largest difference."""
    apart = torch.arange(CLASSES) * 0.01
    loss: Loss = lambda x, y: functional.cross_entropy(0 * (x @ y.T) + apart, torch.arange(len(x)))  # noqa: E731
    looks = watched(loss).run.flatness.looks
    assert [30, 38, 48] == [each.steps for each in looks]
    assert all(abs(each.spread - 0.07) < 1e-4 for each in looks)


def test_a_script_goes_on_as_it_would() -> None:
    """Behavior: gradients are the same bit for bit, with a second backward pass of one graph too."""
    watching, x = Watching(), torch.randn(4, CLASSES, requires_grad=True)
    watching.run.steps = 30
    loss = functional.cross_entropy(x, torch.arange(4))
    watching.backward(loss, retain_graph=True)
    seen = x.grad
    x.grad = None
    assert seen is not None
    assert torch.equal(seen, torch.autograd.grad(functional.cross_entropy(x, torch.arange(4)), x)[0])
    assert len(watching.run.flatness.looks) == 1
