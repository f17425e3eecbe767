"""What a loss is made of: parts that nothing takes up, rows that are ignored, what another part alone reaches."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject, check
from andon.verify.run.report import RED, YELLOW
from tests.verify.checks.test_models_as_used import Case
from tests.verify.small import LENGTH, ROWS, VOCAB, WIDTH, Small, loss, said, small

pytestmark = pytest.mark.tier2
PASSED = "passed"


class Chosen(Small):
    """One of two layers for each token, weighed by what chooses; `divided` makes that weight 1."""

    def __init__(self, divided: bool) -> None:
        super().__init__()
        self.choice = nn.Linear(WIDTH, 2, bias=False)
        self.parts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.divided, self.balance = divided, torch.zeros(())

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        share = self.choice(x_BTD).softmax(-1)
        weight, chosen = share.topk(1, -1)
        self.balance = share.flatten(0, 1).mean(0).square().sum()
        weight = weight / weight.sum(-1, keepdim=True) if self.divided else weight
        each = torch.stack([part(x_BTD) for part in self.parts], -2)
        picked = each.gather(-2, chosen[..., None].expand(*chosen.shape, WIDTH))[..., 0, :]
        return self.head(x_BTD + weight * picked)


def balanced(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """With a part that balances."""
    return loss(model, batch) + 0.1 * model.balance


def forgotten(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """A part is computed, and not added."""
    value = loss(model, batch)
    model.embed.weight.square().mean()
    return value


def read(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """A metric is read."""
    model.metric = float(model.embed.weight.square().mean())
    return loss(model, batch)


def prompted(generator: torch.Generator) -> dict[str, Tensor]:
    """Rows whose first tokens are no labels."""
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    return {"tokens": ids[:, :-1], "labels": ids[:, 1:].masked_fill(torch.arange(LENGTH) < 2, -100)}


def beside(model: Any, batch: dict[str, Tensor], labels: str) -> Tensor:
    """A second head that predicts the token after the next one."""
    far = model.head(torch.tanh(model.embed(batch["tokens"])))[:, :-1]
    wanted = batch["labels"][:, 1:] if labels == "labels" else F.pad(batch["tokens"][:, 2:], (0, 1), value=-100)
    return loss(model, batch) + 0.3 * F.cross_entropy(far.flatten(0, 1), wanted.flatten())


def second(labels: str) -> Subject:
    """The small subject with a second head."""
    return small(batch=prompted, loss=lambda model, batch: beside(model, batch, labels))


def valued(*, columns: bool, loss: Any = F.mse_loss) -> Subject:
    """A value for each row; as a column, beside targets that are a row."""

    def taken(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        values = model(batch[0])
        return loss(values if columns else values.squeeze(-1), batch[1])

    return Subject(
        model=lambda: nn.Linear(4, 1), batch=lambda g: (torch.randn(5, 4, generator=g), torch.randn(5, generator=g)),
        loss=taken,
    )  # fmt: skip


OBJECTIVES = {
    "a part forgotten": Case("objective.unused", lambda: small(loss=forgotten), "1 number(s) with a gradient", YELLOW),
    "a metric read": Case("objective.unused", lambda: small(loss=read), PASSED),
    "a part added": Case("objective.unused", lambda: small(model=lambda: Chosen(divided=False), loss=balanced), PASSED),
    "balance left out": Case(
        "objective.unused", lambda: small(model=lambda: Chosen(divided=False)), "test_objective.py", YELLOW
    ),
    "prompts of a second head": Case("objective.rows", lambda: second("tokens"), "move the gradient by", YELLOW),
    "labels of a second head": Case("objective.rows", lambda: second("labels"), PASSED),
    "rows of a mixture": Case(
        "objective.rows", lambda: small(mixture_of_experts=True), "a loss that balances no tokens"
    ),
    "no cross-entropy": Case(
        "objective.rows",
        lambda: small(loss=lambda model, batch: model(batch["tokens"]).square().mean()),
        "cross-entropy",
    ),
    "a choice that learns nothing": Case(
        "objective.reach",
        lambda: small(model=lambda: Chosen(divided=True), loss=balanced),
        "choice.weight; right for what is to be balanced alone",
        YELLOW,
    ),
    "a choice that learns": Case(
        "objective.reach", lambda: small(model=lambda: Chosen(divided=False), loss=balanced), PASSED
    ),
    "a column beside a row": Case("objective.shapes", lambda: valued(columns=True), "(5, 1) and (5,)", RED),
    "a column of pairs": Case("objective.shapes", lambda: valued(columns=True, loss=F.smooth_l1_loss), "(5, 5)", RED),
    "rows alike": Case("objective.shapes", lambda: valued(columns=False), PASSED),
    "one part": Case("objective.reach", small, "a loss with another part"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_part_of_a_loss_is_meant(name: str) -> None:
    """Behavior: what is right passes or is left, a part that is lost, or reaches too far, is yellow."""
    case = OBJECTIVES[name]
    report = check(case.made(), only=(case.check,))
    assert case.said in said(report)
    assert [case.light] * bool(case.light) == [finding.light for finding in report.findings]
