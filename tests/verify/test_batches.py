"""Batches made of other batches, and what is inferred of a subject that says little."""

import random
import sys
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from andon.verify import check
from andon.verify.access.batches import (
    evenly_spaced,
    first_positions,
    other_tokens,
    real_in,
    rows_of,
    small_batch,
)
from andon.verify.access.calls import needed, new_batch, new_model, seeded
from andon.verify.access.documents import documents_in, one_document
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.logits import logits_of
from andon.verify.access.roles import IGNORE, fields, replaced
from andon.verify.access.targets import ignored_label, targets_of, with_targets
from andon.verify.errors import NotApplicable
from andon.verify.observation.perturb import dropout_rates, without_dropout
from andon.verify.observation.protect import protected
from andon.verify.observation.tolerances import distance
from andon.verify.subject import Batch, Subject
from tests.verify import foreign_models, loops
from tests.verify.small import small

pytestmark = pytest.mark.tier2


def test_a_shorter_batch_is_shorter_in_every_part() -> None:
    """Behavior: (B, T) and (B, 1, T, T) are cut, what has no such dimension is kept."""
    subject = foreign_models.library()
    batch = {"input_ids": torch.ones(2, 6).long(), "bias": torch.ones(2, 1, 6, 6), "temperature": torch.ones(2)}
    shorter = first_positions(subject, batch | {"places": torch.arange(6)}, 4)
    assert [(2, 4), (2, 1, 4, 4), (2,), (4,)] == [tuple(part.shape) for part in shorter.values()]
    assert [3, 3, 3] == [len(part) for part in rows_of(subject, batch, [1, 0, 1]).values()]


def test_other_tokens_are_known_and_others() -> None:
    """Behavior: each token becomes another one of the batch; one word alone has no other."""
    tokens = torch.tensor([[3, 9, 9], [4, 3, 4]])
    changed = other_tokens(tokens)
    assert not bool((changed == tokens).any())
    assert {3, 4, 9} >= set(changed.flatten().tolist())
    with pytest.raises(NotApplicable):
        other_tokens(torch.full((2, 2), 5))


def test_positions_that_start_anew_begin_documents() -> None:
    """Behavior: a batch without document numbers has them from its positions."""
    batch = {"input_ids": torch.ones(1, 5).long(), "position_ids": torch.tensor([[0, 1, 0, 1, 2]])}
    assert [[0, 0, 1, 1, 1]] == documents_in(foreign_models.library(), batch).tolist()


def test_a_large_batch_is_made_small() -> None:
    """Behavior: large models are run on some rows and their beginning."""

    def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(0, 9, (16, 1025), generator=generator)
        return ids[:, :-1], ids[:, 1:]

    subject = Subject(model=nn.Identity, batch=batch, loss=lambda model, batch: batch[0].sum(), roles={"tokens": 0})
    assert [(4, 128), (4, 128)] == [tuple(part.shape) for part in small_batch(subject)]


def test_logits_and_the_ignored_label_are_found() -> None:
    """Behavior: a model that returns the last logits alone has the others from its head, and its label is -1."""
    subject = foreign_models.gpt()
    model, batch = new_model(subject).eval(), new_batch(subject)
    logits = logits_of(subject, model, batch)
    assert (foreign_models.ROWS, foreign_models.LENGTH, foreign_models.VOCAB) == logits.shape
    torch.testing.assert_close(model(*batch)[0], logits)
    assert ignored_label(subject, batch) == -1


def test_targets_are_put_back_where_the_loss_looks() -> None:
    """Behavior: for a loss that shifts, targets and labels differ by one place, and padding stays out."""
    subject = foreign_models.library()
    batch = new_batch(subject)
    assert torch.equal(batch["labels"][:, 1:], targets_of(subject, batch)[:, :-1])
    again = with_targets(subject, batch, targets_of(subject, batch))
    assert torch.equal(again["labels"][:, 1:], batch["labels"][:, 1:])


def test_a_perturbed_model_has_wide_matrices_and_no_dropout_where_wanted() -> None:
    """Behavior: matrices grow to std 1/sqrt(inputs); dropout rates become 0."""
    model = perturbed_model(foreign_models.gpt())
    assert all(float(p.detach().std()) > 0.9 * p.shape[1] ** -0.5 for p in model.parameters() if p.dim() == 2)
    assert max(dropout_rates(model)) == pytest.approx(0.1)
    assert max(dropout_rates(without_dropout(model))) == 0


def test_what_is_looked_at_is_spread_evenly() -> None:
    """Behavior: the first and the last are among them."""
    assert [0, 1, 2] == evenly_spaced(3, 5)
    assert [0, 3, 6, 9] == evenly_spaced(10, 4)


def test_rows_of_parts_that_have_none_are_nobodys() -> None:
    """Behavior: offsets into a packed batch cannot be given other rows."""
    batch = {"input_ids": torch.ones(2, 6).long(), "offsets": torch.arange(4)}
    with pytest.raises(NotApplicable, match=r"'offsets' has shape \(4,\)"):
        rows_of(foreign_models.library(), batch, [0])


