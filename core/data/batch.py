"""The batch that a training step takes, and the position in the data.

Legend: B rows, T positions.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100  # a label that is not counted, as in torch.nn.functional.cross_entropy


class Batch(NamedTuple):
    """A micro-batch, all int64.

    `labels_BT` is the next token, or IGNORE where that belongs to another document or is padding;
    `documents_BT` numbers the documents within a row, and is None where no row holds more than one.
    """

    tokens_BT: "Tensor"
    labels_BT: "Tensor"
    documents_BT: "Tensor | None"


class DataState(NamedTuple):
    """The position in the data order: `batch` optimizer batches of epoch `epoch` have been used."""

    epoch: int = 0
    batch: int = 0
