"""Terms of a loss that change with the model, and that nothing is learned from."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from andon.door.places import Place
from andon.door.questions.question import Outside, Question, parts_of
from andon.verify.access.calls import seeded
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import NotApplicable, Unusual

MOVED = 0.1  # of a weight's size
SEEDS = (1, 2)
ROUNDING = 1e-6  # of a term
SIGNS = {"add": 1, "__add__": 1, "__radd__": 1, "add_": 1, "__iadd__": 1}
SIGNS |= {"sub": -1, "__sub__": -1, "subtract": -1, "sub_": -1, "__isub__": -1}
REVERSED = ("__rsub__", "rsub")
FACTORS = ("mul", "__mul__", "__rmul__", "multiply", "mul_", "__imul__")
DIVISORS = ("div", "__truediv__", "true_divide", "div_", "__itruediv__", "__idiv__")
NEGATES = ("neg", "__neg__", "negative")
JOINED = ("stack", "cat", "concat", "hstack")
# What gives the same number, of one number; of a vector that was joined, sum and mean give its sum.
SAME = ("sum", "mean", "squeeze", "view", "reshape", "to", "cpu", "float", "double", "type_as", "contiguous", "detach")


class Term(NamedTuple):
    """One number that a sum takes."""

    value: float
    learns: bool  # whether it has a gradient
    place: Place | None

    def times(self, factor: float) -> "Term":
        """The same with a factor."""
        return self._replace(value=self.value * factor)


def check_idle_term(captured: Captured) -> None:
    """What a loss adds up of the model's own numbers has a gradient.

    Asked of a loss that is a sum of numbers, each with a factor that is given or none, some of which have a gradient.
    That a number without one comes from the model is shown by weights that are learned, moved by a tenth, twice: it
    changes with them on the same batch. Not asked of a loss that takes another term away from itself, for its value.

    Silent because the loss is what it should be, and falls by its other terms; what the term is to bring about is left
    to chance.

    Look for what the term is computed of: the wrong side is detached, or counts stand where probabilities should.

    Yellow alone: a term may be there for the figure that is printed.
    """
    terms, weights = _terms(captured)
    if not _can_be_asked(terms):
        raise NotApplicable("a loss that adds up several numbers, some of them with a gradient")
    idle = [place for place, each in enumerate(terms) if not each.learns and each.value]
    moved = [_terms(captured, weights, seed)[0] for seed in SEEDS] if idle else []
    for place in idle:
        if any(_has_changed(terms, others, place) for others in moved):
            raise Unusual(_said(terms, terms[place]))


def _can_be_asked(terms: list[Term]) -> bool:
    """Whether terms are several, some with a gradient, and none is another taken away: that exchanges its value."""
    learned = {each.value for each in terms if each.learns and each.value}
    has_pair = any(-each.value in learned for each in terms if not each.learns)
    return len(terms) > 1 and any(each.learns for each in terms) and not has_pair


def _said(terms: list[Term], term: Term) -> str:
    where = f" ({term.place})" if term.place else ""
    share = abs(term.value) / sum(abs(each.value) for each in terms)
    return (
        f"a term of the loss{where}, {term.value:.3g} or {share:.2g} of the sum of all {len(terms)}, changes with the "
        "weights of the model and has no gradient: nothing is learned from it"
    )


def _has_changed(terms: list[Term], others: list[Term], place: int) -> bool:
    """Whether a term is another number in a sum that was made alike."""
    alike = [each.learns for each in terms] == [each.learns for each in others]
    one = terms[place].value
    return alike and abs(others[place].value - one) > ROUNDING * abs(one)


def _terms(captured: Captured, weights: Iterable[int] = (), seed: int | None = None) -> tuple[list[Term], set[int]]:
    """What the loss adds up, as the model trains, and the places of the parameters that it has a gradient for.

    With a seed, of parameters at these places that were moved at random.
    """
    modules = [deepcopy(each) for each in captured.before]
    parameters = list({id(p): p for module in modules for p in module.parameters()}.values())
    if seed is not None:
        _move([parameters[place] for place in weights], seed)
    seen = _Additions()
    with seeded(), torch.enable_grad(), seen:
        loss = captured.values(parts_of(captured), modules)[id(captured.loss)]
    return seen.terms_of(loss), _reached(loss, parameters)


def _reached(loss: Tensor, parameters: list[nn.Parameter]) -> set[int]:
    """The places of those that the loss has a gradient for."""
    learning = {place: p for place, p in enumerate(parameters) if p.requires_grad}
    if not loss.requires_grad or not learning:
        return set()
    found = torch.autograd.grad(loss, list(learning.values()), allow_unused=True)
    return {place for place, each in zip(learning, found, strict=True) if each is not None}


def _move(parameters: Iterable[nn.Parameter], seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.add_(MOVED * (p.square().mean().sqrt() + MOVED) * torch.randn(p.shape, generator=noise).to(p))


class _Additions(TorchFunctionMode):
    """Notes what numbers are sums of."""

    def __init__(self) -> None:
        super().__init__()
        self.outside = Outside()
        self.terms = WeakIdKeyDictionary()  # of a number, or of a vector that was joined of numbers

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        terms = self._added_up(getattr(func, "__name__", ""), args, kwargs)  # before: the call may write to its sides
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            return result
        if terms is not None:
            self.terms[result] = [each._replace(learns=each.learns and result.requires_grad) for each in terms]
        elif _is_number(result):
            self.terms[result] = [self._term(result)]
        return result

    def terms_of(self, number: Any) -> list[Term]:
        """What a number adds up; itself where it is no sum; none where it is Python's, a constant."""
        if not isinstance(number, Tensor):
            return []
        known = self.terms.get(number)
        return list(known) if known is not None else [self._term(number)]

    def _term(self, number: Tensor) -> Term:
        return Term(float(number.detach()), number.requires_grad, self.outside.here())

    def _added_up(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Term] | None:
        """The terms of what a call returns, where it only adds up, multiplies by what is given, or joins."""
        if name in JOINED:
            return self._joined(args)
        given = (*args, *(kwargs[key] for key in ("input", "other") if key in kwargs))
        if len(given) == 2 and all(map(_is_constant_or_number, given)):
            summed = self._summed(name, *given, float(kwargs.get("alpha", 1)))
            return self._scaled(name, *given) if summed is None else summed
        return self._same(name, given)

    def _same(self, name: str, given: tuple[Any, ...]) -> list[Term] | None:
        """Those of what a call returns as it is, with the other sign, or as the sum of what was joined."""
        if name in NEGATES and len(given) == 1 and _is_number(given[0]):
            return [each.times(-1) for each in self.terms_of(given[0])]
        if name not in SAME or not self._is_sum(given):
            return None
        divisor = given[0].numel() if name == "mean" else 1
        return [each.times(1 / divisor) for each in self.terms_of(given[0])]

    def _summed(self, name: str, one: Any, other: Any, alpha: float) -> list[Term] | None:
        if name not in SIGNS and name not in REVERSED:
            return None
        one, other = (other, one) if name in REVERSED else (one, other)
        sign = SIGNS.get(name, -1) * alpha
        return [*self.terms_of(one), *(each.times(sign) for each in self.terms_of(other))]

    def _joined(self, args: tuple[Any, ...]) -> list[Term] | None:
        if not args or not isinstance(args[0], tuple | list) or not all(map(_is_one, args[0])):
            return None
        return [term for each in args[0] for term in self.terms_of(each)]

    def _is_sum(self, given: tuple[Any, ...]) -> bool:
        """Whether what is given is a number, or a vector that was joined of numbers."""
        return bool(given) and isinstance(given[0], Tensor) and (_is_number(given[0]) or given[0] in self.terms)

    def _scaled(self, name: str, one: Any, other: Any) -> list[Term] | None:
        """The terms of the one of two that is more than a factor."""
        if name in DIVISORS and not _learns(other):
            return [each.times(1 / float(other)) for each in self.terms_of(one)] if float(other) else None
        if name not in FACTORS or (_learns(one) and _learns(other)):
            return None
        turned = _learns(other) or not isinstance(one, Tensor)
        factor, number = (one, other) if turned else (other, one)
        return [each.times(float(factor)) for each in self.terms_of(number)]


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point()


def _is_one(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def _is_constant_or_number(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _learns(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


QUESTIONS = (Question("run.idle_term", check_idle_term),)
