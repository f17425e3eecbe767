"""What a subject's own pass shows: its tokens, and the cross-entropy that its loss is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.verify import Subject
from andon.verify.access.calls import new_batch
from andon.verify.access.facts import facts_of
from andon.verify.access.parts import find
from andon.verify.access.targets import (
    predicts_next,
    require_cross_entropy,
    require_plain,
    require_value,
    shown_targets,
    tokens_of,
)
from andon.verify.errors import NotApplicable, SubjectError

pytestmark = pytest.mark.tier2
WORDS = 31


def words(generator: torch.Generator) -> dict[str, Tensor]:
    """Rows of words, and the words that follow."""
    rows = torch.randint(WORDS, (3, 8), generator=generator)
    return {"line": rows[:, :-1].contiguous(), "wanted": rows[:, 1:].contiguous()}


def model() -> nn.Module:
    """Logits of each word alone."""
    return nn.Sequential(nn.Embedding(WORDS, 12), nn.Linear(12, WORDS))


def mean(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Torch's own cross-entropy."""
    return functional.cross_entropy(net(batch["line"]).flatten(0, 1), batch["wanted"].flatten())


def subject(loss: Callable[[nn.Module, Any], Tensor] = mean, **parts: Any) -> Subject:
    """The model under a loss."""
    given: dict[str, Any] = {"model": model, "batch": words, "loss": loss, "roles": {"labels": "wanted"}}
    given |= parts
    return Subject(**given)


