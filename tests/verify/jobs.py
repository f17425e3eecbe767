"""Jobs for the injection engine's own tests: each runs in a process of its own."""

import importlib
import os
import time
from multiprocessing.util import Finalize
from pathlib import Path

from andon.verify.faults.inject import Fault, inject


def answer(fault: Fault | None, wish: str) -> object:
    """What the module answers; otherwise this process dies, hangs, raises, injects too late, or leaves a file."""
    del fault
    if wish == "die":
        os._exit(7)
    if wish == "hang":
        time.sleep(600)  # longer than anybody waits: this is what is killed
    if wish.startswith("leave "):
        Finalize(None, Path(wish.removeprefix("leave ")).touch, exitpriority=0)
    if wish == "raise":
        raise ValueError("as planned")
    if wish == "twice":
        inject(Fault("late", "area", "pattern", "", "", inject.__module__, "0.0", "1.0"))
    return importlib.import_module("package.module").answer()
