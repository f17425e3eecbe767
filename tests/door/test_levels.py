"""Models that learn to tell noise, at one level for a batch or at one for each row."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from andon.door.records import Run
from andon.door.sampling import Sample, sample
from andon.door.statements.noise import check_one_level
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
ROWS = 16


class Denoiser(nn.Module):
    """Noise (B, 12) of rows (B, 12) at steps (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(13, 12)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, 12) and (B,) to (B, 12)."""
        return self.linear(torch.cat([x, t.reshape(-1, 1) / 100], 1))


def tells(call: Call, x: Tensor, t: Tensor, due: Tensor) -> Tensor:
    """What is added is what is to be told."""
    return (call(x + due, t) - due).square().mean()


def of_rows() -> Tensor:
    """One for each."""
    return torch.randint(100, (ROWS,))


def of_batch() -> Tensor:
    """One for all."""
    return torch.randint(100, (1,)).expand(ROWS).clone()


def in_a_column() -> Tensor:
    """One for all, (B, 1)."""
    return of_batch()[:, None].float()


def always() -> Tensor:
    """The same each time."""
    return torch.full((ROWS,), 7)


def noise() -> Tensor:
    """Standard normal."""
    return torch.randn(ROWS, 12)


def signs() -> Tensor:
    """Of the same mean and spread, and no noise."""
    return torch.randn(ROWS, 12).sign()


def samples(levels: Callable[[], Tensor], due: Callable[[], Tensor], count: int = 4) -> list[Sample]:
    """Of as many micro-batches."""
    torch.manual_seed(0)
    given = [(torch.rand(ROWS, 12), levels(), due()) for _ in range(count)]
    return [sample(recorded(Denoiser(), tells, *each), 1, step, "train.py:9") for step, each in enumerate(given)]


@pytest.mark.parametrize(
    ("levels", "due", "count", "light"),
    [
        (of_rows, noise, 4, None),
        (of_batch, noise, 4, Unusual),
        (in_a_column, noise, 4, Unusual),
        (of_batch, noise, 2, NotApplicable),
        (always, noise, 4, NotApplicable),
        (of_batch, signs, 4, NotApplicable),
        (of_batch, lambda: 3 * noise(), 4, NotApplicable),
    ],
    ids=["of rows", "of a batch", "in a column", "few", "always one", "no noise", "wider"],
)
def test_rows_have_levels_of_their_own(
    levels: Callable[[], Tensor], due: Callable[[], Tensor], count: int, light: Light
) -> None:
    """Behavior: one level for all rows that differs between batches is yellow where noise is told; else not asked."""
    assert light is light_of(check_one_level, Run(samples=samples(levels, due, count)))


def flows(levels: Callable[[], Tensor], due: Callable[[Tensor, Tensor], Tensor], count: int = 4) -> list[Sample]:
    """Micro-batches in which a model is given a mixture of noise and data, and labels."""
    torch.manual_seed(0)
    found = []
    for step in range(count):
        data, other, t = torch.rand(ROWS, 12), 3 * torch.randn(ROWS, 12), levels()
        share = t.reshape(-1, 1) / 100

        def loss_of(call: Call, x: Tensor, t: Tensor, data: Tensor, other: Tensor) -> Tensor:
            return (call(x, t) - due(data, other)).square().mean()

        mixed = share * data + (1 - share) * other
        found.append(sample(recorded(Denoiser(), loss_of, mixed, t, data, other), 1, step, "train.py:9"))
    return found


def counting() -> Callable[[], Tensor]:
    """One for all, larger each time."""
    numbers = iter(range(5, 50, 7))
    return lambda: torch.full((ROWS,), next(numbers))


@pytest.mark.parametrize(
    ("levels", "due", "light"),
    [
        (of_batch, torch.sub, Unusual),
        (in_a_column, torch.sub, Unusual),
        (of_rows, torch.sub, NotApplicable),
        (always, torch.sub, NotApplicable),
        (counting(), torch.sub, NotApplicable),
        (of_batch, lambda data, _: data, NotApplicable),
    ],
    ids=["of a batch", "in a column", "of rows", "always one", "rising", "of data alone"],
)
def test_rows_of_a_flow_have_levels_of_their_own(
    levels: Callable[[], Tensor], due: Callable[[Tensor, Tensor], Tensor], light: Light
) -> None:
    """Behavior: one share of data for all rows, which goes up and down from batch to batch, is yellow."""
    assert light is light_of(check_one_level, Run(samples=flows(levels, due)))


def test_labels_of_rows_are_no_levels_of_a_mixture() -> None:
    """Behavior: where the mixture has one share, another number that rows have of their own says nothing."""
    shown = [
        Sample(1, step, "", share=level / 10, levels={"label": None, "t": level})
        for step, level in enumerate((1.0, 3.0, 2.0))
    ]
    assert light_of(check_one_level, Run(samples=shown)) is Unusual


def test_another_number_of_all_rows_may_be_one() -> None:
    """Behavior: a label that all rows of a batch have is nothing where each row has a level of its own."""
    shown = [Sample(1, step, "", noise=step, levels={"t": None, "label": float(step)}) for step in (1, 2, 3)]
    check_one_level(Run(samples=shown))
