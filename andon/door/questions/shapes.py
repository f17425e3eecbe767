"""How the loss is put together from what the model returned: shapes that a mean hides, and targets drawn at random.

Legend: B batch.
"""

from itertools import dropwhile, permutations

from torch import Tensor

from andon.door.draws import NOISE
from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

PAIRED = ("sub", "__sub__", "__rsub__", "rsub", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
SPREAD = ("softmax", "log_softmax", "_softmax", "cumsum", "sort")  # along one axis, of as many numbers
PAIRED += ("binary_cross_entropy_with_logits", "binary_cross_entropy", "add", "__add__", "mul", "__mul__")


def check_broadcast(captured: Captured) -> None:
    """The loss pairs each row's prediction with that row's own target or score, and with no other row's.

    Silent because a mean over (B, B) is a number like one over (B,), and its gradient still lowers it somewhat.

    Look at `squeeze`, `unsqueeze` and `view` of what the loss compares, and at indexing by a slice and a list at once.

    Yellow where both sides come from the model, or none does, or an index made it, and where the pairs are not summed
    up at once: whoever compares all pairs, or each row with as many bins, does so. Not where neither comes from the
    model and they are one tensor's numbers, or each row's own pairs are what is computed on.
    """
    outputs = _from_modules(captured)
    for entry in captured.entries:
        if entry.module is None and entry.made():
            _hold_index(entry, outputs)
            _hold_pair(captured, entry, outputs)


def _hold_index(entry: Entry, outputs: set[int]) -> None:
    """Raises where a slice and a list of rows take all pairs of the model's output."""
    if entry.name == "__getitem__" and id(entry.args[0]) in outputs and _crossed_index(entry, entry.made()[0]):
        shape = tuple(entry.made()[0].shape)
        raise Unusual(
            f"indexing {tuple(entry.args[0].shape)} by a slice and {shape[1]} numbers gives {shape}: each row at each "
            "other row's place"
        )


def _hold_pair(captured: Captured, entry: Entry, outputs: set[int]) -> None:
    """Raises where two tensors of as many numbers are paired all with all."""
    pair = _pair(entry)
    if pair is None or not _crossed(entry, *pair):
        return
    a, b = pair
    made, whole = sum(id(each) in outputs for each in pair), _is_summed_up(captured, entry)
    if not made and (not whole or a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()):
        return
    raise (CheckFailed if made == 1 and whole else Unusual)(
        f"{tuple(a.shape)} and {tuple(b.shape)} give all {a.numel()} x {b.numel()} pairs in {entry.name}, where each "
        "row has one partner"
    )


def check_random_target(captured: Captured) -> None:
    """What the model's output is compared with has to do with what the model was given.

    Silent because the loss falls to that of the best constant.

    Look at noise that is drawn again in the loss, where the noise that was added is meant.

    Yellow alone: whoever regresses on noise of its own does so.
    """
    if not any(entry.module is None for entry in captured.entries):
        raise NotApplicable("a loss computed outside of the model")
    outputs, drawn = _from_modules(captured), _drawn_late(captured)
    for entry in captured.entries:
        for noise, output in permutations(_pair(entry) or (), 2):
            if id(noise) in drawn and id(output) in outputs and noise.shape == output.shape:
                raise Unusual(
                    f"the model's output {tuple(output.shape)} is compared, in {entry.name}, with random numbers "
                    f"that {drawn[id(noise)]} draws after the model was called"
                )


def _pair(entry: Entry) -> tuple[Tensor, Tensor] | None:
    """The two tensors that a call compares or combines, number by number; None where it is no such call."""
    given = [each for each in entry.given() if each.numel() > 1]
    return (given[0], given[1]) if entry.name in PAIRED and len(given) == 2 else None


def _drawn_late(captured: Captured) -> dict[int, str]:
    """Random tensors that are drawn once a module was called, and by what."""
    drawn: dict[int, str] = {}
    entries = dropwhile(lambda entry: entry.module is None, captured.entries)
    for entry in entries:
        if entry.name in NOISE:
            drawn |= {id(each): entry.name for each in entry.made()}
    return drawn


def _is_summed_up(captured: Captured, entry: Entry) -> bool:
    """Whether all pairs become one number in a single call, and no axis of theirs has a meaning before."""
    pairs, count = {id(each) for each in entry.made()}, max(each.numel() for each in entry.given()) ** 2
    users = [entry]
    for each in captured.entries:
        if pairs & {id(given) for given in each.given()}:
            users.append(each)
            pairs |= {id(made) for made in each.made() if made.numel() == count and each.name not in SPREAD}
    return any(made.numel() == 1 for user in users for made in user.made())


def _from_modules(captured: Captured) -> set[int]:
    """All recorded tensors that depend on what a module returned."""
    found: set[int] = set()
    for entry in captured.entries:
        if entry.module is not None or any(id(each) in found for each in entry.given()):
            found |= {id(each) for each in entry.made()}
    return found


def _crossed_index(entry: Entry, made: Tensor) -> bool:
    index = entry.args[1] if len(entry.args) > 1 else None
    if not isinstance(index, tuple) or len(index) != 2 or not isinstance(index[0], slice):
        return False
    rows = isinstance(index[1], Tensor) and index[1].dim() == 1 and not index[1].is_floating_point()
    return rows and made.dim() >= 2 and made.shape[0] == made.shape[1] == len(entry.args[0]) > 1


def _crossed(entry: Entry, a: Tensor, b: Tensor) -> bool:
    """Whether (B,) was paired with (B, 1): by the result's size, or, where a loss has reduced it, by the shapes."""
    if a.numel() != b.numel() or a.dim() == b.dim():
        return False
    column = max(a, b, key=Tensor.dim)
    reduced = entry.name.endswith("_loss") and column.dim() == 2 and column.shape[-1] == 1
    return reduced or entry.made()[0].numel() == a.numel() * b.numel()


QUESTIONS = (Question("run.pairs", check_broadcast), Question("run.random_target", check_random_target))
