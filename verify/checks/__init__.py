"""All checks, by area: `area.what` is the function `check_what` in the file `area.py`, whose end lists what it holds.

A check is a function `Subject -> None` that raises `CheckFailed` with the numbers in it, or `NotApplicable`; what a
pass rests on (a dtype that fell back) it may return as a sentence. Its docstring's first line is what is true of any
correct implementation; the paragraphs after it are what `andon verify explain` shows: why the fault stays silent in
training, and what to look at (that paragraph begins with "Look").
"""

from andon.verify.checks import (
    accumulation,
    adapters,
    attention,
    autocast,
    clipping,
    configuration,
    data,
    determinism,
    dtypes,
    evaluation,
    generation,
    gradients,
    initialization,
    loss,
    memory,
    norms,
    optimizer,
    packing,
    positions,
    quantization,
    reference,
    resume,
    schedule,
    structure,
    text,
    updates,
)
from andon.verify.checks.table import Check

__all__ = ["CHECKS", "Check"]

# In the order in which they run within a tier: what needs the least of a subject first, whole training runs late.
CHECKS = (
    *loss.CHECKS,
    *attention.CHECKS,
    *positions.CHECKS,
    *norms.CHECKS,
    *structure.CHECKS,
    *initialization.CHECKS,
    *determinism.CHECKS,
    *dtypes.CHECKS,
    *packing.CHECKS,
    *generation.CHECKS,
    *configuration.CHECKS,
    *reference.CHECKS,
    *data.CHECKS,
    *text.CHECKS,
    *gradients.CHECKS,
    *quantization.CHECKS,
    *schedule.CHECKS,
    *updates.CHECKS,
    *autocast.CHECKS,
    *optimizer.CHECKS,
    *accumulation.CHECKS,
    *clipping.CHECKS,
    *memory.CHECKS,
    *evaluation.CHECKS,
    *resume.CHECKS,
    *adapters.CHECKS,
)
