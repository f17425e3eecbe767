"""Parameters without a gradient: those that the loss reads all the same, and those that nobody reads."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.judge import watched
from andon.door.records import Optimizing, Run
from andon.door.unread import reads_nothing_ungraded
from andon.verify.run.report import RED, YELLOW
from andon.verify.watcher import Watch
from tests.door.recorded import Call, recorded

pytestmark = pytest.mark.tier2


class Pooled(nn.Module):
    """Has a second layer, whose result is returned by itself, or is part of the first one's but detached."""

    def __init__(self, *, detaches: bool) -> None:
        super().__init__()
        self.body, self.pooler, self.detaches = nn.Linear(4, 4), nn.Linear(4, 4), detaches

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """States, and what is pooled of them."""
        states = self.body(x)
        pooled = self.pooler(states)
        return states + pooled.detach() * self.detaches, pooled


@pytest.mark.parametrize("detaches", [False, True])
def test_what_nobody_reads_is_yellow(detaches: bool) -> None:
    """Behavior: a layer without a gradient is red where the loss moves with it, and yellow where it does not."""

    def loss_of(call: Call, x: Tensor) -> Tensor:
        return functional.mse_loss(call(x)[0], torch.ones(3, 4))

    torch.manual_seed(0)
    model = Pooled(detaches=detaches)
    unread = reads_nothing_ungraded(recorded(model, loss_of, torch.randn(3, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(model, optimizer, raises=False)
    for _ in range(6):
        model(torch.randn(3, 4))[0].sum().backward()
        watch.before_step()
        optimizer.step()
        watch.after_step()
        optimizer.zero_grad()
    run = Run(optimizing={0: Optimizing(optimizer, None, model=model, watch=watch, steps=6)})
    lights = [each.light for each in watched(run, unread=unread) if each.check == "watch.gradients"]
    assert [RED if detaches else YELLOW] == lights


def test_a_loss_that_reads_all_says_nothing() -> None:
    """Behavior: with a gradient for each parameter there is nothing to say."""
    model = nn.Linear(4, 4)
    assert not reads_nothing_ungraded(recorded(model, lambda call, x: call(x).sum(), torch.randn(3, 4)))
