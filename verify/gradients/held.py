"""What a forward pass stops gradients through, on purpose or not, held while differences are taken.

A detached advantage, a teacher under no_grad, a value read with `item()`: for autograd these are constants, and a
difference that lets them move is the derivative of another function. The first pass keeps them for later ones.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, gumbel_softmax
from torch.overrides import TorchFunctionMode
from torch.random import fork_rng

from andon.verify.access.batches import tensors_in
from andon.verify.errors import NotApplicable
from andon.verify.observation.lines import users_line

data: Any = Tensor.data  # a property, whose getter torch shows to a mode
DETACHING = (Tensor.detach, torch.detach, Tensor.detach_, data.__get__)
READING = (Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.numpy, Tensor.__array__)
set_grad_enabled: Any = torch._C._set_grad_enabled  # noqa: SLF001 - what no_grad and enable_grad call
OTHERWISE = "a forward pass that stops gradients in the same places each time"


class Stops(TorchFunctionMode):
    """Within `recording`, keeps the values at which gradients stop; within `replaying`, hands the same ones out again.

    Where a custom autograd function runs, gradients are off by torch's own doing, and nothing is held: what it detaches
    is its backward's to answer for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.places: dict[str, None] = {}  # in the user's code, in their order
        self._begin(recording=True)

    @property
    def found(self) -> bool:
        """Whether a gradient stops anywhere."""
        return bool(self.kept)

    @contextmanager
    def recording(self) -> Generator[None]:
        """The first pass."""
        self.kept = []
        self._begin(recording=True)
        with torch.enable_grad(), self:
            yield

    @contextmanager
    def replaying(self) -> Generator[None]:
        """A later pass, at other weights."""
        self._begin(recording=False)
        with torch.enable_grad(), self:
            yield

    def _begin(self, *, recording: bool) -> None:
        self._next, self._recording = 0, recording
        self._expected = True  # whether gradients are on, as far as calls have said
        self._within = False  # a custom function
        self._off = False  # by no_grad, in the code under test

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        self._follow()
        if func is set_grad_enabled:
            self._expected = args[0]
            self._off = not args[0] and not self._within
            return func(*args, **kwargs)
        if func is gumbel_softmax and kwargs.get("hard"):
            return self._held_choice(*args, **kwargs)
        result = func(*args, **kwargs)
        if func is embedding and kwargs.get("padding_idx") is not None:
            return self._held_rows(result, args[0] == kwargs["padding_idx"])
        return self._held(func, args, result) if self._stops(func, args) else result

    def _follow(self) -> None:
        """Tell where a custom function begins and ends: there torch turns gradients off and on, which no call says."""
        enabled = torch.is_grad_enabled()
        if enabled != self._expected:
            self._expected, self._within = enabled, not enabled
        self._off = self._off and not enabled

    def _stops(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        if self._within or func is Tensor.requires_grad_:  # which returns its parameter and computes nothing
            return False
        if self._off or torch.is_inference_mode_enabled():
            return True
        first = args[0] if args else None
        reads = func in DETACHING or func in READING
        return reads and isinstance(first, Tensor) and first.requires_grad

    def _held(self, func: Callable[..., Any], args: tuple[Any, ...], result: Any) -> Any:
        """The result of a call through which no gradient goes, as it was in the first pass."""
        tensor = isinstance(result, Tensor) and result.is_floating_point()
        if not tensor and func not in READING:
            return result
        if self._recording:
            self.kept.append(result.detach().clone() if tensor else result)
            self.places.setdefault(users_line())
            return result
        kept = self._take()
        if not tensor:
            return kept
        if not isinstance(kept, Tensor) or kept.shape != result.shape:
            raise NotApplicable(OTHERWISE)
        if any(result is each for each in tensors_in(args)):  # changed in place
            with torch.no_grad():
                return result.copy_(kept)
        return kept.clone()

    def _held_rows(self, result: Tensor, padding: Tensor) -> Tensor:
        """Embedded tokens, of which padding gets no gradient."""
        if self._recording:
            self.kept.append(result.detach().clone())
            return result
        kept = self._take()
        if not isinstance(kept, Tensor) or kept.shape != result.shape:
            raise NotApplicable(OTHERWISE)
        return torch.where(padding[..., None], kept.to(result.dtype), result)

    def _held_choice(self, logits: Tensor, tau: float = 1, hard: bool = True, **options: Any) -> Tensor:
        """A choice that is hard forward and soft backward: torch adds what it detaches within."""
        with fork_rng(devices=[]):
            soft = gumbel_softmax(logits, tau, hard=False, **options)
        result = gumbel_softmax(logits, tau, hard=hard, **options)
        if self._recording:
            self.kept.append((result - soft).detach())
            return result
        kept = self._take()
        if not isinstance(kept, Tensor) or kept.shape != soft.shape:
            raise NotApplicable(OTHERWISE)
        return soft + kept

    def _take(self) -> Any:
        if self._next >= len(self.kept):
            raise NotApplicable(OTHERWISE)
        self._next += 1
        return self.kept[self._next - 1]
