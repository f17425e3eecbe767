"""Padding: how much of it there is says nothing.

Legend: B batch, T time.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from andon.door.questions.question import Question, differ, loss_again, loss_in_double
from andon.door.questions.targets import shown_in
from andon.verify.access.roles import IGNORE
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

MORE = 2  # columns
FEW_ROWS = 4
FINE = 1e-6  # of a loss: a change that is no rounding if it is the same in double precision
ALIKE = 0.2  # of that change
REFUSALS = RuntimeError, IndexError, ValueError, TypeError  # of a width, or a precision, that a model has not seen


class Losses(NamedTuple):
    """With less and with more padding."""

    before: float
    after: float
    what: str  # was done
    grown: float  # how the columns grew
    small: bool  # whether they differ by little, which is no rounding


def check_padding(captured: Captured) -> None:
    """A batch with more columns of padding has the same loss.

    Silent because each batch is padded as its longest row has it: what padding adds is noise, the same in each run.

    Look at the masks of every attention and pooling, at the position that a score is read from, and at which labels
    the loss counts.

    Yellow where the script is not seen to treat these tokens as padding, or only the loss's divisor counts them, or the
    loss is another by less than a ten-thousandth, in double precision as well: a model that is hardly trained reads
    padding as little as all else.
    """
    asked = False
    for name, pad in padded_parts(captured):
        alike = [key for key, each in captured.parts.items() if each.shape == captured.parts[name].shape]
        losses = _losses(captured, name, pad, alike)
        if losses is None:
            continue
        asked = True
        if losses.small or differ(losses.before, losses.after):
            raise _finding(captured, name, pad, losses)
    if not asked:
        raise NotApplicable("a batch of token ids whose shorter rows end in one id that stands nowhere else")


def _finding(captured: Captured, name: str, pad: int, losses: Losses) -> CheckFailed:
    before, after, what, grown, small = losses
    digits = 9 if small else 6
    message = (
        f"{name!r} of shape {tuple(captured.parts[name].shape)} ends in {pad} in rows that are shorter; {what} "
        f"makes the loss {after:.{digits}g}, where it was {before:.{digits}g}"
    )
    if small:
        return Unusual(f"{message}, and as much in double precision")
    reason = _declared(captured, name, pad)
    if reason and differ(before, after * grown):
        return CheckFailed(f"{message}; {reason}")
    return Unusual(f"{message}; is {pad} padding?" if not reason else f"{message}: padding counts in its divisor")


def check_padding_targets(captured: Captured) -> None:
    """Places that are padding are no targets.

    Asked where the loss's gradient shows a cross-entropy at each place of a padded part of the batch.

    Silent because padding is easy to predict: the loss looks better, and the model learns to write padding.

    Look at the loss's `ignore_index`, at what labels are padded with, and at masks that the loss does not take.

    Not where one place of a row alone counts, the first: padding ends the text then. Yellow where the script is not
    seen to treat these tokens as padding.
    """
    shown, asked = shown_in(captured), False
    for name, pad in padded_parts(captured):
        part = captured.parts[name]
        if shown.targets.numel() != part.numel():
            continue
        asked, targets = True, shown.targets.reshape(part.shape)
        counts = ~real_places(part, pad) & (targets != IGNORE)
        counted, beyond_end = targets[counts], counts[:, 1:] & ~real_places(part, pad)[:, :-1]
        if len(counted.unique()) != 1 or not bool(beyond_end.any()):  # a text that is to be written has several
            continue
        reason = _declared(captured, name, pad)
        message = (
            f"{len(counted)} places where {name!r} of shape {tuple(part.shape)} is padded with {pad} have a part in "
            f"the loss, all for class {int(counted[0])}"
        )
        raise CheckFailed(f"{message}; {reason}") if reason else Unusual(f"{message}; is {pad} padding?")
    if not asked:
        raise NotApplicable("a cross-entropy at each place of padded token ids")


def padded_parts(captured: Captured) -> Iterator[tuple[str, int]]:
    """Parts of whole numbers (B, T) that end, in rows of different lengths, in an id that is nowhere within a row."""
    for name, part in captured.parts.items():
        if part.is_floating_point() or part.dtype == torch.bool or part.dim() != 2 or len(part) < FEW_ROWS:
            continue
        for pad in part[:, -1].unique().tolist():
            lengths = lengths_of(part, pad)
            if len(lengths.unique()) > 2 and pad >= 0 and not bool(((part == pad) & real_places(part, pad)).any()):
                yield name, int(pad)


def real_places(part: Tensor, pad: int) -> Tensor:
    """(B, T): what comes before each row's last run of `pad`."""
    return torch.arange(part.shape[1], device=part.device)[None] < lengths_of(part, pad)[:, None]


