"""Which of a model's inputs are token ids is told by name and roles, wherever they stand among the arguments."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from andon.verify import check, watch
from andon.verify.subject import Subject
from tests.verify.small import LENGTH, ROWS, VOCAB, Small, loss, said, small

pytestmark = pytest.mark.tier2
EPOCH = 4
Call = Callable[[Any, Tensor, Tensor], Tensor]


class Documented(Small):
    """Is told its rows' documents before its tokens."""

    def forward(self, documents_BT: Tensor, tokens_BT: Tensor) -> Tensor:  # ty: ignore[incompatible-method-override]
        """(B, T) to (B, T, V)."""
        assert documents_BT.shape == tokens_BT.shape
        return super().forward(tokens_BT)


class Unnamed(Small):
    """Its arguments' names say nothing."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:  # ty: ignore[incompatible-method-override]
        """(B, T) to (B, T, V)."""
        assert first.shape == second.shape
        return super().forward(second)


class Loop:
    """A loop over epochs, in a new order each; `stuck` shows one batch for ever."""

    def __init__(self, model: Small, call: Call, *, stuck: bool) -> None:
        self.model, self.call, self.stuck, self.number = model, call, stuck, 0
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        self.data = torch.randint(VOCAB, (EPOCH * ROWS, LENGTH), generator=torch.Generator().manual_seed(5))

    def step(self) -> dict[str, float]:
        """One update."""
        epoch, place = (0, 0) if self.stuck else divmod(self.number, EPOCH)
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(epoch))
        tokens_BT = self.data[order[place * ROWS : (place + 1) * ROWS]]
        value = self.call(self.model, torch.zeros_like(tokens_BT), tokens_BT).square().mean()
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.number += 1
        return {"loss": float(value.detach())}

    def save(self, folder: object) -> None:
        """Nothing."""

    def validate(self) -> float:
        """Nothing to evaluate."""
        return 0.0


def looping(model: type[Small], call: Call, *, stuck: bool = False, **parts: Any) -> Subject:
    """The small subject with this loop."""

    def begun() -> Loop:
        torch.manual_seed(1)
        return Loop(model(), call, stuck=stuck)

    return small(loop=begun, hyperparameters={"epoch_steps": EPOCH}, **parts)


BY_NAME: Call = lambda model, documents, tokens: model(documents_BT=documents, tokens_BT=tokens)  # noqa: E731
IN_ORDER: Call = lambda model, documents, tokens: model(documents, tokens)  # noqa: E731


def renamed(generator: torch.Generator) -> dict[str, Tensor]:
    """A batch whose tokens go by a name that says nothing."""
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    return {"second": ids[:, :-1], "labels": ids[:, 1:]}


def loss_of_renamed(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean nats per token."""
    return loss(model, batch | {"tokens": batch["second"]})


ROLE: dict[str, Any] = {"roles": {"tokens": "second"}, "batch": renamed, "loss": loss_of_renamed}
SAME = {"resume.progress": "are shown the same 3 rows", "resume.epochs": "12 rows, of which 3 are different"}


@pytest.mark.parametrize(("name", "message"), SAME.items())
@pytest.mark.parametrize(
    ("model", "call", "parts"),
    [(Documented, BY_NAME, {}), (Documented, IN_ORDER, {}), (Unnamed, IN_ORDER, ROLE)],
    ids=["by name", "by position", "by role"],
)
def test_other_integers_before_the_tokens_are_not_taken_for_them(
    name: str, message: str, model: type[Small], call: Call, parts: dict[str, Any]
) -> None:
    """Behavior: a correct loop passes, one that shows a batch for ever is found, wherever its tokens stand."""
    assert "passed" == said(check(looping(model, call, **parts), only=[name]))
    assert message in said(check(looping(model, call, stuck=True, **parts), only=[name]))


@pytest.mark.parametrize("name", ["resume.progress", "resume.epochs"])
def test_integers_that_nothing_names_are_not_judged(name: str) -> None:
    """Behavior: where neither names nor roles tell the tokens among several inputs the check does not apply."""
    assert said(check(looping(Unnamed, IN_ORDER), only=[name])).startswith("a model whose token ids can be told among")
    assert "passed" == said(check(looping(Unnamed, IN_ORDER), only=["resume.determinism"]))


@pytest.mark.parametrize("call", [BY_NAME, IN_ORDER], ids=["by name", "by position"])
def test_a_watched_loop_is_told_by_all_its_integers(call: Call) -> None:
    """Behavior: inputs that stay the same beside tokens that change are not a repeated batch; all alike are one."""
    for stuck in (False, True):
        loop = Loop(Documented(), call, stuck=stuck)
        loop.model.train()
        with watch(loop.model, loop.optimizer, raises=False) as watching:
            for _ in range(9):
                loop.step()
        assert (["watch.batches"] if stuck else []) == [finding.check for finding in watching.findings]
