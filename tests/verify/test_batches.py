"""Batches made of other batches, and what is inferred of a subject that says little."""

import pytest
import torch
from torch import nn

from tests.verify import strangers
from verify.access import ignored_label, logits_of, new_batch, new_model, targets_of, with_targets
from verify.batches import cut, documents_in, few, other_tokens, rows_of, spread
from verify.failure import NotApplicable
from verify.prepare import awake, dropout_rates, without_dropout
from verify.subject import Subject

pytestmark = pytest.mark.tier2


def test_a_shorter_batch_is_shorter_in_every_part() -> None:
    """Behaviour: (B, T) and (B, 1, T, T) are cut, what has no such dimension is kept."""
    subject = strangers.library()
    batch = {"input_ids": torch.ones(2, 6).long(), "bias": torch.ones(2, 1, 6, 6), "temperature": torch.ones(2)}
    shorter = cut(subject, batch, 4)
    assert [(2, 4), (2, 1, 4, 4), (2,)] == [tuple(part.shape) for part in shorter.values()]
    assert [3, 3, 3] == [len(part) for part in rows_of(subject, batch, [1, 0, 1]).values()]


def test_other_tokens_are_known_and_others() -> None:
    """Behaviour: each token becomes another one of the batch; one word alone has no other."""
    tokens = torch.tensor([[3, 9, 9], [4, 3, 4]])
    changed = other_tokens(tokens)
    assert not bool((changed == tokens).any())
    assert {3, 4, 9} >= set(changed.flatten().tolist())
    with pytest.raises(NotApplicable):
        other_tokens(torch.full((2, 2), 5))


def test_positions_that_start_anew_begin_documents() -> None:
    """Behaviour: a batch without document numbers has them from its positions."""
    batch = {"input_ids": torch.ones(1, 5).long(), "position_ids": torch.tensor([[0, 1, 0, 1, 2]])}
    assert [[0, 0, 1, 1, 1]] == documents_in(strangers.library(), batch).tolist()


def test_a_large_batch_is_made_small() -> None:
    """Behaviour: large models are asked about some rows and their beginning."""

    def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(0, 9, (16, 1025), generator=generator)
        return ids[:, :-1], ids[:, 1:]

    subject = Subject(model=nn.Identity, batch=batch, loss=lambda model, batch: batch[0].sum())
    assert [(4, 128), (4, 128)] == [tuple(part.shape) for part in few(subject)]


def test_logits_and_the_ignored_label_are_found() -> None:
    """Behaviour: a model that returns the last logits alone has the others from its head, and its label is -1."""
    subject = strangers.gpt()
    model, batch = new_model(subject).eval(), new_batch(subject)
    logits = logits_of(subject, model, batch)
    assert (strangers.ROWS, strangers.LENGTH, strangers.VOCAB) == logits.shape
    torch.testing.assert_close(model(*batch)[0], logits)
    assert ignored_label(subject, batch) == -1


def test_targets_are_put_back_where_the_loss_looks() -> None:
    """Behaviour: for a loss that shifts, targets and labels differ by one place, and padding stays out."""
    subject = strangers.library()
    batch = new_batch(subject)
    assert torch.equal(batch["labels"][:, 1:], targets_of(subject, batch)[:, :-1])
    again = with_targets(subject, batch, targets_of(subject, batch))
    assert torch.equal(again["labels"][:, 1:], batch["labels"][:, 1:])


def test_an_awake_model_has_wide_matrices_and_no_dropout_when_asked() -> None:
    """Behaviour: matrices grow to std 1/sqrt(inputs); dropout rates become 0."""
    model = awake(strangers.gpt())
    assert all(float(p.detach().std()) > 0.9 * p.shape[1] ** -0.5 for p in model.parameters() if p.dim() == 2)
    assert max(dropout_rates(model)) == pytest.approx(0.1)
    assert max(dropout_rates(without_dropout(model))) == 0


def test_what_is_looked_at_is_spread_evenly() -> None:
    """Behaviour: the first and the last are among them."""
    assert [0, 1, 2] == spread(3, 5)
    assert [0, 3, 6, 9] == spread(10, 4)
