"""A loss that is a sum: which of its terms something is learned from."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from andon.door.questions.idle_terms import check_idle_term
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
LossOf = Callable[[Call, Tensor], Tensor]


def both(call: Call, x: Tensor) -> Tensor:
    """Each term has a gradient."""
    z = call(x)
    return mse_loss(z, x) + 0.1 * z.square().mean()


def detached(call: Call, x: Tensor) -> Tensor:
    """The side that was to be learned is cut off."""
    z = call(x)
    return mse_loss(z, x) + 0.1 * z.detach().square().mean()


def counted(call: Call, x: Tensor) -> Tensor:
    """Counts of choices alone, in place, and a sum of the rest by Python."""
    z = call(x)
    loss = sum((mse_loss(z, x), z.abs().mean()))
    share = nn.functional.one_hot(z.argmax(-1), 6).float().mean(0)
    loss += 6 * (share * share).sum()
    return loss


def stacked(call: Call, x: Tensor) -> Tensor:
    """Terms in a list."""
    z = call(x)
    return torch.stack([mse_loss(z, x), z.detach().abs().mean()]).sum() / 2


def of_the_batch(call: Call, x: Tensor) -> Tensor:
    """A number that the model does not change."""
    return mse_loss(call(x), x) + x.square().mean()


def switched_off(call: Call, x: Tensor) -> Tensor:
    """A coefficient of zero, zeros and a number."""
    z = call(x)
    return mse_loss(z, x) + 0.0 * z.detach().square().mean() + torch.zeros(()) + 0.5


def of_zero(call: Call, x: Tensor) -> Tensor:
    """A term at rest."""
    z = call(x)
    return mse_loss(z, x) + (z.detach() - 1e3).relu().mean()


def exchanged(call: Call, x: Tensor) -> Tensor:
    """The value of one loss, the gradient of another."""
    z = call(x)
    loss = mse_loss(z, x)
    return loss + (z.abs().mean() - loss).detach()


def taken_away(call: Call, x: Tensor) -> Tensor:
    """The same in other words."""
    z = call(x)
    loss = mse_loss(z, x)
    return loss - loss.detach() + z.detach().abs().mean()


def weighted(call: Call, x: Tensor) -> Tensor:
    """A detached number that is a factor."""
    z = call(x)
    loss = mse_loss(z, x)
    return loss + z.detach().abs().mean() * z.square().mean()


def one(call: Call, x: Tensor) -> Tensor:
    """No sum."""
    return mse_loss(call(x), x)


def of_rows(call: Call, x: Tensor) -> Tensor:
    """A sum of vectors."""
    z = call(x)
    return (mse_loss(z, x, reduction="none").mean(-1) + z.detach().abs().mean(-1)).mean()


def untrained(call: Call, x: Tensor) -> Tensor:
    """No term has a gradient."""
    z = call(x).detach()
    return mse_loss(z, x) + z.abs().mean()


TERMS = [
    (both, None),
    (detached, Unusual),
    (counted, Unusual),
    (stacked, Unusual),
    (of_the_batch, None),
    (switched_off, None),
    (of_zero, None),
    (exchanged, NotApplicable),
    (taken_away, NotApplicable),
    (weighted, None),
    (one, NotApplicable),
    (of_rows, NotApplicable),
    (untrained, NotApplicable),
]


@pytest.mark.parametrize(("loss_of", "light"), TERMS)
def test_each_term_of_the_models_own_numbers_is_learned_from(loss_of: LossOf, light: Light) -> None:
    """Behavior: a term that changes with the weights and has no gradient is yellow; a constant one, or zero, is not."""
    torch.manual_seed(0)
    assert light is light_of(check_idle_term, recorded(nn.Linear(6, 6), loss_of, torch.randn(16, 6)))


class WithLoss(nn.Module):
    """A model that computes its loss itself."""

    def __init__(self, loss_of: LossOf) -> None:
        super().__init__()
        self.loss_of, self.inner, self.drop = loss_of, nn.Linear(6, 6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """A number."""
        return self.loss_of(lambda x: self.drop(self.inner(x)), x)


@pytest.mark.parametrize(("loss_of", "light"), TERMS[:-1])
def test_terms_within_a_model_are_seen(loss_of: LossOf, light: Light) -> None:
    """Behavior: the same where the model adds them up."""
    torch.manual_seed(0)
    captured = recorded(WithLoss(loss_of), lambda call, x: call(x) / 4, torch.randn(16, 6))
    assert light is light_of(check_idle_term, captured)


def test_the_line_and_the_share_are_said() -> None:
    """Behavior: the message names where the number is made in the model, and how much of the sum it is."""
    captured = recorded(WithLoss(detached), lambda call, x: call(x), torch.randn(16, 6))
    with pytest.raises(Unusual, match=r"test_idle_terms\.py:\d+\), \S+ or 0\.\d+ of the sum of all 2"):
        check_idle_term(captured)


def test_a_teachers_own_number_is_a_constant() -> None:
    """Behavior: what a part without a gradient computes is none of what is trained."""

    class Taught(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                due = self.teacher(x).softmax(-1)
            return (due * due.log()).sum() - (due * self.student(x).log_softmax(-1)).sum()

    assert light_of(check_idle_term, recorded(Taught(), lambda call, x: call(x), torch.randn(16, 6))) is None
