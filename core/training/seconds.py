"""How long a step's phases took, measured without making a GPU wait."""

import time
from collections import defaultdict, deque
from collections.abc import Generator
from contextlib import contextmanager

import torch

Events = deque[tuple[str, torch.cuda.Event, torch.cuda.Event]]


class PhaseSeconds(defaultdict[str, float]):
    """Seconds by phase of one step. `late` holds events of a GPU that are not read yet, over all steps of a run."""

    def __init__(self, late: Events | None = None) -> None:
        super().__init__(float)
        self.late: Events = deque() if late is None else late

    @contextmanager
    def measure(self, name: str, device: torch.device) -> Generator[None]:
        """Add the block's time: on the clock, or on a GPU between two events in its stream, read by `collect`."""
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self.late.append((name, begin, end))
            return
        begun = time.perf_counter()
        yield
        self[name] += time.perf_counter() - begun

    def collect(self) -> None:
        """Add the phases whose work has ended. One that goes on, as a step's last may, is added to the step after."""
        while self.late and self.late[0][2].query():
            name, begin, end = self.late.popleft()
            self[name] += begin.elapsed_time(end) / 1e3
