"""A model of two parts that are learned from by losses of their own: what a micro-batch of one is not asked."""

import pytest
import torch
from torch import Tensor, nn

from andon.door.inquiry import Elsewhere, unasked
from tests.door.recorded import Call, recorded
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


class Agent(nn.Module):
    """A policy and a value beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.pi, self.v = nn.Linear(4, 2), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 4) to (B, 2) and (B, 1)."""
        return self.pi(x), self.v(x)


def of_policy(call: Call, x: Tensor) -> Tensor:
    """Nothing of the value."""
    return call(x)[0].square().mean()


def of_both(call: Call, x: Tensor) -> Tensor:
    """One loss."""
    return sum((each.square().mean() for each in call(x)), torch.zeros(()))


def watched(*, optimizers: int, losses: int) -> tuple[Agent, Elsewhere]:
    """Steps of one optimizer or of two, from one loss or from two; what is known when the first one steps again."""
    torch.manual_seed(0)
    watching, agent = Watching(), Agent()
    parts = [agent.parameters()] if optimizers == 1 else [agent.pi.parameters(), agent.v.parameters()]
    made = [watching.optimizer(each) for each in parts]
    for _ in range(2):
        for each in watching.call(agent, torch.randn(8, 4))[:losses]:
            watching.backward(each.square().mean())
        for each in made:
            watching.move(each)
    return agent, Elsewhere.of(watching.run, watching.noted(made[0]))


@pytest.mark.parametrize(
    ("optimizers", "losses", "loss_of", "lacking"),
    [
        (1, 2, of_policy, {"structure.parameters"}),
        (2, 2, of_policy, {"structure.parameters", "optimizer.membership"}),
        (2, 1, of_policy, {"structure.parameters", "optimizer.membership"}),
        (1, 2, of_both, set()),
        (1, 1, of_policy, set()),
    ],
    ids=["two losses", "two optimizers", "one has not stepped yet", "one loss", "a value that nobody learns"],
)
def test_what_another_loss_trains_is_not_left_out(
    optimizers: int, losses: int, loss_of: Call, lacking: set[str]
) -> None:
    """Behavior: parameters that this loss does not reach are asked for unless another loss or optimizer has them."""
    agent, elsewhere = watched(optimizers=optimizers, losses=losses)
    found = unasked(recorded(agent, loss_of, torch.randn(8, 4)), {}, elsewhere)
    assert lacking == found.keys() - {"gradients"}  # which no plain loss is asked for
