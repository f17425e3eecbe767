"""What several micro-batches of a script show together, without a process of their own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.places import Place
from andon.door.records import Passes, Run
from andon.door.sampling import Sample, is_reached, sample
from andon.door.statements.batches import check_mixed_rows, check_own_means, check_rows
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import WORDS, Bag, Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


def of(loss_of: Call, *arguments: Tensor, model: nn.Module | None = None) -> Sample:
    """A sample of a script's micro-batch in step 3."""
    torch.manual_seed(0)
    return sample(recorded(model or Bag(), loss_of, *arguments), 1, 3, "train.py:9")


def counted(targets: int) -> tuple[Tensor, Tensor]:
    """Ids (6, 7) and labels of which so many count."""
    torch.manual_seed(targets)
    ids = torch.randint(1, WORDS, (6, 7))
    labels = torch.randint(1, WORDS, (42,))
    labels[targets:] = -100
    return ids, labels.view(6, 7)


def own_mean(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
    """Of this micro-batch's targets, for a step of two."""
    return functional.cross_entropy(call(ids).flatten(0, 1), labels.flatten()) / 2


def of_the_step(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
    """A sum over the count of the step's targets."""
    return functional.cross_entropy(call(ids).flatten(0, 1), labels.flatten(), reduction="sum") / torch.tensor(30)


def test_targets_of_a_step_weigh_alike() -> None:
    """Behavior: means of each micro-batch's own are yellow with the factor; one divisor, or equal counts, are not."""
    check_own_means(Run(samples=[of(of_the_step, *counted(10)), of(of_the_step, *counted(20))]))
    with pytest.raises(NotApplicable):
        check_own_means(Run(samples=[of(own_mean, *counted(20)), of(own_mean, *counted(20))]))
    with pytest.raises(Unusual, match=r"up to 2 times .* 10, 20 targets \(train.py:9\)"):
        check_own_means(Run(samples=[of(own_mean, *counted(10)), of(own_mean, *counted(20))]))


def test_own_means_are_of_one_step_and_one_loss() -> None:
    """Behavior: micro-batches of two steps, or of two tasks, are not compared."""
    first, second = of(own_mean, *counted(10)), of(own_mean, *counted(20))
    for other in (replace(second, step=4), replace(second, line="train.py:12")):
        with pytest.raises(NotApplicable):
            check_own_means(Run(samples=[first, other]))


@pytest.mark.parametrize(("repeats", "unusual"), [(1, False), (3, True)])
def test_rows_of_a_batch_differ(repeats: int, unusual: bool) -> None:
    """Behavior: batches of a few rows, each repeated as often, are yellow; one batch alone says nothing."""
    seen = [of(own_mean, *(each[: 6 // repeats].repeat(repeats, 1) for each in counted(40 + n))) for n in range(3)]
    with pytest.raises(NotApplicable):
        check_rows(Run(samples=seen[:1] * 3))
    if not unusual:
        check_rows(Run(samples=seen))
        return
    with pytest.raises(Unusual, match="3 times each of the 2 rows"):
        check_rows(Run(samples=seen))


class Normed(nn.Module):
    """Features (B, 4), normed over an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.linear = axis, nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 5) to (B, 4)."""
        return functional.normalize(self.linear(x), dim=self.axis)


def passes(*batches: list[int]) -> Run:
    """A run that trains on these rows."""
    chain = (Place("train.py", 7),)
    seen = Passes(chain, trained=len(batches))
    for batch in batches:
        seen.rows.seen += batch
        seen.rows.batches.append(len(batch))
    return Run(passes={chain: seen})


SHUFFLED = ([1, 2, 3, 4], [5, 6, 7, 8], [1, 8, 5, 3], [2, 7, 6, 4])
ALL_AT_ONCE = ([1, 2, 3, 4], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("axis", "rows", "light"), [(1, SHUFFLED, None), (0, SHUFFLED, Unusual), (0, ALL_AT_ONCE, NotApplicable)]
)
def test_rows_do_not_mix(axis: int, rows: tuple[list[int], ...], light: Light) -> None:
    """Behavior: a norm over the batch is yellow where rows come again among others; a graph's nodes do not."""
    run = passes(*rows)
    run.samples = [of(lambda call, x: call(x).square().sum(), torch.randn(8, 5), model=Normed(axis))]
    assert light is light_of(check_mixed_rows, run)


class Pairs(nn.Module):
    """Scores (B, B) of all rows against all, as contrastive models return."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 5) to (B, B)."""
        return self.linear(x) @ self.linear(x).T


def test_scores_of_pairs_do_not_mix_rows() -> None:
    """Behavior: a row's score with the one that was exchanged is its own business."""
    assert of(lambda call, x: call(x).square().sum(), torch.randn(8, 5), model=Pairs()).mixed == ""


def test_a_unit_that_another_batch_reaches_is_not_idle() -> None:
    """Behavior: a finding of columns without a gradient stands where all micro-batches agree, and falls where not."""
    message = "2 of 8 columns of fc.weight get no gradient, the first is 3"
    samples = [Sample(1, step, "", idle={"columns of fc.weight": idle}) for step, idle in ((3, [3, 5]), (4, [3, 6]))]
    assert is_reached(samples, message)
    assert not is_reached(samples[:1] * 2, message)
    assert not is_reached(samples, "fc.weight gets no gradient")


def test_a_sample_notes_the_units_that_are_off() -> None:
    """Behavior: columns behind a ReLU that no row switches on have no gradient."""
    first = nn.Linear(5, 3)
    first.bias = nn.Parameter(torch.tensor([9.0, -99.0, 9.0]))
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(3, 2))
    seen = of(lambda call, x: call(x).square().mean(), torch.randn(6, 5), model=model)
    assert [1] == seen.idle["columns of 2.weight"]


class Sorted(nn.Module):
    """A model that refuses rows that are not the longest first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 5) to (B, 5)."""
        return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1][0]


def test_a_model_that_refuses_other_rows_is_sampled() -> None:
    """Behavior: what it raises on rows in another place takes nothing else away."""
    x, lengths = torch.randn(5, 6, 5), torch.tensor([6, 5, 4, 3, 2])
    seen = of(lambda call, *given: call(*given).square().mean(), x, lengths, model=Sorted())
    assert (5, "") == (seen.rows, seen.mixed)
