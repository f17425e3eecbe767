"""Notes on learning rate schedules: where they are made, and when they go on."""

from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler

from andon.door import places
from andon.door.records import Run, Scheduling
from andon.door.wrapping import after, around

SCHEDULERS = (
    lr_scheduler.LRScheduler,
    lr_scheduler.ReduceLROnPlateau,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.SequentialLR,
    lr_scheduler.ChainedScheduler,
)


class ScheduleNotes:
    """What is noted of each schedule of torch's."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._depth = 0

    def install(self) -> None:
        """Note constructors, and each class's own step."""
        after(lr_scheduler.LRScheduler, "__init__", self.made)
        for kind in SCHEDULERS:
            if "step" in vars(kind):
                around(kind, "step", self._around)

    def made(self, scheduler: Any, *_: Any) -> None:
        """A schedule has been constructed; its first step is its constructor's."""
        optimizer = getattr(scheduler, "optimizer", None)
        self.run.scheduling[id(scheduler)] = Scheduling(scheduler, places.here(), id(optimizer))

    def _around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def noted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                return step(scheduler, *args, **kwargs)
            finally:
                self._depth -= 1
                self.stepped(scheduler)

        return noted

    def stepped(self, scheduler: Any) -> None:
        """A schedule has gone on; not where another one drives it, nor in its constructor."""
        each = self.run.scheduling.get(id(scheduler))
        if each is None or self._depth:
            return
        each.stepped = places.here()
        each.calls += 1
        each.since_step += 1
        optimizing = self.run.optimizing.get(each.optimizer)
        each.before_first_step += optimizing is not None and optimizing.steps == 0
