"""Notes what a script does with torch, and from where. Nothing that it computes changes.

Torch's own global hooks where there are some, and otherwise the same function with a note before and after it.
"""

import gc
from typing import Any

from andon.door.backward import BackwardNotes
from andon.door.ending import Ending
from andon.door.entry import entry_now
from andon.door.forward import ForwardNotes
from andon.door.loading import LoadNotes
from andon.door.records import Run
from andon.door.scheduling import ScheduleNotes
from andon.door.stepping import StepNotes
from andon.door.trail import Trail
from andon.door.trainer_metrics import TrainerMetrics
from andon.door.windows import Windows


def begin(options: dict[str, Any]) -> Run:
    """Watch from here to the process's end, or to the limits of `options`; what is returned holds all that was seen."""
    run = Run(entry=entry_now())
    windows = Windows(run, options)
    ending = Ending(run, options, windows.fork)
    if options["trail"]:
        run.trail = Trail(ending.kill if options["until_save"] else None)
    steps = StepNotes(run, windows, ending.after_step)
    for each in (
        ForwardNotes(run, windows),
        BackwardNotes(run, windows),
        steps,
        ScheduleNotes(run),
        LoadNotes(run),
        TrainerMetrics(run, windows),
    ):
        each.install()
    run.scaling.install(run)
    run.births.install(run)
    ending.install()
    gc.freeze()  # what torch and we have loaded is not searched for copies of a model, nor copied for children
    return run
