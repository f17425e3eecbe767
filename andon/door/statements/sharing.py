"""What several optimizers do to the same tensors."""

from andon.door.backward import LOOKED_AT
from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement, at, stepping
from andon.verify.errors import NotApplicable, Unusual

HALF = 0.5  # of the steps that were looked at


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


def check_left_gradients(run: Run) -> None:
    """A step's gradients are of losses that no other optimizer's step has answered already.

    Asked where several optimizers step. Found where one has gradients of a backward pass, another one steps by the
    gradients of that same pass, and then a backward pass that begins at another line adds to what is still there.

    Silent because the later loss's gradient is there, too: the step follows the sum of both.

    Look for `detach()` of what the earlier loss is computed of, and for `zero_grad()` before the later backward pass.

    Yellow alone: whoever lets a part learn from both losses does so.
    """
    several = stepping(run)
    if len(several) < 2:
        raise NotApplicable("several optimizers that step")
    for each in several:
        looked = min(each.steps, LOOKED_AT)
        if each.kinds["mixed"] >= FEW and each.kinds["mixed"] > HALF * looked and each.mixed is not None:
            earlier, later = each.mixed
            raise Unusual(
                f"in {each.kinds['mixed']} of {looked} steps{at(each.stepped)} that were looked at, the gradients are "
                f"those of the backward pass{at(later)} and of one before{at(earlier)}, by which another optimizer "
                "has stepped already"
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


STATEMENTS = (
    Statement("run.two_optimizers", check_two_optimizers),
    Statement("run.left_gradients", check_left_gradients),
)
