"""How much memory a run's step takes, measured while it runs."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.core.training.loop import Span
    from andon.core.training.state import TrainState


class Memory:
    """The most bytes of tensors that were alive at once: in the first step on a CPU, in all of the run on a GPU.

    On a CPU every operation of that one step is looked at, which changes no result. None until then, and where
    `training.compile` hides the operations.
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

    def watching(self, span: "Span") -> "Span":
        """The same spans, the first step's with an eye on memory."""

        @contextmanager
        def watched(name: str, **attributes: object) -> Generator[object]:
            from andon.verify.observation.tensor_memory import LiveBytes

            with span(name, **attributes) as inner:
                if name != "train.step" or not self._first:
                    yield inner
                    return
                self._first = False
                with LiveBytes(self._tensors()) as live:
                    yield inner
                self._peak = live.peak

        return watched

    def _tensors(self) -> "Generator[Any]":
        """What is alive before the step: parameters, what is frozen or quantized, and moments."""
        yield from self._state.model.parameters()
        yield from self._state.model.buffers()
        for moments in self._state.optimizer.state.values():
            yield from moments.values()