def lengths_of(part: Tensor, pad: int) -> Tensor:
    """(B,): how many columns of each row come before its last run of `pad`."""
    real = part != pad
    places = torch.arange(1, part.shape[1] + 1, device=part.device)
    return (real * places).max(dim=1).values


def _losses(captured: Captured, name: str, pad: int, alike: list[str]) -> Losses | None:
    """The loss with less and with more padding; None if neither way runs."""
    part = captured.parts[name]
    time = part.shape[1]
    fill = int(
        lengths_of(part, pad).argmin()
    )  # the row with the most padding: its last column is what padding looks like

    def longer(each: Tensor) -> Tensor:
        column = each[fill, -1].expand(len(each), MORE)
        return torch.cat([each, column], dim=1)

    lengths = lengths_of(part, pad)
    short = int(lengths.sort().values[len(lengths) // 2])
    chosen = torch.nonzero(lengths <= short).flatten()
    rows = chosen[torch.arange(len(part), device=part.device) % len(chosen)]

    def rows_of(columns: int) -> Callable[[Tensor], Tensor]:
        return lambda each: each[rows][:, :columns]

    ways: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], str, float]] = [
        (lambda each: each, longer, f"{MORE} more columns of it", (time + MORE) / time)
    ]
    if 0 < short < time:
        ways.append(
            (rows_of(short), rows_of(time), f"{time - short} more columns of it, behind its shorter rows", time / short)
        )
    for first, second, what, grown in ways:
        chosen_rows = rows if what.endswith("rows") else None
        changes = [_with(captured, alike, change, chosen_rows) for change in (first, second)]
        try:
            before, after = (loss_again(captured, each) for each in changes)
        except REFUSALS:
            continue
        return Losses(before, after, what, grown, _differ_little(captured, before, after, changes))
    return None


def _differ_little(captured: Captured, before: float, after: float, changes: list[dict[str, Tensor]]) -> bool:
    """Whether two losses differ by less than others are asked to, and as much in double precision."""
    if differ(before, after) or not abs(after - before) > FINE * abs(before):
        return False
    try:
        first, second = (loss_in_double(captured, each) for each in changes)
    except REFUSALS:
        return False
    return abs((second - first) - (after - before)) < ALIKE * abs(after - before)


def _with(
    captured: Captured, alike: list[str], change: Callable[[Tensor], Tensor], rows: Tensor | None
) -> dict[str, Tensor]:
    changes = {key: change(captured.parts[key]) for key in alike}
    if rows is not None:
        count = len(captured.parts[alike[0]])
        changes |= {
            key: each[rows]
            for key, each in captured.parts.items()
            if key not in alike and each.dim() and len(each) == count
        }
    return changes


def _declared(captured: Captured, name: str, pad: int) -> str:
    """How the script says that this id is padding; empty where it does not."""
    part = captured.parts[name]
    real = part != pad
    if any(constant == pad and _same(tensor, part) for tensor, constant in captured.compared):
        return f"the script compares {name!r} with {pad}, so it knows padding"
    for key, each in captured.parts.items():
        mark = _mark(each, part, real) if key != name else ""
        if mark:
            return f"{key!r} {mark}"
    return ""


def _mark(each: Tensor, part: Tensor, real: Tensor) -> str:
    """How another part of the batch says what is real in this one; empty where it does not."""
    if each.shape == part.shape:
        if not each.is_floating_point() and torch.equal(each != -100, real):
            return "is -100 just there"
        return "is 0 just there" if torch.equal(each != 0, real) else ""
    lengths = each.dim() == 1 and len(each) == len(part) and torch.equal(each.long(), real.sum(1))
    return "holds the lengths without it" if lengths else ""


def _same(tensor: Tensor, part: Tensor) -> bool:
    return tensor.shape == part.shape and torch.equal(tensor, part.to(tensor.dtype))


QUESTIONS = (Question("run.padding", check_padding), Question("run.padding_targets", check_padding_targets))
