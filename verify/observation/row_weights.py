"""How a loss weighs what it is the mean of: measured, before any step is held to it.

The losses of several batches, and of all their rows in one batch, tell which share each has; where no shares explain
them, rows act on each other (batch norm, a contrastive loss), and no sum of parts is the whole.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import loss_of, new_model, seeded
from andon.verify.access.larger_weights import sharpened
from andon.verify.access.roles import fields, replaced
from andon.verify.access.targets import tokens_of
from andon.verify.errors import NotApplicable
from andon.verify.observation.half_precision import has_halves
from andon.verify.observation.micro_batches import weight_of
from andon.verify.observation.parameters import buffers_of, put_back
from andon.verify.observation.perturb import without_dropout
from andon.verify.subject import Batch, Subject

ALIKE = 3e-5  # of the largest loss: what kernels of another batch size round otherwise
HALF = 2e-2  # the same, of weights in half precision
PAIRS = 6  # that are looked at: in the mean of many, wrong shares come out right
APART = 1e-2  # of the largest loss, that losses must differ by to tell their shares

Losses = Callable[[Batch], float]


def shares_of(subject: Subject, batches: Sequence[Batch], wholes: Sequence[Batch] = ()) -> list[float]:
    """Each batch's share of the loss of all of them, as the loss itself weighs them.

    By its counted tokens or by its rows, whichever the loss of all rows together shows; else as the losses of pairs
    show. Batches of unlike shapes cannot be joined: then halves of `wholes`, or of these, tell tokens from rows.

    Raises:
        NotApplicable: no shares explain the losses: rows depend on each other, or there are too few to tell.
    """
    whole = joined(subject, batches)
    if whole is None:
        weigh = _of_halves(subject, wholes or batches, *next(_measures(subject)))
        return _normal([weigh(batch) for batch in batches])
    for losses, tolerance in _measures(subject):
        shares = _explaining(subject, batches, losses, losses(whole), tolerance)
        if shares is not None:
            return shares
    raise NotApplicable("a loss that is a mean over its rows or tokens (by the losses of parts and of the whole)")


def joined(subject: Subject, batches: Sequence[Batch]) -> Batch | None:
    """One batch with the rows of all; None where their other sizes, or what is no tensor, differ."""
    parts, counts = [fields(batch) for batch in batches], [row_count(subject, batch) for batch in batches]
    changes: dict[str | int, Any] = {}
    for key in parts[0]:
        values = [each.get(key) for each in parts]
        if _are_rows(values, counts):
            changes[key] = torch.cat(values)
        elif not all(_is_same(value, values[0]) for value in values):
            return None
    return replaced(batches[0], changes) if changes else None


def row_count(subject: Subject, batch: Batch) -> int:
    """How many rows a batch has: of its tokens, or of its longest part where it has none."""
    try:
        return len(tokens_of(subject, batch))
    except NotApplicable:
        sizes = [len(value) for value in fields(batch).values() if isinstance(value, Tensor) and value.dim()]
        if not sizes:
            raise
        return max(sizes)


def is_drawn(subject: Subject, model: nn.Module, batch: Batch) -> bool:
    """Whether the loss of this model, in its mode, depends on torch's seed."""
    return _loss(subject, model, batch, 0) != _loss(subject, model, batch, 1)


def _are_rows(values: list[Any], counts: Sequence[int]) -> TypeGuard[list[Tensor]]:
    """Whether each is a tensor of as many rows as its batch has, and the rows are of one size."""
    if not all(isinstance(value, Tensor) and value.dim() for value in values):
        return False
    return [len(value) for value in values] == list(counts) and len({value.shape[1:] for value in values}) == 1


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return one is other or bool(one == other)


