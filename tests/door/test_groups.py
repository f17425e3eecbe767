"""Advantages within groups of answers to one prompt, and what a loss takes twice."""

import pytest
import torch
from torch import Tensor, nn

from andon.door.questions.groups import check_groups
from andon.door.records import Run
from andon.door.sampling import Sample
from andon.door.statements.policies import check_twins
from andon.door.twins import twins_of
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
PROMPTS, GROUP, WORDS = 3, 4, 11


class Policy(nn.Module):
    """Log probabilities of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.head(self.embed(ids).cumsum(1)).log_softmax(-1)


def answers(*, mixed: bool = False) -> Tensor:
    """(B, T) token ids: so many answers to each prompt in a row, or one to each in turn."""
    prompts, said = torch.arange(PROMPTS)[:, None] + torch.tensor([0, 3, 6]), torch.randint(WORDS, (12, 4))
    repeated = prompts.repeat(GROUP, 1) if mixed else prompts.repeat_interleave(GROUP, 0)
    return torch.cat((repeated, said), 1)


def centered(rewards: Tensor, *, apart: bool = False) -> Tensor:
    """(B,) within groups of rows that stand together, or apart."""
    groups = rewards.view(GROUP, -1).t() if apart else rewards.view(-1, GROUP)
    found = (groups - groups.mean(1, keepdim=True)) / groups.std(1, keepdim=True)
    return (found.t() if apart else found).reshape(-1)


def learned(ids: Tensor, advantages: Tensor) -> Captured:
    """A step on them."""

    def loss_of(call: Call, ids: Tensor, advantages: Tensor) -> Tensor:
        said = call(ids[:, :-1]).gather(-1, ids[:, 1:, None]).squeeze(-1)
        return -(said.mean(1) * advantages).mean()

    return recorded(Policy(), loss_of, ids, advantages)


@pytest.mark.parametrize(
    ("apart", "mixed", "light"),
    [(False, False, None), (True, False, CheckFailed), (True, True, NotApplicable), (False, True, NotApplicable)],
    ids=["of a prompt", "of several", "laid out in turn", "unknown"],
)
def test_answers_are_held_to_those_to_their_own_prompt(apart: bool, mixed: bool, light: Light) -> None:
    """Behavior: means of 0 over rows of different prompts are red; not asked where prompts do not stand together."""
    torch.manual_seed(0)
    assert light is light_of(check_groups, learned(answers(mixed=mixed), centered(torch.randn(12), apart=apart)))


def test_advantages_that_are_not_centered_in_groups_are_not_asked_about() -> None:
    """Behavior: those of a whole batch, or of a value model, have no groups."""
    torch.manual_seed(0)
    whole = torch.randn(12)
    assert light_of(check_groups, learned(answers(), whole - whole.mean())) is NotApplicable


def penalized(reference: Tensor, old: Tensor) -> Captured:
    """A step with a penalty beside an advantage."""

    def loss_of(call: Call, ids: Tensor, reference: Tensor, old: Tensor) -> Tensor:
        said = call(ids)[:, :, 0]
        return ((said - reference).square() - (said - old).exp()).mean()

    return recorded(Policy(), loss_of, answers(), reference, old)


def test_what_the_loss_alone_takes_twice_is_seen() -> None:
    """Behavior: the same numbers in two tensors, of more than two values."""
    torch.manual_seed(0)
    old = torch.randn(12, 7)
    assert twins_of(penalized(old.clone(), old))
    assert not twins_of(penalized(old + 1e-3, old))
    assert not twins_of(penalized(torch.ones(12, 7), torch.ones(12, 7)))


@pytest.mark.parametrize(
    ("twins", "light"),
    [
        ([{"a": 1}, {"a": 2}, {"a": 3}], Unusual),
        ([{"a": 1}, {"a": 1}, {"a": 1}], None),
        ([{"a": 1}, {"a": 2}, {"a": 3}, {}], None),
        ([{}, {}, {}], NotApplicable),
    ],
    ids=["always", "before the first step", "at first", "none"],
)
def test_a_reference_is_not_the_policy_itself(twins: list[dict[str, int]], light: Light) -> None:
    """Behavior: alike in each micro-batch is yellow; a reference that the policy leaves is right."""
    run = Run()
    run.samples = [Sample(1, step, "", twins=each) for step, each in enumerate(twins)]
    assert light is light_of(check_twins, run)
