"""Numbers that were made comparable within groups of rows: whether those are the rows that share a prompt.

Legend: B batch; T time; G rows of a group.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from andon.door.differences import taken_alone
from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable

FEWEST = 2  # tokens of a prompt, groups, and rows of a group
NOTHING = 1e-3  # of the numbers' size: a mean that is 0 but for rounding


def check_groups(captured: Captured) -> None:
    """Numbers that are centered within groups of rows are centered within those that share a prompt.

    Asked where each so many rows of token ids in a row share their first tokens, the rows beside them do not, and the
    loss alone takes one number a row, as an advantage is, whose mean is 0 within groups of just that size: of rows that
    stand together, or of rows that stand as many apart as there are prompts.

    Silent because the loss is as small as ever: an answer is held to those that other prompts got.

    Look at the order in which prompts are repeated, and at the shape that rewards are viewed in.
    """
    asked = False
    for name, numbers in _of_rows(captured):
        for size in _sizes(captured, len(numbers)):
            together, apart = numbers.view(-1, size), numbers.view(size, -1).t()
            asked = asked or _are_centered(together) or _are_centered(apart)
            if _are_centered(apart) and not _are_centered(together):
                raise CheckFailed(
                    f"{size} rows in a row share their first tokens, and {name!r} of shape "
                    f"{tuple(captured.parts[name].shape)} has a mean of 0 over each {len(numbers) // size}-th row "
                    "instead: each group is made of rows of different prompts"
                )
    if not asked:
        raise NotApplicable("numbers that are centered within groups of rows, and rows that share their first tokens")


def _of_rows(captured: Captured) -> Iterator[tuple[str, Tensor]]:
    """What the loss alone takes one number a row of (B,)."""
    for name, part in taken_alone(captured).items():
        if part.is_floating_point() and part.dim() and part.numel() == len(part):
            numbers = part.detach().double().flatten()
            if bool(numbers.isfinite().all()) and bool(numbers.any()):
                yield name, numbers


def _sizes(captured: Captured, rows: int) -> Iterator[int]:
    """How many rows in a row share a prompt, as token ids of so many rows show."""
    for part in captured.parts.values():
        if part.dim() == 2 and len(part) == rows and not part.is_floating_point() and part.dtype != torch.bool:
            shared = (part[1:] == part[:-1]).long().cumprod(1).sum(1)  # first tokens that a row shares with the last
            yield from (size for size in range(FEWEST, rows // FEWEST + 1) if _is_size(shared, rows, size))


def _is_size(shared: Tensor, rows: int, size: int) -> bool:
    """Whether neighbors within groups of so many rows share more first tokens than any others."""
    if rows % size:
        return False
    borders = torch.arange(1, rows) % size == 0
    least = int(shared[~borders].min())
    return least >= FEWEST and int(shared[borders].max()) < least


def _are_centered(groups: Tensor) -> bool:
    return bool((groups.mean(1).abs() <= NOTHING * groups.abs().mean()).all())


QUESTIONS = (Question("run.groups", check_groups),)
