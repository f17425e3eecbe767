"""Gaps and alarms that code of others showed: correct code passes, and the fault beside it is found."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from andon.verify import subjects
from andon.verify.observation.perturb import without_autocast
from andon.verify.run.runner import check
from andon.verify.subject import Adapters, Quantizer, Subject
from andon.verify.subjects import small as plain
from tests.clean import reseeded
from tests.subjects import SUBJECTS
from tests.verify import foreign_models
from tests.verify.checks.test_model_checks import FAULTS, injected
from tests.verify.small import Small, loss, small

pytestmark = pytest.mark.long


class Wrapped:
    """An optimizer around another, as Accelerate has them: no torch optimizer itself, and without its hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner one's."""
        return self.optimizer.param_groups


def wrapped(under_autocast: bool) -> Subject:
    """A step through a wrapper, whose update is or is not under autocast."""

    def step(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
        optimizer.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            total = loss(model, batches[0])
        total.backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
            optimizer.optimizer.step()
        return {"loss": float(total)}

    return small(optimizer=lambda model: Wrapped(torch.optim.AdamW(model.parameters(), lr=1e-3)), train_step=step)


def test_a_wrapped_optimizer_is_seen() -> None:
    """Behavior: the update of the optimizer inside a wrapper counts, and outside autocast it passes."""
    clean, injected = (check(wrapped(under), only=("autocast.scope",)) for under in (False, True))
    assert ((), ("autocast.scope",)) == (clean.findings, clean.passed)
    assert ["Subject.train_step: the update ran under autocast to torch.bfloat16"] == [
        finding.message for finding in injected.findings
    ]


def test_an_epoch_whose_labels_stand_elsewhere_is_found() -> None:
    """Behavior: labels under their own tokens in an epoch alone are a finding; one ahead there, too, they pass."""

    def shifted(steps: int) -> Subject:
        ids = torch.arange(3)[:, None] + torch.arange(7) * 2 % 11 % 8
        parts = {"tokens": ids[:, :-1], "labels": ids[:, steps : steps + 6]}
        return small(batch=lambda _: {"tokens": ids[:, :-1], "labels": ids[:, 1:]}, epoch_batches=lambda _: [parts])

    injected, clean = (check(shifted(steps), only=("data.targets",)) for steps in (0, 1))
    assert ((), ("data.targets",)) == (clean.findings, clean.passed)
    due = (
        "labels stand in Subject.batch one ahead, in Subject.epoch_batches under their own tokens: "
        "one loss cannot take both"
    )
    assert [due] == [finding.message for finding in injected.findings]


@pytest.mark.parametrize("seed", [2, 7])
def test_sharp_attention_in_half_precision_passes(seed: int) -> None:
    """Behavior: an error that grows with the number of keys, as rounding makes it, is not a fault of positions."""
    report = check(reseeded(SUBJECTS["half lora"](), seed), only=("positions.precision",))
    assert ((), ("positions.precision",)) == (report.findings, report.passed)


class Sized(nn.Module):
    """A norm that divides by a variance which also counts `more` places of zeros behind the row."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        middle = x.mean(-1, keepdim=True)
        squares = (x - middle).square().sum(-1, keepdim=True) + self.more * middle.square()
        return (x - middle) * (squares / x.shape[-1] + 1e-8).rsqrt()


class Across(nn.Module):
    """A norm over rows, which leaves each row a size of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return x / (x.square().mean(tuple(range(x.dim() - 1)), keepdim=True) + 1e-8).sqrt()


def test_a_norm_whose_rows_differ_in_size_is_found() -> None:
    """Behavior: a variance that counts padding gives each row a size of its own; a norm over rows may."""

    def ending(norm: nn.Module) -> Subject:
        return plain.subject(model=lambda: plain.Model(norm))

    padded, clean, across = (check(ending(norm), only=("norms.unit",)) for norm in (Sized(32), Sized(0), Across()))
    assert ["norm returns rows of rms 0."] == [finding.message[:27] for finding in padded.findings]
    assert ((), ("norms.unit",)) == (clean.findings, clean.passed)
    assert () == across.findings


def test_autocast_within_the_subject_is_compared_with_none() -> None:
    """Behavior: where logits and loss enter autocast themselves, rounded angles are found, and exact ones pass."""
    fault = next(each for each in FAULTS if each.name == "half-precision angles under autocast")
    rounded, clean = (
        check(subjects.under_autocast(each), only=("positions.precision",))
        for each in (injected(fault._replace(subject="library")), foreign_models.library())
    )
    assert ((), ("positions.precision",)) == (clean.findings, clean.passed)
    assert ["in torch.bfloat16 logits at positions"] == [finding.message[:37] for finding in rounded.findings]


def test_an_autocast_object_of_the_subject_stays_as_it_was() -> None:
    """Behavior: what a script enters again and again still casts after a check has done without it."""
    shared, matrix = torch.autocast("cpu", torch.bfloat16), torch.eye(2)
    with without_autocast(), shared:
        inside = (matrix @ matrix).dtype
    with shared:
        assert (torch.float32, torch.bfloat16) == (inside, (matrix @ matrix).dtype)


class Masked(nn.Module):
    """Attention with a mask of so many columns, of which it takes those that it has keys for."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        scores = (x @ x.mT).masked_fill(~mask[..., : x.shape[1]], float("-inf"))
        return x + scores.softmax(-1) @ self.mix(x)


class Deep(nn.Module):
    """Two blocks under a mask that has more columns than there are positions, or as many."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.embed, self.head, self.more = nn.Embedding(11, 8), nn.Linear(8, 11), more
        self.blocks = nn.ModuleList([Masked(), Masked()])

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x, time = self.embed(tokens), tokens.shape[1]
        mask = torch.ones(1, time, time + self.more, dtype=torch.bool).tril()
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


def test_a_block_whose_mask_is_not_among_its_arguments_is_not_checked() -> None:
    """Behavior: at a few positions a wider mask shows later states, which is not a fault; one that fits is checked."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(0, 11, (3, 14), generator=generator)
        return {"tokens": ids[:, :-1], "labels": ids[:, 1:]}

    wide, fitting = (
        check(small(model=lambda more=more: Deep(more), batch=batch), only=("positions.shift",)) for more in (50, 0)
    )
    assert ((), ()) == (wide.findings, wide.passed)
    assert ((), ("positions.shift",)) == (fitting.findings, fitting.passed)


def test_zeros_are_not_scaled_weights() -> None:
    """Behavior: a matrix of zeros says nothing of the scale of first weights, whatever a setting does."""

    def configure(**_: object) -> nn.Module:
        model = Small()
        model.state = nn.Parameter(torch.zeros(4, 4))
        return model

    report = check(small(configure=configure, config_alternatives={"bits": 8}), only=("configuration.spread",))
    assert ((), ()) == (report.findings, report.passed)


def test_tensors_of_other_shapes_have_another_role() -> None:
    """Behavior: two matrices of a layer, told apart by a number alone, may begin at the scales of their own shapes."""

    def model() -> nn.Module:
        made = Small()
        made.layers = nn.ModuleList(
            [nn.ModuleDict({"w1": nn.Linear(32, 96), "w2": nn.Linear(96, 32)}) for _ in range(3)]
        )
        return made

    report = check(small(model=model), only=("initialization.layers",))
    assert ((), ("initialization.layers",)) == (report.findings, report.passed)


class Third(nn.Module):
    """A linear layer with an adapter of three matrices, the middle one a diagonal."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.down, self.up = nn.Parameter(torch.randn(rank, 8)), nn.Parameter(torch.randn(8, rank))
        self.middle = nn.Parameter(torch.zeros(rank, 1))

    def change(self) -> Tensor:
        """What is added to the weight."""
        return self.scale * self.up @ (self.middle * self.down)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.base(x) + x @ self.change().mT


def test_a_matrix_between_the_two_is_not_a_fault_of_the_scale() -> None:
    """Behavior: B A is checked where an adapter is two matrices, and nothing where no scale of it is claimed."""

    def add(model: Any, rank: int, alpha: float) -> nn.Module:
        model.requires_grad_(False)
        model.mix = Third(model.mix, rank, alpha)
        return model

    def merge(factor: float) -> Any:
        def merged(model: Any) -> nn.Module:
            with torch.no_grad():
                model.mix.base.weight += factor * model.mix.change()
                model.mix.middle.zero_()
            return model

        return merged

    only = ("adapters.merged_weights", "adapters.scale")
    report = check(small(adapters=Adapters(add, merge(1.0))), only=only)
    assert ((), ("adapters.merged_weights", "adapters.scale")) == (report.findings, report.passed)
    assert () == check(small(adapters=Adapters(add, merge(1.0), scale=None)), only=only).passed
    twice = check(small(adapters=Adapters(add, merge(2.0))), only=("adapters.merge",))
    assert ["adapters.merge"] == [finding.check for finding in twice.findings]


def test_examples_that_are_drawn_anew_are_not_other_examples() -> None:
    """Behavior: rows that change in every epoch are a finding, unless the subject says that they are augmented."""

    def epoch(number: int) -> list[dict[str, Tensor]]:
        ids = torch.randint(0, 11, (6, 7), generator=torch.Generator().manual_seed(number))
        return [{"tokens": row[None, :-1], "labels": row[None, 1:]} for row in ids]

    found, told = (
        check(small(epoch_batches=epoch, random_augmentation=told), only=("data.epochs",)) for told in (False, True)
    )
    assert ["epoch 1 lacks 6 of epoch 0's 6 rows and has 6 others"] == [each.message for each in found.findings]
    assert ((), ("data.epochs",)) == (told.findings, told.passed)


def in_closure(share: float) -> Subject:
    """A step whose gradient is made by the closure that the optimizer calls; the last batch counts by this share."""

    def step(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            counts = torch.tensor([float((each["labels"] >= 0).sum()) for each in batches])
            shares = torch.tensor([1.0] * (len(batches) - 1) + [share])
            total = (torch.stack([loss(model, each) for each in batches]) * counts * shares).sum() / counts.sum()
            total.backward()
            return total

        return {"loss": float(optimizer.step(closure))}

    return small(optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1e-2), train_step=step)


def test_a_gradient_made_in_a_closure_is_seen() -> None:
    """Behavior: what an optimizer's closure computes is what its update sees, right or wrong."""
    clean, halved = (check(in_closure(share), only=("accumulation.gradient",)) for share in (1.0, 0.5))
    assert ((), ("accumulation.gradient",)) == (clean.findings, clean.passed)
    assert ["accumulation.gradient"] == [finding.check for finding in halved.findings]


def test_shapes_that_are_refused_are_not_wrong_values() -> None:
    """Behavior: a quantizer that takes whole blocks alone, and says so, is not tried on others."""

    def whole(weight: Tensor) -> Tensor:
        if weight.numel() % 64:
            raise AssertionError(f"{weight.numel()} is not a multiple of 64")
        return weight

    report = check(small(quantizer=Quantizer(whole)), only=("quantization.ragged",))
    assert ((), ()) == (report.findings, report.passed)


def test_a_wrong_shape_is_no_refusal() -> None:
    """Behavior: weights that fill no block and come back in another shape are a finding, though it is an assertion."""

    def cut(weight: Tensor) -> Tensor:
        return weight if weight.numel() % 64 == 0 else weight.flatten()[:-1]

    report = check(small(quantizer=Quantizer(cut)), only=("quantization.ragged",))
    assert "come back as (110,)" in report.findings[0].message


def test_empty_places_in_a_list_are_not_blocks() -> None:
    """Behavior: lists that hold None are left out of the search for blocks."""

    def model() -> nn.Module:
        made = Small()
        places: Any = [None, None]
        made.norms = nn.ModuleList(places)
        return made

    report = check(small(model=model), only=("structure.blocks",))
    assert ((), ()) == (report.findings, report.passed)
