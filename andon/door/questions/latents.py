"""Random samples that a model draws around what it computes: gradients pass through them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from andon.door.draws import NOISE
from andon.door.questions.question import Question, followed
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import tensors
from andon.verify.errors import NotApplicable, Unusual


class Stopped(NamedTuple):
    """A sample whose gradient stops."""

    sample: Tensor
    constant: Tensor  # the same without its graph


def check_sample(captured: Captured) -> None:
    """A sample that a model draws around what it computes, and computes on with, passes its gradient on.

    Asked where noise is mixed with what trainable parameters made, as in a variational autoencoder, and parameters take
    up the result.

    Silent because what made the sample has a gradient, from the loss's other terms; only this one never reaches it.

    Look for `detach` and `no_grad` around the sample: `rsample`, and not `sample`.

    Yellow alone: whoever trains the two parts by losses of their own does so.
    """
    seen = _Samples()
    modules, loss = followed(captured, seen, train=True)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not seen.drawn:
        raise NotApplicable("noise that the model mixes with what it computed")
    for each in seen.stopped:
        makers = _live(each.sample.float().sum(), parameters)
        if makers & _live(loss, parameters) and _is_taken_up(each, seen, loss):
            raise Unusual(
                f"a sample {tuple(each.sample.shape)} of noise and of what {len(makers)} parameters made is detached: "
                "the loss depends on it, and its gradient reaches them by other ways alone"
            )


def _is_taken_up(each: Stopped, seen: "_Samples", loss: Tensor) -> bool:
    """Whether parameters compute on with the sample, and the loss depends on it only without its graph."""
    return each.constant in seen.taken_up and bool(_live(loss, [each.constant])) and not _live(loss, [each.sample])


def _live(value: Tensor, sources: Sequence[Tensor]) -> set[int]:
    """The places of those that a value has a gradient for."""
    if value.grad_fn is None or not sources:
        return set()
    found = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    return {place for place, each in enumerate(found) if each is not None and bool(each.ne(0).any())}


class _Samples(TorchFunctionMode):
    """Notes noise, what it is mixed with, where that is detached, and whether parameters take it up then."""

    def __init__(self) -> None:
        super().__init__()
        self.noise, self.mixed = WeakIdKeyDictionary(), WeakIdKeyDictionary()
        self.from_constant = WeakIdKeyDictionary()  # and from which
        self.taken_up = WeakIdKeyDictionary()
        self.stopped: list[Stopped] = []
        self.drawn = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        result, name = func(*args, **kwargs), getattr(func, "__name__", "")
        given = tensors((args, kwargs))
        if name in ("detach", "detach_") and given[0] in self.mixed and torch.is_grad_enabled():
            self.stopped.append(Stopped(given[0], result.requires_grad_()))
            self.from_constant[result] = result
            return result
        for made in tensors(result):
            self._follow(name, given, made)
        return result

    def _follow(self, name: str, given: list[Tensor], made: Tensor) -> None:
        """What a result is, by what it was made of."""
        weighs = any(isinstance(each, torch.nn.Parameter) for each in given)
        for constant in [self.from_constant[each] for each in given if each in self.from_constant]:
            self.from_constant[made] = constant
            if weighs:
                self.taken_up[constant] = True
        if name in NOISE:
            self.noise[made] = True
        elif not weighs:
            self._mix(given, made)

    def _mix(self, given: list[Tensor], made: Tensor) -> None:
        """What is made without parameters: noise still, or noise and what they computed."""
        random = any(each in self.noise for each in given)
        computed = any(each.grad_fn is not None for each in given)
        if any(each in self.mixed for each in given) or (random and computed):
            self.mixed[made] = self.drawn = True
        elif random:
            self.noise[made] = True


QUESTIONS = (Question("run.sample", check_sample),)
