"""Losses whose divisor comes from outside of what was captured, and those whose divisor follows their batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cross_entropy

from andon.door.divisor import OF_LABELS, OF_OTHER_LABELS, lack_of_labels
from andon.verify.capturing.micro_batch import as_subject
from andon.verify.checks import CHECKS
from andon.verify.errors import NotApplicable
from andon.verify.run.runner import check
from tests.door.recorded import WORDS, Call, recorded

pytestmark = pytest.mark.tier2
ROWS, LENGTH = 4, 8


def next_tokens(call: Call, ids: Tensor, labels: Tensor, count: Any = None) -> Tensor:
    """The mean, or the sum divided by a number that comes from outside."""
    logits, targets = call(ids).flatten(0, 1), labels.flatten()
    if count is None:
        return cross_entropy(logits, targets)
    return cross_entropy(logits, targets, reduction="sum") / count


def a_fixed_size(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
    """A mean over the places, those that are ignored among them."""
    return cross_entropy(call(ids).flatten(0, 1), labels.flatten(), reduction="none").mean()


def text() -> tuple[Tensor, Tensor]:
    """Tokens, and labels one ahead of which each row's last is none."""
    torch.manual_seed(0)
    ids = torch.randint(WORDS, (ROWS, LENGTH))
    return ids, torch.cat([ids[:, 1:], torch.full((ROWS, 1), -100)], 1)


@pytest.mark.parametrize(
    ("loss_of", "count", "lacking"),
    [
        (next_tokens, None, ()),
        (next_tokens, 1, ()),
        (next_tokens, torch.tensor(ROWS * (LENGTH - 1)), OF_OTHER_LABELS),
        (next_tokens, torch.tensor(ROWS * LENGTH), OF_LABELS),
        (next_tokens, 3.0, OF_LABELS),
        (a_fixed_size, None, ()),
    ],
)
def test_a_divisor_from_outside_is_not_held_to_other_labels(
    loss_of: Callable[..., Tensor], count: Any, lacking: tuple[str, ...]
) -> None:
    """Behavior: a number from outside, of all micro-batches or of this one, is none to judge; a mean and a sum are."""
    model, given = nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)), [count] if count is not None else []
    captured = recorded(model, loss_of, *text(), *given)
    assert lacking == tuple(lack_of_labels(captured, as_subject(captured), accumulates=False))


def test_a_mean_over_ignored_places_is_still_found() -> None:
    """Behavior: of a loss whose own divisor counts places that are ignored, the checks of labels say so."""
    captured = recorded(nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)), a_fixed_size, *text())
    found = check(as_subject(captured), only=[each.name for each in CHECKS if each.name in OF_LABELS]).findings
    assert "loss.definition" in [each.check for each in found]


DRAWN: list[Tensor] = []


class Guide(nn.Module):
    """Draws a number, and keeps it elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(3))

    def forward(self, spread: Tensor) -> Tensor:
        """A sample."""
        DRAWN[:] = [self.place + spread * torch.randn(3)]
        return DRAWN[0].clone()


def test_what_a_module_has_drawn_and_not_returned_makes_no_other_loss() -> None:
    """Behavior: a loss that needs the very numbers that a module drew and kept is not captured; one without is."""
    guide = Guide()

    def known(call: Call, spread: Tensor) -> Tensor:
        sample = call(spread)
        return sample.square().sum() + (sample == DRAWN[0]).float().log().sum()

    def plain(call: Call, spread: Tensor) -> Tensor:
        return call(spread).square().sum() + kl_divergence(Normal(guide.place, spread), Normal(0.0, 1.0)).sum()

    assert recorded(guide, plain, torch.ones(3)).entries
    with pytest.raises(NotApplicable, match="made within one, and not returned"):
        recorded(guide, known, torch.ones(3))
