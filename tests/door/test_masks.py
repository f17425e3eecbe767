"""Which labels count, batch by batch."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from andon.door.records import Run
from andon.door.sampling import Sample, sample
from andon.door.statements.batches import check_same_mask
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import WORDS, Bag, Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


def of(ids: Tensor, mask: Tensor, step: int) -> Sample:
    """What a child says of a micro-batch with these labels, through a file."""

    def loss_of(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(call(ids).flatten(0, 1), labels.flatten())

    seen = recorded(Bag(), loss_of, ids, torch.where(mask, ids, -100))
    return Sample(**asdict(sample(seen, 1, step, "train.py:9")))


def run(*, mask: str, seeded: bool = False, other_rows: bool = True) -> Run:
    """Five micro-batches, of texts that end at 30 and later, whose mask is drawn, a fixed form, or the row's end."""
    drawn, place = torch.Generator().manual_seed(1), torch.arange(40)[None]
    samples = []
    for step in range(5):
        ids = torch.randint(1, WORDS, (8, 40), generator=torch.Generator().manual_seed(step if other_rows else 0))
        chances = torch.rand(8, 40, generator=drawn.manual_seed(1) if seeded else drawn)
        ends = 30 + (step + torch.arange(8)[:, None]) % 10
        masks = {"drawn": (chances < 0.2) & (place < ends), "end": place >= ends, "form": (place % 4 == 0) & (ids > 0)}
        samples.append(of(ids, masks[mask], step))
    return Run(samples=samples)


@pytest.mark.parametrize(
    ("made", "light"),
    [
        (run(mask="drawn"), None),
        (run(mask="drawn", seeded=True), Unusual),
        (run(mask="drawn", seeded=True, other_rows=False), NotApplicable),
        (run(mask="end"), NotApplicable),
        (run(mask="form"), NotApplicable),
    ],
    ids=["drawn anew", "seeded anew", "the same rows", "the end of each row", "a fixed form"],
)
def test_a_mask_is_drawn_anew(made: Run, light: Light) -> None:
    """Behavior: scattered places that stay while rows change are yellow; those of a form are not asked."""
    assert light_of(check_same_mask, made) is light
