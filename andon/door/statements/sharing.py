"""What several optimizers do to the same tensors."""

from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement, at, stepping
from andon.verify.errors import NotApplicable, Unusual


def check_two_optimizers(run: Run) -> None:
    """No tensor is moved by two optimizers in turn.

    Asked where several optimizers step; an optimizer within another one's step is a part of it. In turn is back and
    forth: an optimizer that takes over from another is none.

    Silent because the tensor moves as it should after the one's steps, and is pulled elsewhere by the other's.

    Look at the list of parameters that each optimizer was made with.

    Yellow alone: whoever trains shared layers by two losses, each with an optimizer of its own, does so.
    """
    several = [each for each in stepping(run) if each.steps > 1]
    if len(several) < 2:
        raise NotApplicable("several optimizers that step")
    shared = [each for each in run.turns.of.values() if each.returns >= FEW]
    if shared:
        ones = [run.optimizing[key] for key in shared[0].movers[-2:]]
        lines = " and ".join(f"{type(each.optimizer).__name__}{at(each.made)}" for each in ones)
        name = _name_of(run, shared[0].tensor)
        raise Unusual(
            f"{name} {tuple(shared[0].tensor.shape)} is moved by two optimizers in turn: {lines} both hold it"
        )


def _name_of(run: Run, tensor: object) -> str:
    """A parameter's, with its model's class."""
    names = (
        f"{type(module).__name__}.{name}"
        for module in run.modules.values()
        for name, p in module.named_parameters()
        if p is tensor
    )
    return next(names, "a tensor")


STATEMENTS = (Statement("run.two_optimizers", check_two_optimizers),)
