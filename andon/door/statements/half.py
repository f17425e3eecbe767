"""What a loss is computed in."""

from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement, at
from andon.verify.errors import CheckFailed, NotApplicable


def check_loss(run: Run) -> None:
    """A loss is computed in at least float32, before any loss scale is put on it.

    Silent because bfloat16 keeps three digits: the curve looks like noise, and small differences between tokens vanish.

    Look for the cast of the logits to float32 before the softmax, at what autocast encloses, and at casts behind it.

    Reference: huggingface/transformers#29285.
    """
    if not run.losses:
        raise NotApplicable("a backward pass from a loss")
    halves = {what: count for what, count in run.losses.items() if what[1]}
    if sum(halves.values()) >= FEW:
        place, said = max(halves, key=lambda each: halves[each])
        raise CheckFailed(f"{said} in {halves[place, said]} of {sum(run.losses.values())} passes looked at{at(place)}")


STATEMENTS = (Statement("run.loss_precision", check_loss),)
