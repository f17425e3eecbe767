"""Notes on learning rate schedules: where they are made, and when they go on."""

from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler

from andon.door import places
from andon.door.records import Run, Scheduling
from andon.door.safely import safely
from andon.verify.capturing.replacing import around

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
        self._making = 0  # constructors step schedules: their own, and those that they are given
        self._stepping: list[Any] = []  # a schedule, those that it drives, and so on

    def install(self) -> None:
        """Note constructors, and each class's own step."""
        for kind in SCHEDULERS:
            if "__init__" in vars(kind):
                around(kind, "__init__", self._around_init)
            if "step" in vars(kind):
                around(kind, "step", self._around)

    def made(self, scheduler: Any) -> None:
        """A schedule has been constructed."""
        optimizer = getattr(scheduler, "optimizer", None)
        self.run.scheduling[id(scheduler)] = Scheduling(scheduler, places.here(), id(optimizer))

    def _around_init(self, init: Callable[..., None]) -> Callable[..., None]:
        def noted(scheduler: Any, *args: Any, **kwargs: Any) -> None:
            self._making += 1
            try:
                init(scheduler, *args, **kwargs)
            finally:
                self._making -= 1
            safely(self.run, self.made, scheduler)

        return noted

    def _around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def noted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            self._stepping.append(scheduler)
            try:
                return step(scheduler, *args, **kwargs)
            finally:
                self._stepping.pop()
                safely(self.run, self.stepped, scheduler)

        return noted

    def stepped(self, scheduler: Any) -> None:
        """A schedule has gone on, by the script or by another schedule; not in a constructor."""
        each = self.run.scheduling.get(id(scheduler))
        if each is None or self._making or any(scheduler is other for other in self._stepping):
            return
        each.stepped = places.here()
        if self._stepping:  # how far it has gone it knows itself
            return
        each.calls += 1
        each.since_step += 1
        optimizing = self.run.optimizing.get(each.optimizer)
        each.before_first_step += optimizing is not None and optimizing.steps == 0
