"""Rows of several documents: what the batch says of where they begin.

Legend: B batch, T time.
"""

import torch
from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.access.documents import cuts, documents_key
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.parts import find
from andon.verify.capturing.micro_batch import Captured, as_subject
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.perturb import logits_eval, rounding_tolerance
from andon.verify.observation.tolerances import distance

MOST = 0.9  # of the borders
HALF = 0.5
FEWEST = 4  # borders
OTHER = 1e3  # times what rounding explains: logits that are others


def check_positions(captured: Captured) -> None:
    """Positions begin anew with each document's first token.

    Asked of a packed batch that has both, where positions begin anew within a place of nearly every border, or where
    attention is seen to be cut at the borders.

    Silent because all later tokens of a document are right, relative to each other; only its first is far away. Where
    positions go on from one document to the next, the model learns the same text at each of many places.

    Look at where the count of positions begins, and in which document a separator is.

    Yellow where they go on, and a document that has the first positions is seen to have other logits: the model
    takes them for places, not for distances.
    """
    documents_BT, positions_BT = _both(captured)
    border_BT = documents_BT.diff(dim=1) != 0
    ahead_BT = positions_BT.diff(dim=1) != 1
    real_BT = border_BT & (documents_BT[:, 1:] >= 0) & (documents_BT[:, :-1] >= 0)
    counts = {
        "later": int((real_BT[:, :-1] & ~ahead_BT[:, :-1] & ahead_BT[:, 1:]).sum()),
        "earlier": int((real_BT[:, 1:] & ~ahead_BT[:, 1:] & ahead_BT[:, :-1]).sum()),
    }
    count = int(real_BT.sum())
    if count < FEWEST:
        raise NotApplicable(f"a batch with {FEWEST} borders of documents within its rows")
    for where, off in counts.items():
        if off > MOST * count:
            raise CheckFailed(f"at {off} of {count} borders of documents positions begin anew one place {where}")
    _require_beginning(captured, documents_BT, positions_BT, real_BT)


def _both(captured: Captured) -> tuple[Tensor, Tensor]:
    """The batch's documents and positions (B, T)."""
    subject = as_subject(captured)
    found, key = find(subject, captured.parts), documents_key(subject, captured.parts)
    if key is None or "positions" not in found:
        raise NotApplicable("a batch with documents, and positions that begin anew with them")
    documents, positions = (captured.parts[str(each)] for each in (key, found["positions"]))
    if documents.dim() != 2 or documents.shape != positions.shape:
        raise NotApplicable("documents and positions (B, T)")
    return documents, positions


def _require_beginning(captured: Captured, documents_BT: Tensor, positions_BT: Tensor, border_BT: Tensor) -> None:
    """Say so where most documents begin behind where one may, and the model minds; rows may begin within one."""
    start = int(positions_BT.min())
    off_BT = border_BT & (positions_BT[:, 1:] != start)
    count, subject = int(border_BT.sum()), as_subject(captured)
    if int(off_BT.sum()) <= HALF * count or not cuts(subject, captured.parts, documents_BT):
        return
    moved = _moved_by_beginning(captured, documents_BT, positions_BT, off_BT, start)
    if moved:
        begins = positions_BT[:, 1:][border_BT]
        raise Unusual(
            f"attention is cut at {count} borders of documents, and behind {int(off_BT.sum())} of them positions do "
            f"not begin anew: documents begin at {int(begins.min())} to {int(begins.max())}, and the "
            f"least position is {start}; with positions from there on one has logits {moved:.2g} of their rms away"
        )


def _moved_by_beginning(
    captured: Captured, documents_BT: Tensor, positions_BT: Tensor, off_BT: Tensor, start: int
) -> float:
    """How far logits of a document are from those with positions from the start on; 0 where rounding is."""
    subject, at = as_subject(captured), str(find(as_subject(captured), captured.parts)["positions"])
    row, begin = max(off_BT.nonzero().tolist(), key=lambda each: _size(documents_BT, each[0], each[1] + 1))
    begin += 1
    size = _size(documents_BT, row, begin)
    other_BT = positions_BT.clone()
    other_BT[row, begin : begin + size] = start + torch.arange(size)
    model, batch = perturbed_model(subject), dict(captured.parts)
    here, there = (
        logits_eval(subject, model, batch | {at: each})[row, begin : begin + size] for each in (positions_BT, other_BT)
    )
    moved = distance(there, here)
    return moved if moved > OTHER * rounding_tolerance(subject, model, batch) else 0.0


def _size(documents_BT: Tensor, row: int, begin: int) -> int:
    """How long the document is that begins there."""
    same = documents_BT[row, begin:] == documents_BT[row, begin]
    return int(same.long().cummin(0).values.sum())


QUESTIONS = (Question("run.document_positions", check_positions),)
