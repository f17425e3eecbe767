"""What a training step is given, and where in the data it stands.

Legend: B rows, T positions.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100  # a label that is not counted, as in torch.nn.functional.cross_entropy


class Batch(NamedTuple):
    """A micro-batch, all int64.

    `labels_BT` is the token that follows, or IGNORE where that belongs to another document or is padding;
    `documents_BT` numbers the documents within a row, and is None where no row holds two.
    """

    tokens_BT: "Tensor"
    labels_BT: "Tensor"
    documents_BT: "Tensor | None"


class DataState(NamedTuple):
    """Where the data order stands: `batch` optimizer batches of epoch `epoch` are used."""

    epoch: int = 0
    batch: int = 0
