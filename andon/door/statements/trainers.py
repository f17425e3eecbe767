"""What a trainer's own functions make of what they are given."""

from andon.door.records import Run
from andon.door.statements.statement import Statement
from andon.verify.errors import NotApplicable, Unusual

ROUNDING = 1e-9


def check_metrics(run: Run) -> None:
    """A figure of an evaluation does not read predictions at places whose label is ignored (-100).

    Asked of the `compute_metrics` of transformers' Trainer, called twice in a copy of the process: as it is, and with
    other predictions at places whose label is -100, as are those before and after it.

    Silent because the figure still moves with the model: padding and prompts are a part of it.

    Look for a mask of `labels != -100` before predictions and labels are compared.

    Yellow alone: a figure may be meant to describe all that a model writes.
    """
    if not run.metrics:
        raise NotApplicable("a Trainer with a compute_metrics, and labels of which some are -100 side by side")
    for each in run.metrics:
        changed = [key for key, value in each["before"].items() if abs(each["after"][key] - value) > ROUNDING]
        if changed:
            before, after = each["before"][changed[0]], each["after"][changed[0]]
            raise Unusual(
                f"compute_metrics ({each['line']}) returns {changed[0]} {after:.5g} where it was {before:.5g}, with "
                "other predictions at places whose label is -100"
            )


STATEMENTS = (Statement("run.metrics", check_metrics),)
