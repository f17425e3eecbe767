"""What the loss's cross-entropy is shown to predict, and what of that the model is given.

Legend: B batch, T time, V vocab.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from andon.door.capture import Captured
from andon.door.questions.question import Question, again
from andon.verify.access.facts import CrossEntropy, cross_entropy_of
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

FEWEST = 8  # targets that two tensors must share before one is the other
MOST = 0.9
FARTHEST = 4  # places ahead at which targets are looked for
SHARE = 1e-5  # of the logits' size, in float32


class Shown(NamedTuple):
    """A cross-entropy, and which recorded tensor its logits are."""

    entropy: CrossEntropy
    key: int  # of the recorded logits
    last: bool  # whether classes are the last dimension


def check_own_target(captured: Captured) -> None:
    """No prediction is made from its own target.

    Asked of what a causal model is given: a part of the batch that equals the targets place by place, of which no
    logits depend on a later place.

    Silent because the loss falls faster than it should: the model copies; without the targets it can say nothing.

    Look at how decoder inputs, or labels, are shifted by one.
    """
    shown = shown_in(captured)
    targets, asked = shown.entropy.targets, False
    for name, part in captured.parts.items():
        if part.shape != targets.shape or part.dim() != 2 or not _agree(part, targets):
            continue
        asked = True
        places = _dependence(captured, shown, name, part)
        if places is not None and places[0] and not places[1]:
            raise CheckFailed(
                f"the logits at a place change with {name!r} at that place, which is their target, and not with later "
                "ones: the model is given what it must predict"
            )
    if not asked:
        raise NotApplicable("targets that stand in the batch at the places of the logits that predict them")


def check_ignored(captured: Captured) -> None:
    """Labels of -100 have no part in the loss.

    Silent because padding is easy to predict: the loss looks better, and the model learns to write padding.

    Look at what is done to labels before the loss, and at its `ignore_index`.
    """
    shown, asked = shown_in(captured), False
    for name, part in captured.parts.items():
        if part.is_floating_point() or part.shape != shown.entropy.targets.shape or not bool((part == -100).any()):
            continue
        if not _agree(part, shown.entropy.targets):
            continue
        asked = True
        counted = int((shown.entropy.counted & (part == -100)).sum())
        if counted:
            raise CheckFailed(
                f"{counted} of {int((part == -100).sum())} places where {name!r} is -100 have a gradient of the "
                f"cross-entropy, for class {int(shown.entropy.targets[part == -100].mode().values)}"
            )
    if not asked:
        raise NotApplicable("labels with -100 among them, at the places of the logits that predict them")


def check_next_token(captured: Captured) -> None:
    """A causal model of a text predicts, at each place, the token that comes next.

    Asked where what is predicted is found in the batch at one distance, the same for all places.

    Silent because any other token can be predicted too, only less well.

    Look whether labels are shifted twice, by the data and by the model, or not at all.

    Yellow alone: whoever predicts further ahead does so.
    """
    shown, asked = shown_in(captured), False
    for name, part in captured.parts.items():
        if part.dim() != 2 or part.is_floating_point() or name == "labels":
            continue
        distance = _distance(part, shown.entropy.targets)
        asked = asked or distance is not None
        if distance not in (None, 0, 1):
            raise Unusual(f"the logits at a place predict the token of {name!r} that comes {distance} places later")
    if not asked:
        raise NotApplicable("targets that stand in the batch, at one distance from the logits that predict them")


def _distance(part: Tensor, targets: Tensor) -> int | None:
    """How many places ahead targets (B, T), or flattened, are found in a part (B, T)."""
    rows, time = part.shape
    if targets.numel() % rows or not 0 < time - targets.numel() // rows + FARTHEST + 1 <= 2 * FARTHEST + 1:
        return None
    targets = targets.reshape(rows, -1)
    for distance in range(FARTHEST + 1):
        width = min(targets.shape[1], time - distance)
        ahead, due = part[:, distance : distance + width], targets[:, :width]
        counted = due >= 0
        if int(counted.sum()) >= FEWEST and float((ahead == due)[counted].float().mean()) > MOST:
            return distance
    return None


def shown_in(captured: Captured) -> Shown:
    """The cross-entropy that the script's loss is, and its logits among what was recorded.

    Raises:
        NotApplicable: none is shown.
    """
    with torch.enable_grad():
        values = again(captured)
        floats = {key: each for key, each in values.items() if each.requires_grad and each.dim() > 1}
        entropy = cross_entropy_of(values[id(captured.loss)], list(floats.values()))
    if entropy is None:
        raise NotApplicable("a loss that its gradient shows to be a cross-entropy")
    for key, each in floats.items():
        if each.data_ptr() == entropy.logits.data_ptr() and each.numel() == entropy.logits.numel():
            return Shown(entropy, key, each.shape == entropy.logits.shape)
    raise NotApplicable("logits among what was recorded")


def _agree(part: Tensor, targets: Tensor) -> bool:
    """Whether a part of whole numbers holds the targets, wherever they count and it is not negative."""
    if part.is_floating_point() or part.dtype == torch.bool:
        return False
    both = (targets >= 0) & (part >= 0)
    return int(both.sum()) >= FEWEST and float((part == targets)[both].float().mean()) > MOST


def _dependence(captured: Captured, shown: Shown, name: str, part: Tensor) -> tuple[bool, bool] | None:
    """Whether logits change with the part at their own place, and at a later one; None where they are no (B, T, V)."""
    place = part.shape[1] // 2
    counted = torch.nonzero((shown.entropy.counted & (part >= 0))[:, place]).flatten()
    if not len(counted) or shown.entropy.logits.dim() != 3:
        return None
    other = part.clone()
    known = part[part >= 0].unique()
    other[:, place] = torch.where(part[:, place] >= 0, _another(part[:, place], known), part[:, place])
    with torch.no_grad():
        first, second = (again(captured, changes)[shown.key] for changes in ({}, {name: other}))
    if not shown.last:
        first, second = first.movedim(1, -1), second.movedim(1, -1)
    moved = (first - second).abs().amax(-1)[counted] > SHARE * float(first.abs().max())
    return bool(moved[:, place].any()), bool(moved[:, :place].any())


def _another(values: Tensor, known: Tensor) -> Tensor:
    return known[(torch.searchsorted(known, values.clamp(min=int(known[0]))) + 1) % len(known)]


QUESTIONS = (
    Question("run.own_target", check_own_target),
    Question("run.ignored", check_ignored),
    Question("run.next_token", check_next_token),
)
