"""What a run's steps show, where each batch is padded to its own length or carries more than token ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify import check
from tests.verify.small import VOCAB, Small, said, small

pytestmark = pytest.mark.tier2
PASSED, PAD, ROWS, DOCUMENTS = "passed", 0, 4, 40
STEPS = DOCUMENTS // ROWS


class Masked(Small):
    """Called with token ids and a boolean mask."""

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, T) to (B, T, V)."""
        return super().forward(tokens if valid is None else tokens * valid)


class Seen(Small):
    """Called with token ids and a picture."""

    def forward(self, tokens: Tensor, picture: Tensor | None = None) -> Tensor:
        """(B, T) to (B, T, V)."""
        return super().forward(tokens) + (0.0 if picture is None else picture.mean())


def documents() -> list[Tensor]:
    """Of several lengths, all different."""
    generator = torch.Generator().manual_seed(5)
    sizes = torch.randint(3, 9, (DOCUMENTS,), generator=generator).tolist()
    return [torch.randint(1, VOCAB, (size,), generator=generator) for size in sizes]


class Run:
    """Shuffles, pads each batch to its longest row, and steps."""

    def __init__(self, *, boolean: bool = False, lost: int = 0, still: bool = False, pictures: bool = False) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = Seen() if pictures else Masked()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.boolean, self.lost, self.still, self.pictures, self.number = boolean, lost, still, pictures, 0

    def step(self) -> Mapping[str, float]:
        """One update."""
        epoch, place = divmod(self.number, STEPS)
        texts = documents()
        order = torch.randperm(DOCUMENTS, generator=torch.Generator().manual_seed(epoch)).tolist()
        if epoch and self.lost:
            order = [order[0]] * self.lost + order[self.lost :]
        chosen = [texts[index] for index in order[:ROWS] if self.still] or [
            texts[index] for index in order[place * ROWS : (place + 1) * ROWS]
        ]
        ids = torch.full((ROWS, max(map(len, chosen))), PAD)
        for row, text in zip(ids, chosen, strict=True):
            row[: len(text)] = text
        given: tuple[Any, ...] = (ids, ids != PAD) if self.boolean else (ids,)
        given = (ids, torch.randn(ROWS, 2)) if self.pictures else given
        loss = cross_entropy(self.model(*given)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.number += 1
        return {"loss": float(loss)}

    def save(self, folder: Path) -> None:
        """The weights."""
        torch.save(self.model.state_dict(), folder / "model.pt")

    def validate(self) -> float:
        """Nothing is held out."""
        return 0.0


@pytest.mark.parametrize(
    ("only", "options", "outcome"),
    [
        ("resume.epochs", {}, PASSED),
        ("resume.epochs", {"boolean": True}, PASSED),
        ("resume.epochs", {"lost": 15}, "are not in both"),
        ("resume.epochs", {"boolean": True, "lost": 15}, "are not in both"),
        ("resume.progress", {}, PASSED),
        ("resume.progress", {"still": True}, "are shown the same 4 rows"),
        ("resume.progress", {"still": True, "pictures": True}, PASSED),
    ],
)
def test_padding_is_no_data(only: str, options: dict[str, bool], outcome: str) -> None:
    """Behavior: rows padded otherwise are the same rows; rows that are lost, or shown again and again, are found."""
    subject = small(loop=lambda: Run(**options), hyperparameters={"epoch_steps": STEPS, "steps": 100})
    assert outcome in said(check(subject, only=(only,)))