def test_a_large_batch_whose_labels_say_nothing_is_made_small_all_the_same() -> None:
    """Behavior: where targets cannot be told, the beginnings of some rows are taken."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(0, 9, (16, 1024), generator=generator)
        return {"input_ids": ids, "labels": (3 * ids + 1) % 9}

    subject = Subject(
        model=nn.Identity,
        batch=batch,
        loss=lambda model, batch: batch["input_ids"].sum(),
        roles={"tokens": "input_ids"},
    )
    assert [(4, 128), (4, 128)] == [tuple(part.shape) for part in small_batch(subject).values()]


def test_parts_of_other_shapes_say_nothing_of_positions() -> None:
    """Behavior: a mask, documents and positions that are no (B, T) leave all tokens real, in one document."""
    other = {"attention_mask": torch.zeros(2, 1), "document_ids": torch.arange(2), "position_ids": torch.zeros(1, 5)}
    batch = {"input_ids": torch.ones(2, 5).long(), **other}
    assert bool(real_in(foreign_models.library(), batch).all())
    assert not bool(documents_in(foreign_models.library(), batch).any())


def test_positions_of_one_document_go_on() -> None:
    """Behavior: positions that start anew run through once a row is one document."""
    batch = {"input_ids": torch.ones(1, 5).long(), "position_ids": torch.tensor([[0, 1, 0, 1, 2]])}
    assert [[0, 1, 2, 3, 4]] == one_document(foreign_models.library(), batch)["position_ids"].tolist()


def test_what_a_part_says_is_counted_is_counted() -> None:
    """Behavior: targets follow a loss mask, and other targets are put into labels and mask."""
    tokens = torch.tensor([[3, 4, 5, 6]])
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": torch.tensor([[0.0, 1.0, 1.0]])}
    targets = targets_of(small(), batch)
    assert [[IGNORE, 5, 6]] == targets.tolist()
    other = with_targets(small(), batch, targets.index_fill(1, torch.tensor([2]), IGNORE))
    assert [[0.0, 1.0, 0.0]] == other["loss_mask"].tolist()
    assert int(other["labels"].min()) >= 0


@pytest.mark.parametrize(
    ("call", "need"),
    [
        (lambda tokens: with_targets(small(), {"tokens": tokens}, tokens), "labels in the batch"),
        (lambda _: needed(small(), "lr_at"), "lr_at"),
    ],
    ids=["labels", "factory"],
)
def test_what_is_lacking_is_not_applicable(call: Callable[[Tensor], Any], need: str) -> None:
    """Behavior: targets for a batch without labels, and a factory that the subject has not, are refused by name."""
    with pytest.raises(NotApplicable, match=need):
        call(torch.ones(1, 3).long())


@pytest.mark.parametrize("make", [foreign_models.packing, loops.trainer], ids=["packing", "trainer"])
def test_logits_are_those_that_the_subject_would_name(make: Any) -> None:
    """Behavior: of a batch of several parts, and of a model that returns a mapping, logits are found without help."""
    subject = make()
    model, batch = new_model(subject).eval(), new_batch(subject)
    torch.testing.assert_close(logits_of(replace(subject, logits=None), model, batch), logits_of(subject, model, batch))


@dataclass
class Parts:
    """A batch as a dataclass."""

    tokens: Tensor
    labels: Tensor


class Encoding(UserDict[str, Tensor]):
    """As Hugging Face's: a copy shares what it holds."""

    def __copy__(self) -> "Encoding":
        made = Encoding()
        made.data = self.data
        return made


ONES, TWOS = torch.ones(1, 2), 2 * torch.ones(1, 2)


@pytest.mark.parametrize(
    ("batch", "key"),
    [(ONES, 0), ((ONES, ONES), 1), (Parts(ONES, ONES), "labels"), (Encoding({"labels": ONES}), "labels")],
    ids=["tensor", "tuple", "dataclass", "encoding"],
)
def test_a_part_of_any_batch_can_be_exchanged(batch: Batch, key: Any) -> None:
    """Behavior: the batch has the type it had and another part, and the one that was given stays as it is."""
    other = replaced(batch, {key: TWOS})
    assert type(other) is type(batch)
    assert torch.equal(TWOS, fields(other)[key])
    assert torch.equal(ONES, fields(batch)[key])


@pytest.mark.parametrize("numpy", [True, False])
def test_random_numbers_go_on_as_if_none_had_been_drawn(numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: one seed gives the same numbers, with numpy and without, and those outside are not touched."""
    if not numpy:
        monkeypatch.delitem(sys.modules, "numpy")
    before = random.getstate(), torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(3):
            drawn.append((random.random(), float(torch.rand(()))))
    assert drawn[0] == drawn[1]
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())


def test_threads_are_put_back() -> None:
    """Behavior: a check that changes how many threads torch uses changes it for itself alone."""
    threads = torch.get_num_threads()
    with protected():
        torch.set_num_threads(threads + 1)
    assert threads == torch.get_num_threads()


def test_nothing_is_at_no_distance_from_nothing() -> None:
    """Behavior: empty tensors are alike."""
    assert 0.0 == distance(torch.ones(0), torch.ones(0))


@dataclass
class Keyed:
    """A batch with a field that a mapping's method is called like."""

    tokens: Tensor
    labels: Tensor
    keys: Tensor


class KeyedTuple(NamedTuple):
    """The same as a named tuple."""

    tokens: Tensor
    labels: Tensor
    keys: Tensor


@pytest.mark.parametrize("kind", [Keyed, KeyedTuple])
def test_a_field_called_keys_makes_no_mapping(kind: type[Keyed] | type[KeyedTuple]) -> None:
    """Behavior: the fields are read and exchanged by name, and the whole suite runs on such a batch."""

    def made(generator: torch.Generator) -> Keyed | KeyedTuple:
        given = small().batch(generator)
        return kind(given["tokens"], given["labels"], torch.zeros_like(given["tokens"]))

    one = made(torch.Generator())
    assert ["tokens", "labels", "keys"] == list(fields(one))
    assert 7 == int(replaced(one, {"keys": torch.tensor(7)}).keys)
    subject = small(
        batch=made, loss=lambda model, given: small().loss(model, {"tokens": given.tokens, "labels": given.labels})
    )
    assert ("loss.definition",) == check(subject, only=["loss.definition"]).passed