def _explaining(
    subject: Subject, batches: Sequence[Batch], losses: Losses, together: float, tolerance: float
) -> list[float] | None:
    """The shares that explain the loss of all batches together, and those of pairs of them; None where none do."""
    alone = [losses(batch) for batch in batches]
    allowed = tolerance * max(map(abs, alone))
    pairs = [(other, _pair(subject, batches, other, losses)) for other in range(1, len(batches))[:PAIRS]]
    ways = [_normal([weigh(batch) for batch in batches]) for weigh in _ways(subject, batches)]
    for shares in [*ways, *_of_pairs(subject, batches, losses, alone)]:
        found = [(together, _mean(alone, shares))]
        found += [(both, _mean_of_two(alone, shares, other)) for other, both in pairs]
        if all(abs(one - other) <= allowed for one, other in found):
            return shares
    return None


def _measures(subject: Subject) -> Generator[tuple[Losses, float]]:
    """Losses of a model whose losses differ from row to row, then of the model as it is; each with its tolerance."""
    for change in (sharpened, nn.Module.train):
        model = without_dropout(change(new_model(subject)).train())
        yield _losses(subject, model), HALF if has_halves(model) else ALIKE


def _losses(subject: Subject, model: nn.Module) -> Losses:
    def losses(batch: Batch) -> float:
        if is_drawn(subject, model, batch):
            model.eval()
        return _loss(subject, model, batch, 0)

    return losses


def _loss(subject: Subject, model: nn.Module, batch: Batch, seed: int) -> float:
    held = buffers_of(model)
    with seeded(seed):
        value = float(loss_of(subject, model, batch).detach())
    put_back(model, held)
    return value


def _ways(subject: Subject, batches: Sequence[Batch]) -> list[Callable[[Batch], float]]:
    """Counted tokens, or their weights, where they can be told, and rows."""

    def tokens(batch: Batch) -> float:
        return weight_of(subject, batch)

    def rows(batch: Batch) -> float:
        return float(row_count(subject, batch))

    try:
        return [tokens, rows] if all(tokens(batch) for batch in batches) else [rows]
    except NotApplicable:
        return [rows]


def _of_halves(
    subject: Subject, batches: Sequence[Batch], losses: Losses, tolerance: float
) -> Callable[[Batch], float]:
    """Tokens or rows, whichever explains the loss of each batch by those of its halves."""
    batches = [batch for batch in batches if row_count(subject, batch) > 1]
    for weigh in _ways(subject, batches) if batches else []:
        if all(_is_of_halves(subject, batch, weigh, losses, tolerance) for batch in batches):
            return weigh
    raise NotApplicable("batches of several rows whose loss is the mean of their halves', by tokens or by rows")


def _is_of_halves(
    subject: Subject, batch: Batch, weigh: Callable[[Batch], float], losses: Losses, tolerance: float
) -> bool:
    count = row_count(subject, batch)
    halves = [rows_of(subject, batch, range(count // 2)), rows_of(subject, batch, range(count // 2, count))]
    weights = [weigh(half) for half in halves]
    if not all(weights):
        return True  # a half without a label says nothing
    alone = [losses(half) for half in halves]
    return abs(_mean(alone, _normal(weights)) - losses(batch)) <= tolerance * max(map(abs, alone))


def _of_pairs(
    subject: Subject, batches: Sequence[Batch], losses: Losses, alone: Sequence[float]
) -> Generator[list[float]]:
    """Shares by the loss of the first batch beside each other one, (w L + v M) / (w + v); none where they say none."""
    weights = [1.0]
    for other, loss in enumerate(alone[1:], start=1):
        if abs(loss - alone[0]) < APART * max(map(abs, alone)):
            return
        both = _pair(subject, batches, other, losses)
        weights.append((alone[0] - both) / (both - loss) if both != loss else 0.0)
    if min(weights) > 0:
        yield _normal(weights)


def _pair(subject: Subject, batches: Sequence[Batch], other: int, losses: Losses) -> float:
    """The loss of the first batch and another one together."""
    return losses(joined(subject, [batches[0], batches[other]]))


def _mean_of_two(alone: Sequence[float], shares: Sequence[float], other: int) -> float:
    return _mean([alone[0], alone[other]], _normal([shares[0], shares[other]]))


def _normal(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def _mean(losses: Sequence[float], shares: Sequence[float]) -> float:
    return sum(loss * share for loss, share in zip(losses, shares, strict=True))
