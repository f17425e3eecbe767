"""Two passes of one micro-batch that are to be two views of the same rows."""

from itertools import combinations

import torch
from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry, tensors
from andon.verify.errors import NotApplicable, Unusual

CLOSE = 1e-3  # of a gradient in float32
MOST = 16  # passes of a module that are looked at


def check_same_views(captured: Captured) -> None:
    """Two passes of a module that the loss takes alike are two views: of other numbers, or under dropout.

    Asked where a module makes several passes on tensors of one shape in one micro-batch, each with a gradient. That the
    loss takes two of them alike is shown by its gradient: where they return the same, it is the same for both.

    Silent because the loss falls, and fast: what agrees already is only told from the other rows.

    Look at where the two views are drawn: once each, and of the rows as they are.

    Yellow alone.
    """
    pairs = _pairs(captured)
    if not pairs:
        raise NotApplicable("several passes of one module on tensors of one shape, with gradients, in a micro-batch")
    for one, other in pairs:
        if _equal(one.given(), other.given()) and _are_taken_alike(captured.loss, one, other):
            shape = tuple(one.given()[0].shape)
            raise Unusual(
                f"two passes of {type(one.module).__name__} in one micro-batch are given the same {shape} numbers, and "
                "return the same; the loss takes both alike: the second shows nothing that the first does not"
            )


def _pairs(captured: Captured) -> list[tuple[Entry, Entry]]:
    """Passes of one module with gradients, on several rows of the same shapes."""
    found = [each for each in captured.entries if each.module is not None and _made(each) and each.given()]
    return [
        (one, other)
        for one, other in combinations(found[:MOST], 2)
        if one.module is other.module and _shapes(one) == _shapes(other) and len(one.given()[0].reshape(-1)) > 1
    ]


def _shapes(entry: Entry) -> list[torch.Size]:
    return [each.shape for each in entry.given()]


def _made(entry: Entry) -> list[Tensor]:
    """What a pass returned that gradients reach."""
    return [each for each in tensors(entry.result) if each.requires_grad]


def _equal(ones: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, ones, others))


def _are_taken_alike(loss: Tensor, one: Entry, other: Entry) -> bool:
    """Whether two passes return the same, and the loss has the same gradient, not zero, for what each returned."""
    made = _made(one), _made(other)
    if [each.shape for each in made[0]] != [each.shape for each in made[1]] or not _equal(*made):
        return False
    found = torch.autograd.grad(loss, [*made[0], *made[1]], retain_graph=True, allow_unused=True)
    half = len(made[0])
    return any(
        a is not None and b is not None and bool(a.any()) and bool((a - b).norm() <= CLOSE * a.norm())
        for a, b in zip(found[:half], found[half:], strict=True)
    )


QUESTIONS = (Question("run.same_views", check_same_views),)
