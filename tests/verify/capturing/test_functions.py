"""`verify.capture`: a function that trains becomes a Subject of one of its micro-batches, and nothing else changes."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon import verify

pytestmark = pytest.mark.tier2


class Model(nn.Module):
    """A small model of ids, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(7, 8), nn.Dropout(0.5), nn.Linear(8, 7)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.head(self.drop(self.embed(ids)))


class Training:
    """A function that trains, and what it did."""

    def __init__(self, steps: int = 9, ends: Callable[[], None] = lambda: None) -> None:
        self.steps, self.ends = steps, ends
        self.losses: list[float] = []
        self.ended = False

    def __call__(self) -> None:
        """Two micro-batches a step."""
        torch.manual_seed(1)
        self.model = Model()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.3)
        try:
            for _ in range(self.steps):
                for _ in range(2):
                    ids = torch.randint(0, 7, (4, 5))
                    loss = functional.cross_entropy(self.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()) / 2
                    self.losses.append(float(loss.detach()))
                    loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            self.ends()
        finally:
            self.ended = True


def test_the_first_micro_batch_of_a_step_is_captured() -> None:
    """Behavior: its loss without the factor, the model before its pass, the optimizer; the function ends there."""
    training = Training()
    subject = verify.capture(training)
    batch = subject.batch(torch.Generator())
    model = subject.model()
    torch.manual_seed(0)
    losses = [float(subject.loss(model, batch).detach()) for _ in range(2)]
    assert (5, True) == (len(training.losses), training.ended)
    assert losses[0] != losses[1]  # dropout acts
    assert ["ids", "labels"] == list(batch)
    again = [each.detach() for each in training.model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again, strict=True))
    assert subject.optimizer is not None
    group = subject.optimizer(model).param_groups[0]
    assert (0.1, 0.3) == (group["lr"], group["weight_decay"])


class Descent(torch.optim.Optimizer):
    """One whose rate has no default."""

    def __init__(self, params: Any, lr: float, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # ty: ignore[incompatible-method-override] - without a closure, as many write it
        """Downhill."""
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["decay"]).sub_(p.grad, alpha=group["lr"])


def test_an_optimizer_whose_rate_has_no_default_is_made_again() -> None:
    """Behavior: with the rate that it was given, and the settings of its groups."""

    def train() -> None:
        model = Model()
        optimizer = Descent([{"params": model.parameters(), "decay": 0.2}], 0.1)
        for _ in range(9):
            ids = torch.randint(0, 7, (4, 5))
            functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()

    subject = verify.capture(train)
    assert subject.optimizer is not None
    group = subject.optimizer(subject.model()).param_groups[0]
    assert (0.1, 0.2) == (group["lr"], group["decay"])


class ByMethod(nn.Module):
    """A model that is asked for its loss, and calls its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Of the same token."""
        return functional.cross_entropy(self.head(self.embed(ids)).flatten(0, 1), ids.flatten())


def test_a_model_that_is_called_by_a_method_is_whole() -> None:
    """Behavior: the Subject's model is the one whose method calls its parts, and not the parts."""
    model = ByMethod()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train() -> None:
        for _ in range(5):
            model.loss(torch.randint(0, 7, (4, 5))).backward()
            optimizer.step()
            optimizer.zero_grad()

    subject = verify.capture(train)
    assert "ByMethod" == subject.name
    assert isinstance(subject.model(), ByMethod)


@pytest.mark.parametrize("step", [1, 2])
def test_the_step_is_chosen(step: int) -> None:
    """Behavior: `step` counts from 1, where the model is as new."""
    training = Training(steps=2)
    assert "Model" == verify.capture(training, step=step).name
    assert 2 * step - 1 == len(training.losses)


def test_all_goes_on_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    """Behavior: random numbers, words, torch's functions and stdout are as before; what it prints is on stderr."""

    def train() -> None:
        sys.argv = ["other"]
        sys.stdout.write("trains\n")
        Training()()

    torch.manual_seed(5)
    before = torch.get_rng_state(), sys.argv, nn.Module.__call__, Tensor.backward, torch.autograd.backward
    verify.capture(train)
    after = torch.get_rng_state(), sys.argv, nn.Module.__call__, Tensor.backward, torch.autograd.backward
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert ("", "trains\n") == tuple(capsys.readouterr())


def test_a_run_that_is_too_short_is_refused() -> None:
    """Behavior: the steps that it took, and what to say instead; a script that ends itself is one that has ended."""
    with pytest.raises(verify.SubjectError, match=r"ended after 2 steps .* capture\(function, step=2\)"):
        verify.capture(Training(steps=2, ends=sys.exit))
    with pytest.raises(verify.SubjectError, match="called no module with parameters that learn"):
        verify.capture(lambda: None)
    with pytest.raises(verify.SubjectError, match="steps count from 1"):
        verify.capture(Training(), step=0)


def test_what_cannot_be_made_again_is_refused() -> None:
    """Behavior: a loss that no recorded call of a model made is not captured, in words."""

    def train() -> None:
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(4):
            model(torch.zeros(1, 2, dtype=torch.long))
            model.head.weight.sum().backward()
            optimizer.step()

    with pytest.raises(verify.SubjectError, match="cannot be captured: it needs a loss that torch calls make"):
        verify.capture(train)


def test_what_fails_when_it_is_made_again_is_refused() -> None:
    """Behavior: an error of the replay is why nothing is captured, even where the function goes on after errors."""

    class Once(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.own = id(self)

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in torch
            if id(self) != self.own:  # a copy
                raise OSError("read twice")
            return super().forward(input)

    def train() -> None:
        model = Once()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            with contextlib.suppress(Exception):
                model(torch.ones(1, 2)).sum().backward()
            optimizer.step()

    with pytest.raises(verify.SubjectError, match="made again, it raised OSError: read twice"):
        verify.capture(train)


def test_an_error_of_the_function_is_its_own() -> None:
    """Behavior: what it raises comes through, and torch's functions are as before."""
    call = nn.Module.__call__

    def train() -> None:
        raise KeyError("data")

    with pytest.raises(KeyError, match="data"):
        verify.capture(train)
    assert call is nn.Module.__call__


def test_a_fault_of_the_function_is_found() -> None:
    """Behavior: the captured Subject's checks go red for a mask that is missing, and are green with it."""

    class Attends(nn.Module):
        def __init__(self, *, causal: bool) -> None:
            super().__init__()
            self.causal, self.embed, self.mix = causal, nn.Embedding(7, 8), nn.Linear(8, 24)
            self.places, self.head = nn.Embedding(9, 8), nn.Linear(8, 7)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
            q, k, v = self.mix(x).chunk(3, -1)
            return self.head(functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal))

    def train(*, causal: bool) -> None:
        torch.manual_seed(0)
        model = Attends(causal=causal)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(4):
            rows = torch.randint(0, 7, (4, 10))
            ids, labels = rows[:, :-1], rows[:, 1:].contiguous()
            functional.cross_entropy(model(ids).transpose(1, 2), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    clean, faulty = (verify.capture(lambda causal=causal: train(causal=causal)) for causal in (True, False))
    verify.check(clean, only=("attention.causality",)).raise_if_found()
    with pytest.raises(verify.CheckFailed, match="causality"):
        verify.check(faulty, only=("attention.causality",)).raise_if_found()
