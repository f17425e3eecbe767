"""Models that a script calls by a method of theirs."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.verify.capturing.methods import method_around
from andon.verify.capturing.micro_batch import as_subject, capture
from andon.verify.capturing.torch_calls import Recorder
from andon.verify.errors import NotApplicable
from tests.door.recorded import Call, recorded
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


class Squared(torch.autograd.Function):
    """x squared, with a gradient that is what `factor` says times the right one."""

    factor = 2.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Any shape to the same."""
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Its gradient."""
        return gradients[0] * Squared.factor * ctx.saved_tensors[0]


class Language(nn.Module):
    """Has no `forward` that anybody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.seen: list[Any] = []

    def hidden(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, D)."""
        self.seen.append(method_around(self.embed))
        return self.embed(ids)

    def training_loss(self, rows: Tensor) -> Tensor:
        """Of the next token."""
        logits = self.head(Squared.apply(self.hidden(rows[:, :-1])))
        return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


class Run(nn.Module):
    """Holds what it trains, which has nearly all of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.scale = nn.Linear(99, 99), nn.Parameter(torch.ones(1))
        self.found: Any = None

    def train_one(self) -> None:
        """A step."""
        self.found = method_around(self.model)


def test_the_innermost_method_of_a_model_is_found() -> None:
    """Behavior: a method that calls a small part of its model is that model's; one that calls nearly all is not."""
    model, run = Language(), Run()
    model.hidden(torch.ones(2, 3, dtype=torch.long))
    run.train_one()
    (found,) = model.seen
    assert found
    assert (model, Language, "hidden") == tuple(found)
    assert run.found is None


def test_the_parts_of_a_model_are_captured_as_it() -> None:
    """Behavior: calls within a method are the model's own; tokens and labels are cut out of the rows they stand in."""
    torch.manual_seed(0)
    model, rows, recorder = Language(), torch.randint(11, (4, 6)), Recorder()
    recorder.models.append(model)
    recorder.before[id(model)] = model

    def called(module: nn.Module, *args: Any) -> Any:
        return recorder.call(module, nn.Module.__call__, args, {})

    with recorder:
        logits = called(model.head, Squared.apply(called(model.embed, rows[:, :-1])))
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    subject = as_subject(capture(recorder, loss, None))
    batch = subject.batch(torch.Generator())
    assert {"input": (4, 5), "labels": (4, 5)} == {name: tuple(each.shape) for name, each in batch.items()}
    assert isinstance(subject.model(), Language)
    assert float(loss.detach()) == float(subject.loss(subject.model(), batch).detach())


def test_a_backward_pass_of_ones_own_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the gradient of a capture is the one that the script's own function gives, right or wrong."""
    recorder, head, x = Recorder(), nn.Linear(3, 1), torch.randn(5, 3)
    recorder.before[id(head)] = head
    with recorder:
        loss = Squared.apply(recorder.call(head, nn.Module.__call__, (x,), {})).sum()
    subject = as_subject(capture(recorder, loss, None))
    (right, wrong) = [], []
    for factor, gradients in ((2.0, right), (1.0, wrong)):
        monkeypatch.setattr(Squared, "factor", factor)
        model = subject.model()
        subject.loss(model, subject.batch(torch.Generator())).backward()
        gradients.append(model.weight.grad)
    assert torch.equal(right[0], 2 * wrong[0])


class Mean(torch.autograd.Function):
    """A sum over a count that its caller has computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        """A scalar."""
        ctx.shape, ctx.count = x.shape, count
        return x.sum() / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The same for each entry."""
        return gradients[0].expand(ctx.shape) / ctx.count, None


@pytest.mark.parametrize("model", [nn.Embedding(7, 1), nn.Linear(5, 1)])
def test_a_count_from_outside_is_not_held_to_other_batches(model: nn.Module) -> None:
    """Behavior: a divisor that was computed before its function is called fits the captured batch alone."""

    def loss_of(call: Call, given: Tensor) -> Tensor:
        return Mean.apply(call(given), int((given != -100).sum()))

    given = torch.randint(7, (4, 5)) if isinstance(model, nn.Embedding) else torch.randn(4, 5)
    subject = as_subject(recorded(model, loss_of, given))
    assert torch.isfinite(subject.loss(subject.model(), {"input": given.flip(0)}))
    with pytest.raises(NotApplicable, match="divisor"):
        subject.loss(subject.model(), {"input": given[:2]})


def test_a_label_that_is_ignored_is_no_count() -> None:
    """Behavior: -100, given to a function with a backward pass of its own, keeps no batch from being asked."""

    def loss_of(call: Call, ids: Tensor) -> Tensor:
        return Mean.apply(call(ids), -100)

    model, ids = nn.Embedding(7, 1), torch.randint(7, (4, 5))
    subject = as_subject(recorded(model, loss_of, ids))
    assert torch.isfinite(subject.loss(subject.model(), {"input": ids[:2]}))


def test_a_loss_without_names_of_arguments_is_only_recorded() -> None:
    """Behavior: `torch.kl_div` is a call like others; that of torch.nn.functional is noted as a likelihood, too."""
    with Recorder() as recorder:
        torch.kl_div(torch.zeros(3), torch.ones(3))
        functional.kl_div(torch.zeros(3), torch.ones(3), reduction="sum")
    assert ["kl_div"] == [each.name for each in recorder.likelihoods]
    assert 2 == [each.name for each in recorder.entries].count("kl_div")


def test_another_threads_functions_are_not_recorded() -> None:
    """Behavior: a backward pass of one's own that another thread calls is none of the recorded calls."""
    x = torch.ones(3)
    with Recorder() as recorder:
        thread = threading.Thread(target=Squared.apply, args=(x,))
        thread.start()
        thread.join()
        assert [] == recorder.entries
        Squared.apply(x)
    assert 1 == len(recorder.entries)


class Called(nn.Module):
    """Its parts' calls are watched; `train_one` may go on to a step."""

    def __init__(self, watching: Watching) -> None:
        super().__init__()
        self.embed, self.head, self.watching = nn.Embedding(11, 8), nn.Linear(8, 11), watching

    def loss(self, ids: Tensor) -> Tensor:
        """Of the same token."""
        logits = self.watching.call(self.head, self.watching.call(self.embed, ids))
        return functional.cross_entropy(logits.flatten(0, 1), ids.flatten())

    def train_one(self, ids: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """A loop's body, within a method."""
        logits = self.watching.call(self.head, self.watching.call(self.embed, ids))
        self.watching.step(optimizer, functional.cross_entropy(logits.flatten(0, 1), ids.flatten()))


@pytest.mark.parametrize("trains", [False, True])
def test_a_method_is_its_models_pass(trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: from its second call on a method is a pass of its model; one that trains is none, and hides nothing."""
    for name in ("loss", "train_one"):
        monkeypatch.setattr(Called, name, vars(Called)[name])  # put back what the watch leaves
    watching = Watching()
    model, ids = Called(watching), torch.randint(11, (4, 5))
    optimizer = watching.optimizer(model.parameters())
    for _ in range(6):
        model.train_one(ids, optimizer) if trains else watching.step(optimizer, model.loss(ids))
    passes = [each for each in watching.run.passes.values() if id(model) in each.modules]
    parts = sum(each.trained for each in watching.run.passes.values() if id(model.head) in each.modules)
    assert ((1, 10) if trains else (5, 2)) == (sum(each.count for each in passes), parts)
    assert model in watching.run.owners.values()
    assert bool(watching.run.loops) == trains
