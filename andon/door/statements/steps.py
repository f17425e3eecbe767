"""What lies between two steps: backward passes, clipping, loss scales, accumulation."""

from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement, at, stepping
from andon.verify.errors import CheckFailed, NotApplicable, Unusual


def check_accumulation(run: Run) -> None:
    """The optimizer steps where the accumulation that the script declares is complete, and nowhere else.

    Silent because each step lowers the loss; it is made of one micro-batch, whose loss was divided as if of many.

    Look whether the optimizer itself went through `accelerator.prepare`.
    """
    for each in stepping(run):
        if each.kinds["partial"] >= FEW:
            raise CheckFailed(
                f"{each.kinds['partial']} of {each.steps} optimizer steps{at(each.stepped)} came while accelerate "
                "was told that the window of accumulation goes on (sync_gradients is False); none should"
            )


def check_all_used(run: Run) -> None:
    """A step is made of the gradients of all backward passes that begin at one line since the step before.

    Silent because the last of them alone lowers the loss as well.

    Look at where `zero_grad()` stands: beside the step, and not beside each micro-batch's backward pass.

    Yellow alone: whoever takes the gradients away himself, to combine them, does so.
    """
    accumulating = [each for each in stepping(run) if max(each.backwards, default=0) > 1]
    if not accumulating:
        raise NotApplicable("several backward passes before a step")
    for each in accumulating:
        if each.kinds["dropped"] >= FEW:
            raise Unusual(
                f"in {each.kinds['dropped']} steps looked at, of {max(each.backwards)} backward passes each"
                f"{at(run.loss_place)}, the gradients of all but the last were thrown away before the next: the step"
                f"{at(each.stepped)} is made of the last alone"
            )


def check_clip_order(run: Run) -> None:
    """Gradients are clipped once they are whole: after the last backward pass of a step, and before its step.

    Silent because norms stay bounded; the parts of a gradient that were clipped early weigh less, or clipping what is
    thrown away bounds nothing.

    Look at the place of the call that clips, beside `backward()`, `step()` and the condition that ends accumulation.

    Yellow where the backward pass behind it is another line's: whoever bounds one loss's gradient alone does so. A norm
    below a thousandth of its bound is only measured.
    """
    clipping = [each for each in stepping(run) if each.kinds["clipped"]]
    if not clipping:
        raise NotApplicable("a script that clips gradients by torch.nn.utils")
    for each in clipping:
        place = at(each.clip.place if each.clip else None)
        if each.kinds["grown and acted"] >= FEW:
            raise (CheckFailed if each.kinds["grown alike"] else Unusual)(
                f"in {each.kinds['grown']} of {each.kinds['all']} steps gradients were clipped{place} and then "
                f"a backward pass{at(run.loss_place)} added to what was left of them"
            )
        if each.kinds["late and acted"] >= FEW and each.kinds["late"] == each.kinds["clipped"]:
            raise CheckFailed(
                f"in all {each.kinds['late']} windows that clip, clipping{place} came after the step"
                f"{at(each.stepped)} and before the next backward pass: no step has ever seen a clipped gradient"
            )


def check_clip_scale(run: Run) -> None:
    """Gradients under a loss scale are unscaled before they are clipped.

    Silent because clipping to 1 what is 65536 times too large leaves a direction, and Adam forgives the rest.

    Look for `scaler.unscale_(optimizer)` before the call that clips.
    """
    clipping = [each for each in stepping(run) if each.kinds["clipped"]]
    if not run.scaling.ever or not clipping:
        raise NotApplicable("a script that scales its loss and clips gradients")
    for each in clipping:
        if each.kinds["scaled"] >= FEW:
            place = at(each.clip.place if each.clip else None)
            raise CheckFailed(
                f"in {each.kinds['scaled']} of {each.kinds['clipped']} steps gradients were clipped{place} while they "
                "were still multiplied by the loss scale"
            )


STATEMENTS = (
    Statement("run.accumulation", check_accumulation),
    Statement("run.all_used", check_all_used),
    Statement("run.clip_order", check_clip_order),
    Statement("run.clip_scale", check_clip_scale),
)
