"""What is true of any correct training, said of a watched run: each a function `Run -> None`.

It raises `CheckFailed`, `Unusual` or `NotApplicable` with the numbers and the script's lines in its message.
"""

from andon.door.statements import (
    averages,
    batches,
    caches,
    data,
    evaluation,
    figures,
    flat,
    going_on,
    half,
    held_out,
    kept,
    merges,
    noise,
    optimizers,
    policies,
    rates,
    references,
    registered,
    resuming,
    schedule,
    sharing,
    standards,
    steps,
    trainers,
)
from andon.door.statements.statement import Statement

__all__ = ["STATEMENTS", "Statement"]

STATEMENTS = (
    *steps.STATEMENTS,
    *optimizers.STATEMENTS,
    *registered.STATEMENTS,
    *sharing.STATEMENTS,
    *rates.STATEMENTS,
    *schedule.STATEMENTS,
    *averages.STATEMENTS,
    *kept.STATEMENTS,
    *merges.STATEMENTS,
    *half.STATEMENTS,
    *resuming.STATEMENTS,
    *going_on.STATEMENTS,
    *data.STATEMENTS,
    *batches.STATEMENTS,
    *held_out.STATEMENTS,
    *standards.STATEMENTS,
    *references.STATEMENTS,
    *policies.STATEMENTS,
    *noise.STATEMENTS,
    *evaluation.STATEMENTS,
    *figures.STATEMENTS,
    *flat.STATEMENTS,
    *caches.STATEMENTS,
    *trainers.STATEMENTS,
)
