"""What the micro-batches of one step weigh together."""

from andon.door.questions.question import CLOSE, Question
from andon.door.questions.targets import shown_in
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import NotApplicable, Unusual


def check_division(captured: Captured) -> None:
    """The losses of a step's micro-batches weigh together what the loss of one batch does.

    Asked where, in each step, several backward passes begun at one line add up, nothing scales the gradient afterwards,
    and the loss's gradient shows a cross-entropy: its targets' weights tell whether it is a whole mean.

    Silent because Adam hides a gradient's size; a bound on its norm, SGD's rate and logged norms mean something else.

    Look for the division of the loss by the number of micro-batches.

    Yellow alone: whoever sums over tasks, or over a text's parts, does so.
    """
    if captured.micro_batches < 2:
        raise NotApplicable("gradients of several micro-batches that add up in each step")
    weight = float(shown_in(captured).weights.sum()) * captured.factor
    if abs(weight - 1) < CLOSE:
        raise Unusual(
            f"each of the {captured.micro_batches} micro-batches of a step has the mean of its cross-entropy as its "
            f"loss: together they weigh {captured.micro_batches}, where one batch of all of them weighs 1"
        )


QUESTIONS = (Question("run.micro_batches", check_division),)
