"""What the loss's cross-entropy is shown to predict, and what of that the model is given.

Legend: B batch, T time, V vocab.
"""

import torch
from torch import Tensor

from andon.door.questions.question import Question, again
from andon.verify.access.facts import CrossEntropy, cross_entropy_of
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

FEWEST = 8  # targets that two tensors must share before one is the other
MOST = 0.9
FARTHEST = 4  # places ahead at which targets are looked for
SHARE = 1e-5  # of the logits' size, in float32


def check_own_target(captured: Captured) -> None:
    """No prediction is made from its own target.

    Asked where the targets are found in a part of the batch, at one distance from the logits, and the logits do not
    depend on all of that part: a decoder's input, or a text that is predicted from what came before.

    Silent because the loss falls faster than it should: the model copies; without the targets it can say nothing.

    Look at how decoder inputs, or labels, are shifted by one, and at the diagonal of a causal mask.

    Yellow where some targets are not the tokens at their own places: a text that is to be corrected has mostly its own.
    """
    shown = shown_in(captured)
    found = _found_in(captured, shown)
    if not found:
        raise NotApplicable("targets that stand in the batch, at one distance from the logits that predict them")
    for name, (distance, turned) in found.items():
        if _sees_target(captured, shown, name, distance, turned=turned):
            where = f"{distance} later" if distance else "at that place"
            corrects = not distance and not _is_copied(captured, shown, name, turned=turned)
            raise (Unusual if corrects else CheckFailed)(
                f"the logits at a place change with {name!r} {where}, which is their target, and not with all of it: "
                "the model is given what it must predict"
            )


