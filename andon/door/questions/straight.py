"""What is added to its own difference with something else: both gradients cancel."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from andon.door.differences import DIFFERENCES
from andon.door.questions.question import Question, followed
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

SUMS = ("add", "__add__", "__radd__", "add_", "__iadd__")
TURNED = ("rsub", "__rsub__")
PAIR = 2


class Difference(NamedTuple):
    """`of - taken`, each a tensor."""

    of: Tensor
    taken: Tensor


def check_straight_through(captured: Captured) -> None:
    """What is added to its own difference with something else passes its gradient on: the difference is detached.

    Asked where the model, or the loss, adds a tensor to a difference that it was taken from, both with gradients or the
    difference detached, as straight-through estimators do.

    Silent because `a + (b - a)` is `b`, value and gradient: the rest of the loss still teaches what made `a` something.

    Look for the `detach` that the difference has lost: `a + (b - a).detach()`.

    Yellow where what it is taken from has a gradient of its own: then that is learned, and may be all that is meant.
    """
    seen = _Sums()
    followed(captured, seen, train=True)
    if not seen.asked:
        raise NotApplicable("a tensor that is added to its own difference with another")
    for each in seen.cancelling:
        said = (
            f"a tensor {tuple(each.taken.shape)} is added to another less itself, and nothing is detached: the sum is "
            "the other, and no gradient passes to what made the first"
        )
        raise Unusual(said) if each.of.requires_grad else CheckFailed(said)


class _Sums(TorchFunctionMode):
    """Notes differences, and sums of one with what it was taken from."""

    def __init__(self) -> None:
        super().__init__()
        self.differences = WeakIdKeyDictionary()
        self.asked = False
        self.cancelling: list[Difference] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        tensors = [each for each in args if isinstance(each, Tensor)]
        if not isinstance(result, Tensor) or kwargs:  # a factor, of one of the two
            return result
        if name == "detach" and tensors[0] in self.differences:
            self.differences[result] = self.differences[tensors[0]]
        elif name in DIFFERENCES and len(tensors) == len(args) == PAIR:
            self.differences[result] = Difference(*(reversed(tensors) if name in TURNED else tensors))
        elif name in SUMS and len(tensors) == len(args) == PAIR:
            self._note(*tensors)
        return result

    def _note(self, one: Tensor, other: Tensor) -> None:
        for a, difference in ((one, other), (other, one)):
            known = self.differences.get(difference)
            if known is not None and known.taken is a and a.requires_grad:
                self.asked = True
                if difference.requires_grad and known.of is not a:
                    self.cancelling.append(known)


QUESTIONS = (Question("run.straight_through", check_straight_through),)
