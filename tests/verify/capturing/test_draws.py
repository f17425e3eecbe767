"""What a script draws at random between its passes is given to a replay where it cannot be drawn again."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from andon.verify.capturing.micro_batch import capture
from andon.verify.capturing.torch_calls import Recorder

pytestmark = pytest.mark.tier2

TIMES, ROWS = 4, 6


class Policy(nn.Module):
    """Returns a distribution, as policies do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, state: Tensor) -> Distribution:
        """Of actions."""
        return Categorical(logits=self.head(state))


def test_a_rollout_is_captured_with_the_actions_that_were_taken() -> None:
    """Behavior: the same loss, though the world draws from a generator of its own between two actions."""
    torch.manual_seed(0)
    policy, world, recorder, terms = Policy(), torch.Generator().manual_seed(1), Recorder(), []
    recorder.keep(policy)
    state = torch.randn(ROWS, 3)
    with recorder:
        for _ in range(TIMES):
            chosen = recorder.call(policy, nn.Module.__call__, (state,), {})
            action = chosen.sample()
            terms.append(chosen.log_prob(action) * torch.rand(ROWS))
            state = state + action[:, None] * torch.randn(ROWS, 3, generator=world)
        loss = -torch.stack(terms).mean()
    captured = capture(recorder, loss, None)
    drawn = [each for each in captured.parts.values() if each.dtype == torch.int64]
    assert TIMES == len(drawn)
    assert float(loss.detach()) == float(captured.loss_of(captured.before[0], captured.parts).detach())


class ActorCritic(Policy):
    """Returns a value beside the distribution, which keeps its probabilities once it is asked for an entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(3, 1)

    def forward(self, state: Tensor) -> tuple[Distribution, Tensor]:  # ty: ignore[incompatible-method-override] - it returns more
        """Of actions, and a value each."""
        return super().forward(state), self.value(state).squeeze(-1)


def test_what_a_distribution_computes_later_moves_no_result_beside_it() -> None:
    """Behavior: each parameter has the gradient in a replay that it has in the script."""
    torch.manual_seed(0)
    policy, recorder, state = ActorCritic(), Recorder(), torch.randn(ROWS, 3)
    recorder.keep(policy)
    with recorder:
        chosen, value = recorder.call(policy, nn.Module.__call__, (state,), {})
        loss = (value - 1).square().mean() - chosen.entropy().mean()
    captured = capture(recorder, loss, None)
    model = captured.before[0]
    own = torch.autograd.grad(loss, list(policy.parameters()))
    again = torch.autograd.grad(captured.loss_of(model, captured.parts), list(model.parameters()))
    assert all(map(torch.equal, own, again))