def check_ignored(captured: Captured) -> None:
    """Labels of -100 have no part in the loss.

    Silent because padding is easy to predict: the loss looks better, and the model learns to write padding.

    Look at what is done to labels before the loss, and at its `ignore_index`.
    """
    shown, asked = shown_in(captured), False
    for name, part in captured.parts.items():
        if part.is_floating_point() or part.shape != shown.targets.shape or not bool((part == -100).any()):
            continue
        if not _agree(part, shown.targets):
            continue
        asked = True
        counted = int((shown.counted & (part == -100)).sum())
        if counted:
            raise CheckFailed(
                f"{counted} of {int((part == -100).sum())} places where {name!r} is -100 have a gradient of the "
                f"cross-entropy, for class {int(shown.targets[part == -100].mode().values)}"
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
        distance = _distance(part, shown.targets)
        asked = asked or distance is not None
        if distance not in (None, 0, 1):
            raise Unusual(f"the logits at a place predict the token of {name!r} that comes {distance} places later")
    if not asked:
        raise NotApplicable("targets that stand in the batch, at one distance from the logits that predict them")


def check_axes(captured: Captured) -> None:
    """Targets that stand in the batch do so in the order of the logits that predict them.

    Asked of a part (B, T) or (T, B) and of as many targets: they are found in it at one distance, along T.

    Silent because each logit has a target, of another place and text: only what is frequent is learned.

    Look at `t()`, `view` and `reshape` of targets, or of logits, whose two first axes the other one has exchanged.
    """
    shown, asked = shown_in(captured), False
    for name, part in captured.parts.items():
        if not _is_table(part) or part.numel() != shown.targets.numel() or min(part.shape) < 2:
            continue
        rows = shown.targets.reshape(part.shape)
        exchanged = shown.targets.reshape(part.shape[::-1])
        straight = [_distance(part, rows), _distance(part.t(), rows.t())]
        if any(each is not None for each in straight):
            asked = True
        elif _distance(part, exchanged.t()) is not None or _distance(part.t(), exchanged) is not None:
            raise CheckFailed(
                f"the {rows.numel()} targets are the tokens of {name!r} {tuple(part.shape)}, with its two axes "
                "exchanged: most logits predict another row's token"
            )
    if not asked:
        raise NotApplicable("targets that stand in a part of the batch of as many tokens")


def _found_in(captured: Captured, shown: CrossEntropy) -> dict[str, tuple[int, bool]]:
    """The parts of the batch that hold the targets: how many places ahead, and whether as (T, B)."""
    found = {}
    for name, part in captured.parts.items():
        if not _is_table(part) or part.dtype == torch.bool:
            continue
        turned = _is_turned(captured, shown, name)
        distance = _distance(_turn(part, turned=turned), _own_places(shown.targets, part, turned=turned))
        if distance is not None:
            found[name] = distance, turned
    return found


def _is_table(part: Tensor) -> bool:
    """Whether it is whole numbers in two axes."""
    return part.dim() == 2 and not part.is_floating_point()


def _distance(part: Tensor, targets: Tensor, least: float = MOST) -> int | None:
    """How many places ahead at least so many of the targets (B, T), or flattened, are found in a part (B, T)."""
    rows, time = part.shape
    if targets.numel() % rows or not 0 < time - targets.numel() // rows + FARTHEST + 1 <= 2 * FARTHEST + 1:
        return None
    targets = targets.reshape(rows, -1)
    for distance in range(FARTHEST + 1):
        width = min(targets.shape[1], time - distance)
        ahead, due = part[:, distance : distance + width], targets[:, :width]
        counted = due >= 0
        if int(counted.sum()) >= FEWEST and float((ahead == due)[counted].float().mean()) >= least:
            return distance
    return None


def shown_in(captured: Captured, changes: dict[str, Tensor] | None = None) -> CrossEntropy:
    """The cross-entropy that the script's loss is, on the recorded batch or one with other parts.

    Raises:
        NotApplicable: none is shown.
    """
    with torch.enable_grad():
        values = again(captured, changes)
        results = [each for each in values.values() if each.requires_grad and each.dim() > 1]
        entropy = cross_entropy_of(values[id(captured.loss)], results)
    if entropy is None:
        raise NotApplicable("a loss that its gradient shows to be a cross-entropy")
    return entropy


def _is_copied(captured: Captured, shown: CrossEntropy, name: str, *, turned: bool) -> bool:
    """Whether each target is the token at its own place."""
    part = captured.parts[name]
    return 0 == _distance(_turn(part, turned=turned), _own_places(shown.targets, part, turned=turned), 1.0)


def _agree(part: Tensor, targets: Tensor) -> bool:
    """Whether a part of whole numbers holds the targets, wherever they count and it is not negative."""
    if part.is_floating_point() or part.dtype == torch.bool:
        return False
    both = (targets >= 0) & (part >= 0)
    return int(both.sum()) >= FEWEST and float((part == targets)[both].float().mean()) > MOST


def _turn(part: Tensor, *, turned: bool) -> Tensor:
    """A part (T, B) as (B, T)."""
    return part.transpose(0, 1) if turned else part


def _own_places(value: Tensor, part: Tensor, *, turned: bool) -> Tensor:
    """What was flattened, or stands as a part does, by its rows (B, T, ...)."""
    if len(value) == part.numel() and value.shape[:2] != part.shape:
        value = value.reshape(*part.shape, *value.shape[1:])
    return _turn(value, turned=turned)


def _is_turned(captured: Captured, shown: CrossEntropy, name: str) -> bool:
    """Whether a part is (T, B): logits, flattened, change with a token of their column, and of no other one."""
    part = captured.parts[name]
    if shown.logits.dim() != 2 or len(shown.logits) != part.numel() or min(part.shape) < 2:
        return False
    other = part.clone()
    other[0, 0] = _another(part.flatten())[0]
    changed = shown_in(captured, {name: other})
    moved = (shown.logits - changed.logits).abs().amax(-1) > SHARE * float(shown.logits.detach().abs().max())
    moved = moved.reshape(part.shape)
    return bool(moved[1:, 0].any()) and not bool(moved[:, 1:].any())


def _sees_target(captured: Captured, shown: CrossEntropy, name: str, distance: int, *, turned: bool) -> bool:
    """Whether logits in the middle change with their target, and not as those of a model do that sees all of the part.

    That sees later places, where targets stand at their logits' own; and from the first place on, else.
    """
    part = _turn(captured.parts[name], turned=turned)
    logits, counted = (_own_places(each, captured.parts[name], turned=turned) for each in (shown.logits, shown.counted))
    place = _place(part, counted, distance) if logits.dim() == 3 else None
    if place is None:
        return False
    before = part[:, place + distance]
    rows = torch.nonzero(counted[:, place] & (before >= 0)).flatten()
    other = part.clone()
    other[rows, place + distance] = _another(before[rows])
    changed = shown_in(captured, {name: _turn(other, turned=turned)}).logits
    changed = _own_places(changed, captured.parts[name], turned=turned)
    moved = ((logits - changed).abs().amax(-1) > SHARE * float(logits.detach().abs().max()))[rows]
    if not bool(moved[:, place].any()):
        return False
    return not bool((moved[:, 0] if distance else moved[:, :place]).any())


def _place(part: Tensor, counted: Tensor, distance: int) -> int | None:
    """The logits' place nearest to the middle whose targets differ: one can be put in another's place there."""
    middle = part.shape[1] // 2
    places = range(1, min(part.shape[1] - distance, counted.shape[1]))
    for place in sorted(places, key=lambda each: abs(each - middle)):
        targets = part[:, place + distance][counted[:, place]]
        if len(targets[targets >= 0].unique()) > 1:
            return place
    return None


def _another(values: Tensor) -> Tensor:
    """For each of these values another one of them."""
    known = values.unique()
    return known[(torch.searchsorted(known, values) + 1) % len(known)]


QUESTIONS = (
    Question("run.own_target", check_own_target),
    Question("run.ignored", check_ignored),
    Question("run.next_token", check_next_token),
    Question("run.axes", check_axes),
)
