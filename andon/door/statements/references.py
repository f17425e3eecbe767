"""What is said of networks that others learn from."""

from andon.door.records import Run, held
from andon.door.statements.statement import RARE, Statement, at
from andon.door.uses import Use
from andon.verify.errors import NotApplicable, Unusual

AGAIN = 2  # passes


def check_reference(run: Run) -> None:
    """A network that is used without gradients, for what another one learns from, drops nothing.

    Asked of a module in no optimizer whose passes, all without gradients, come with at least half of the steps.

    Silent because its figures are right on average: what is learned from them is noisier.

    Look for `.eval()` on the reference, the teacher or the frozen encoder: `requires_grad_(False)` is none.

    Yellow alone: whoever lets a teacher be noisy does so.
    """
    learning = held(run)
    found = [use for use in run.uses.values() if use.dropouts and _is_a_reference(use, run.steps, learning)]
    if not found:
        raise NotApplicable("a module with dropout that is only used without gradients, in many steps")
    for use in found:
        if use.dropping > use.alone / 2:
            raise Unusual(
                f"dropout acted in {use.dropping} of {use.alone} passes of a {type(use.module).__name__} that no "
                f"optimizer trains, all of them without gradients{at(use.place)}, in a run of {run.steps} steps"
            )


def _is_a_reference(use: Use, steps: int, learning: set[int]) -> bool:
    often = use.alone >= max(AGAIN, RARE * steps)
    return often and not use.with_gradients and not any(id(p) in learning for p in use.module.parameters())


STATEMENTS = (Statement("run.reference", check_reference),)