def logits_and_labels(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What torch's own takes."""
    return net(batch["line"]).flatten(0, 1), batch["wanted"].flatten()


def by_hand(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The same, from logsumexp."""
    logits, labels = logits_and_labels(net, batch)
    return (logits.logsumexp(-1) - logits.gather(-1, labels[:, None])[:, 0]).mean()


def of_moved_classes(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Classes in the second dimension, as torch has sequences."""
    return functional.cross_entropy(net(batch["line"]).mT, batch["wanted"])


def smoothed(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Targets of which a tenth is spread."""
    return functional.cross_entropy(*logits_and_labels(net, batch), label_smoothing=0.1)


def weighed(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Some words matter more."""
    logits, labels = logits_and_labels(net, batch)
    return functional.cross_entropy(logits, labels, weight=torch.linspace(0.5, 2, WORDS))


def with_penalty(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """A decay within the loss."""
    return mean(net, batch) + 0.01 * sum(p.square().sum() for p in net.parameters())


def focal(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What is known already weighs less (Lin et al. 2017)."""
    nll = functional.cross_entropy(*logits_and_labels(net, batch), reduction="none")
    return ((1 - (-nll).exp()).square() * nll).mean()


def squared(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """No targets at all."""
    return net(batch["line"]).square().mean()


@pytest.mark.parametrize("loss", [mean, by_hand, of_moved_classes, smoothed, weighed, with_penalty, focal])
def test_a_cross_entropy_is_read_off_the_gradient(loss: Callable[..., Tensor]) -> None:
    """Behavior: however it is written, smoothed, weighed or added to, the gradient shows each target."""
    targets = shown_targets(subject(loss))
    assert targets is not None
    assert torch.equal(words(torch.Generator().manual_seed(0))["wanted"], targets)


def test_another_loss_shows_no_cross_entropy() -> None:
    """Behavior: what is no cross-entropy of its logits is not taken for one, and what would say it is named."""
    assert facts_of(subject(squared)).cross_entropy is None
    with pytest.raises(NotApplicable, match="objective='cross_entropy'"):
        require_cross_entropy(subject(squared))
    require_cross_entropy(subject(squared, objective="cross_entropy"))


@pytest.mark.parametrize("loss", [smoothed, weighed, with_penalty, focal])
def test_a_cross_entropy_that_is_more_is_not_plain(loss: Callable[..., Tensor]) -> None:
    """Behavior: smoothing, weights and further terms are told from the plain mean."""
    require_plain(subject())
    with pytest.raises(NotApplicable, match="nothing but the mean"):
        require_plain(subject(loss))


def test_smoothing_and_weights_are_numbers() -> None:
    """Behavior: the share that is smoothed, and each label's weight, come out as they were put in."""
    shown = facts_of(subject(smoothed)).cross_entropy
    assert shown is not None
    assert shown.smoothing == pytest.approx(0.1, abs=1e-3)
    assert shown.weights.flatten().tolist() == pytest.approx([1 / 21] * 21, rel=1e-3)


class Fused(torch.autograd.Function):
    """Logits and their cross-entropy in one, which nobody sees."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """The mean loss."""
        with torch.enable_grad():
            inputs = [each.detach().requires_grad_() for each in (states, weight)]
            loss = functional.cross_entropy(inputs[0] @ inputs[1].T, labels)
        ctx.save_for_backward(*torch.autograd.grad(loss, inputs))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of states and weight."""
        of_states, of_weight = ctx.saved_tensors
        return grads[0] * of_states, grads[0] * of_weight, None


def test_a_kernels_cross_entropy_is_known_by_its_value() -> None:
    """Behavior: where no logits are seen, the loss's value beside what the model returns shows it."""

    def fused(net: Any, batch: dict[str, Tensor]) -> Tensor:
        return Fused.apply(net[0](batch["line"]).flatten(0, 1), net[1].weight, batch["wanted"].flatten())

    made = subject(
        fused,
        model=lambda: nn.Sequential(nn.Embedding(WORDS, 12), nn.Linear(12, WORDS, bias=False)),
        logits=lambda net, batch: net(batch["line"]),
    )
    assert facts_of(made).cross_entropy is None
    require_value(made)
    with pytest.raises(NotApplicable):
        require_value(replace(made, loss=lambda net, batch: 2 * fused(net, batch)))


class Faint(nn.Module):
    """Logits that are next to alike: each mean of some labels' cross-entropies is next to ln V."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = model()

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return 1e-3 * self.layers(ids)


def test_a_loss_of_other_labels_is_not_known_by_its_value() -> None:
    """Behavior: where its gradient shows that more labels count than were found, a mean that is near is chance."""
    made = subject(model=Faint, roles={"tokens": "line"})
    assert "labels" not in find(made, new_batch(made))
    assert facts_of(made).cross_entropy is not None
    with pytest.raises(NotApplicable):
        require_value(made)


def test_tokens_are_what_looks_up_an_embedding() -> None:
    """Behavior: a part is tokens as its numbers pick rows of a table, whatever it is called."""
    assert find(subject(), new_batch(subject()))["tokens"] == "line"

    def series(generator: torch.Generator) -> dict[str, Tensor]:
        return {"input_ids": torch.randint(9, (3, 8), generator=generator), "labels": torch.ones(3, 8).long()}

    counted = Subject(
        model=lambda: nn.Linear(8, 1), batch=series, loss=lambda net, batch: net(batch["input_ids"].float()).mean()
    )
    with pytest.raises(NotApplicable, match="tokens in the batch"):
        tokens_of(counted, new_batch(counted))


def test_numbers_are_followed_on_their_way_to_the_table() -> None:
    """Behavior: ids that are offset, sliced and stacked before the lookup are still the batch's."""

    def loss(net: Any, batch: dict[str, Tensor]) -> Tensor:
        moved = torch.stack([batch["line"][:, :-1], batch["line"][:, 1:]]) % WORDS
        return net(moved).square().mean()

    assert facts_of(subject(loss)).indexed == ("line",)


def test_columns_that_are_sequences_are_refused() -> None:
    """Behavior: of (T, B) batches no row is a sequence, and checks that change rows do not apply."""

    def columns(generator: torch.Generator) -> dict[str, Tensor]:
        return {key: value.T.contiguous() for key, value in words(generator).items()}

    with pytest.raises(NotApplicable, match="here columns are"):
        shown_targets(subject(batch=columns))


def hidden(generator: torch.Generator) -> dict[str, Tensor]:
    """Words of which some are hidden, and are what is wanted."""
    rows = torch.randint(1, WORDS, (3, 8), generator=generator)
    covered = torch.rand(rows.shape, generator=generator) < 0.3
    return {"line": rows.masked_fill(covered, 0), "wanted": rows.masked_fill(~covered, -100)}


def test_what_is_predicted_is_measured() -> None:
    """Behavior: a model of the next token is causal without being said to be, a masked one is not."""
    assert predicts_next(subject())
    assert not predicts_next(subject(batch=hidden))
    assert predicts_next(subject(batch=hidden, causal=True))


def test_an_objective_that_is_not_known_is_refused() -> None:
    """Behavior: a misspelled objective is an error that names what is known."""
    with pytest.raises(SubjectError, match="known is 'cross_entropy'"):
        subject(objective="crossentropy")


class Placed(nn.Module):
    """Logits of words and positions, from two tables."""

    def __init__(self, places: int = 9) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(WORDS, 12), nn.Embedding(places, 12), nn.Linear(12, WORDS)

    def forward(self, line: Tensor, where: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.head(self.words(line) + self.places(where))


def packed(generator: torch.Generator) -> dict[str, Tensor]:
    """Rows of two documents of words, which are numbered, and whose positions begin anew."""
    where = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1]])
    which = torch.tensor([[5, 5, 5, 6, 6, 6, 6], [2, 2, 2, 2, 2, 3, 3]])
    line = torch.randint(WORDS, (2, 8), generator=generator)
    return {"where": where, "which": which, "line": line[:, :-1].contiguous(), "wanted": line[:, 1:].contiguous()}


def placed(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of words at their places."""
    return functional.cross_entropy(net(batch["line"], batch["where"]).flatten(0, 1), batch["wanted"].flatten())


def test_parts_of_a_packed_batch_are_told_by_what_they_do() -> None:
    """Behavior: of two parts that look up tables tokens are what is predicted; positions and documents are numbers."""
    told = subject(placed, model=Placed, batch=packed)
    found = find(told, new_batch(told))
    assert {"tokens": "line", "positions": "where", "documents": "which", "labels": "wanted"} == found


def test_tokens_have_a_row_for_each_class() -> None:
    """Behavior: where targets are other words than the tokens, the table's size tells; of two of one size, nothing."""

    def other(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return placed(net, {**batch, "wanted": (batch["wanted"] + 5) % WORDS})

    told = subject(other, model=Placed, batch=packed)
    assert find(told, new_batch(told))["tokens"] == "line"
    untold = subject(other, model=lambda: Placed(WORDS), batch=packed)
    assert "tokens" not in find(untold, new_batch(untold))


def test_what_is_predicted_at_its_own_place_is_no_token() -> None:
    """Behavior: actions that a model predicts where they stand, as decision transformers do, are not what it reads."""

    def actions(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return placed(net, {**batch, "wanted": batch["line"]})

    told = subject(actions, model=Placed, batch=packed)
    assert "tokens" not in find(told, new_batch(told))
