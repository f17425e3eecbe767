"""Rows of several documents: what the batch says of where they begin.

Legend: B batch, T time.
"""

from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.access.parts import find
from andon.verify.capturing.micro_batch import Captured, as_subject
from andon.verify.errors import CheckFailed, NotApplicable

MOST = 0.9  # of the borders
FEWEST = 4  # borders


def check_positions(captured: Captured) -> None:
    """Positions begin anew with each document's first token.

    Asked of a packed batch that has both, where positions begin anew within a place of nearly every border.

    Silent because all later tokens of a document are right, relative to each other; only its first is far away.

    Look at where the count of positions begins, and in which document a separator is.
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


def _both(captured: Captured) -> tuple[Tensor, Tensor]:
    """The batch's documents and positions (B, T)."""
    subject = as_subject(captured)
    found = find(subject, captured.parts)
    if not {"documents", "positions"} <= found.keys():
        raise NotApplicable("a batch with documents, and positions that begin anew with them")
    documents, positions = (captured.parts[str(found[role])] for role in ("documents", "positions"))
    if documents.dim() != 2 or documents.shape != positions.shape:
        raise NotApplicable("documents and positions (B, T)")
    return documents, positions


QUESTIONS = (Question("run.document_positions", check_positions),)
