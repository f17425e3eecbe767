"""A straight-through estimator: a value that is put in the place of another one, whose gradient it takes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from andon.door.places import Place
from andon.door.questions.question import Outside, Question, followed
from andon.verify.access.calls import seeded
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import tensors
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

SUMS = ("add", "__add__", "__radd__", "add_", "__iadd__")
DIFFERENCES = ("sub", "__sub__", "subtract")
REVERSED = ("__rsub__", "rsub")
DETACHES = ("detach", "detach_")


class Difference(NamedTuple):
    """What is taken from what."""

    whole: Tensor
    taken: Tensor
    version: int  # of what is taken: another one after it was written to
    learns: bool  # whether a gradient passes


class Lost(NamedTuple):
    """A tensor that is added to a difference that has it taken away, and a gradient for both."""

    total: Tensor
    put: Tensor
    cancels: Tensor
    place: Place | None


def check_straight_through(captured: Captured) -> None:
    """What is put in the place of a tensor, `a + (b - a).detach()`, leaves the tensor its gradient.

    Asked of a tensor that is added, as it is, to a difference that takes the very same tensor away, where gradients
    reach that tensor, while the model trains. Found where the difference passes them on as well: the sum is `b`, and
    what the one gives `a` the other takes. Not where one of `a` and `b` is computed of the other with a gradient, and
    not where the loss does without the sum.

    Silent because the values are those that are meant, and what comes after learns; what made `a` has the gradient of
    other terms alone.

    Look for the `detach` of the difference.

    Yellow where parameters have a gradient by what is put there: that they learn may be all that is meant.
    """
    seen = _Sums()
    modules, loss = followed(captured, seen, train=True)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not seen.asked:
        raise NotApplicable("a sum of a tensor and of a difference that takes the same tensor away, in training")
    for each in seen.lost:
        if _passes(loss, each.total) and not _passes(each.put, each.cancels) and not _passes(each.cancels, each.put):
            where = f" ({each.place})" if each.place else ""
            shape = tuple(each.cancels.shape)
            learned = any(_passes(each.put, p) for p in parameters)
            raise (Unusual if learned else CheckFailed)(
                f"a tensor {shape} that is learned is added to a difference that takes it away{where}, and both pass "
                "gradients on: it cancels in the value and in its own gradient; a straight-through estimator "
                "detaches the difference"
            )


def _passes(value: Tensor, source: Tensor) -> bool:
    """Whether a value has a gradient, other than zero, for what it may be computed of."""
    if not (value.requires_grad and source.requires_grad):
        return False
    with seeded():
        weights = torch.randn_like(value)
    (found,) = torch.autograd.grad(value, source, weights, retain_graph=True, allow_unused=True)
    return found is not None and bool(found.any())


class _Sums(TorchFunctionMode):
    """Notes differences, and sums of one and of what it took away."""

    def __init__(self) -> None:
        super().__init__()
        self.outside = Outside()
        self.differences = WeakIdKeyDictionary()
        self.asked = False
        self.lost: list[Lost] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        name, sides = getattr(func, "__name__", ""), _sides(args, kwargs)
        found = self._found(sides) if name in SUMS and sides else None
        known = self.differences.get(args[0]) if name in DETACHES else None
        result = func(*args, **kwargs)
        for made in tensors(result):
            self.differences.pop(made, None)  # what returns a difference as it is may be told to change it
        if found is not None and result.requires_grad:
            self._note(found, result)
        elif known is not None:
            self.differences[result] = known._replace(learns=False)
        elif sides and name in (*DIFFERENCES, *REVERSED):
            whole, taken = sides if name in DIFFERENCES else sides[::-1]
            self.differences[result] = Difference(whole, taken, taken._version, result.requires_grad)  # noqa: SLF001
        return result

    def _found(self, sides: tuple[Tensor, Tensor]) -> Difference | None:
        """The difference among two sides whose other side is what it took away."""
        for one, other in (sides, sides[::-1]):
            known = self.differences.get(one)
            same = known is not None and known.taken is other and known.version == other._version  # noqa: SLF001
            if same and other.requires_grad:
                return known
        return None

    def _note(self, found: Difference, total: Tensor) -> None:
        self.asked = True
        if found.learns:
            self.lost.append(Lost(total, found.whole, found.taken, self.outside.here()))


def _sides(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The two tensors of a sum or a difference, neither with a factor."""
    given = (*args, *(kwargs[key] for key in ("input", "other") if key in kwargs))
    if len(given) != 2 or kwargs.get("alpha", 1) != 1 or not all(isinstance(each, Tensor) for each in given):
        return None
    return given


QUESTIONS = (Question("run.straight_through", check_straight_through),)
