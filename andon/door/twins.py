"""What a loss takes twice: two tensors of one micro-batch that hold the same numbers."""

from itertools import combinations

import torch
from torch import Tensor

from andon.door.differences import taken_alone
from andon.verify.capturing.micro_batch import Captured

FEWEST = 8  # numbers that are not alike by chance


def twins_of(captured: Captured) -> dict[str, int]:
    """Pairs of names of what the loss alone takes, alike bit for bit, and a mark of their numbers."""
    alone = {name: part.detach() for name, part in taken_alone(captured).items() if _varies(part)}
    return {
        f"{one} and {other}": hash(alone[one].cpu().contiguous().numpy().tobytes())
        for one, other in combinations(alone, 2)
        if alone[one].shape == alone[other].shape and torch.equal(alone[one], alone[other])
    }


def _varies(part: Tensor) -> bool:
    """Whether it has numbers enough, of more than two values, as no mask has."""
    readable = part.dtype in (torch.float32, torch.float64) and not part.is_sparse
    return readable and part.numel() >= FEWEST and len(part.detach().unique()) > 2
