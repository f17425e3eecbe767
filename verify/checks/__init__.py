"""All checks, by area: `area.what` is the function `check_what` in the file `area.py`, whose end lists what it holds.

A check is a function `Subject -> None` that raises `CheckFailed` with the numbers in it, or `NotApplicable`; what a
pass rests on (a dtype that fell back) it may return as a sentence. Where what it found is right if its author meant it,
it raises `Unusual`: the finding is yellow, and not red.

Its docstring is what `andon verify explain` shows. The first line is what is true of any correct implementation. Of
the paragraphs after it, one begins with "Silent" and says why training does not show a fault, and one begins with
"Look" and says where to look for it. One that begins with "Yellow" says where it raises `Unusual`, and why; "Yellow
alone", where it raises nothing else. Any other is more about the first line. A section "Example:" then holds code
with a fault that the check finds, from a line "# wrong: " on, and the same code mended, from a line "# right" on. A
last paragraph "Reference:" may name the source.
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
    objective,
    optimizer,
    packing,
    positions,
    quantization,
    reference,
    resizing,
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
    *objective.CHECKS,
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
    *resizing.CHECKS,
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
