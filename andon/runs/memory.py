"""The peak memory of a run, measured while it runs."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from andon.core.config import Config
    from andon.core.training.loop import OpenSpan, Span
    from andon.core.training.state import TrainState


class PeakMemory:
    """The largest number of live tensor bytes: of the first step on a CPU, of the full run on a GPU.

    On a CPU every operation of that one step is intercepted, which changes no result. The peak is None until then, and
    where `training.compile` hides the operations.
    """

    def __init__(self, state: "TrainState", config: "Config") -> None:
        import torch

        self._state, self._device = state, state.model.lm_head.weight.device
        self._first = self._device.type == "cpu" and not config.training.compile
        self._peak: int | None = None
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    @property
    def peak(self) -> int | None:
        """Bytes, or None where nothing was measured."""
        import torch

        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else self._peak

    def measured(self, span: "Span") -> "Span":
        """The same spans; the first step's also measures memory and is marked so. On a GPU each step's says it."""

        def measuring(name: str, **attributes: object) -> "AbstractContextManager[OpenSpan]":
            opened = span(name, **attributes)
            if name != "train.step" or not (self._first or self._device.type == "cuda"):
                return opened
            return self._intercepted(opened) if self._first else self._with_peak(opened)

        return measuring

    @contextmanager
    def _intercepted(self, opened: "AbstractContextManager[OpenSpan]") -> "Generator[OpenSpan]":
        from andon.verify.observation.tensor_memory import TensorMemory

        with opened as inner:
            self._first = False
            inner.set_attributes(measuring=True)
            with TensorMemory(self._tensors()) as live:
                yield inner
            self._peak = live.peak

    @contextmanager
    def _with_peak(self, opened: "AbstractContextManager[OpenSpan]") -> "Generator[OpenSpan]":
        with opened as inner:
            yield inner
            if peak := self.peak:
                inner.set_attributes(peak_bytes=peak)

    def _tensors(self) -> "Generator[Tensor]":
        """The live tensors before the step: parameters, buffers (a quantized base), and Adam's moments."""
        yield from self._state.model.parameters()
        yield from self._state.model.buffers()
        for moments in self._state.optimizer.state.values():
            yield from moments.values()
