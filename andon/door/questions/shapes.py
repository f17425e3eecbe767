"""How the loss is put together from what the model returned: shapes that a mean hides, and targets drawn at random.

Legend: B batch.
"""

from torch import Tensor

from andon.door.capture import Captured
from andon.door.questions.question import Question
from andon.door.torch_calls import Entry
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

DRAWS = ("rand", "randn", "rand_like", "randn_like", "normal", "normal_", "uniform_", "bernoulli", "bernoulli_")
PAIRED = ("sub", "__sub__", "__rsub__", "rsub", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
PAIRED += ("binary_cross_entropy_with_logits", "binary_cross_entropy", "add", "__add__", "mul", "__mul__")


def check_broadcast(captured: Captured) -> None:
    """The loss pairs each row's prediction with that row's own target or score, and with no other row's.

    Silent because a mean over (B, B) is a number like one over (B,), and its gradient still lowers it somewhat.

    Look at `squeeze`, `unsqueeze` and `view` of what the loss compares, and at indexing by a slice and a list at once.

    Yellow where both sides come from the model, or an index made it: whoever compares all pairs does so.
    """
    outputs = _from_modules(captured)
    for entry in captured.entries:
        given = [each for each in entry.given() if each.numel() > 1]
        made = entry.made()[0] if entry.made() else None
        if made is None or entry.module is not None:
            continue
        if entry.name == "__getitem__" and _crossed_index(entry, made) and id(entry.args[0]) in outputs:
            raise Unusual(
                f"indexing {tuple(entry.args[0].shape)} by a slice and {made.shape[1]} numbers gives "
                f"{tuple(made.shape)}: each row at each other row's place"
            )
        if entry.name not in PAIRED or len(given) != 2:
            continue
        a, b = given
        crossed = a.numel() == b.numel() and a.dim() != b.dim() and made.numel() == a.numel() * b.numel()
        if crossed or _means_crossed(entry, a, b):
            sides = f"{tuple(a.shape)} and {tuple(b.shape)} give all {a.numel()} x {b.numel()} pairs in {entry.name}"
            both = id(a) in outputs and id(b) in outputs
            raise (Unusual if both else CheckFailed)(f"{sides}, where each row has one partner")


def check_random_target(captured: Captured) -> None:
    """What the model's output is compared with has to do with what the model was given.

    Silent because the loss falls to that of the best constant.

    Look at noise that is drawn again in the loss, where the noise that was added is meant.

    Yellow alone: whoever regresses on noise of its own does so.
    """
    outputs = _from_modules(captured)
    drawn: dict[int, str] = {}
    seen_module = False
    for entry in captured.entries:
        seen_module = seen_module or entry.module is not None
        if seen_module and entry.name in DRAWS:
            drawn |= {id(each): entry.name for each in entry.made()}
        given = entry.given()
        if entry.name not in PAIRED or len(given) != 2:
            continue
        first, second = given
        for noise, output in ((first, second), (second, first)):
            if id(noise) in drawn and id(output) in outputs and noise.shape == output.shape:
                raise Unusual(
                    f"the model's output {tuple(output.shape)} is compared, in {entry.name}, with random numbers "
                    f"that {drawn[id(noise)]} draws after the model was called"
                )
    if not seen_module:
        raise NotApplicable("a loss computed outside of the model")


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


def _means_crossed(entry: Entry, a: Tensor, b: Tensor) -> bool:
    """A loss of torch's that has already reduced what it broadcast."""
    shapes = {a.dim(), b.dim()} == {1, 2} and a.numel() == b.numel() and 1 in (*a.shape, *b.shape)
    return (
        entry.name.endswith("_loss")
        and shapes
        and max(a.dim(), b.dim()) == 2
        and (a.shape[-1] == 1 or b.shape[-1] == 1)
    )


QUESTIONS = (Question("run.pairs", check_broadcast), Question("run.random_target", check_random_target))
