"""A policy that is trained several times on what it did: whether its importance ratios follow it."""

from collections import Counter

from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement
from andon.verify.errors import NotApplicable, Unusual

NEARLY = 0.9
TIMES = 1.5  # as many steps on a row as it was acted on: it is used again
EVERY = 0.9  # of the steps, from the first to the last, with which something is given: it is part of each


def check_ratio(run: Run) -> None:
    """Where a policy is trained in several steps on what it did, its ratio to the policy that did it is not always 1.

    The ratio is an exponential that is learned from and clamped, in several sampled micro-batches. That rows are used
    again is counted: nearly all that are trained on were given without gradients, now and then, and are trained on in
    more steps than they were given so. Where each is trained on once, 1 is right, and nothing is asked.

    Silent because its gradient is that of a plain policy gradient: only what bounds the update never acts.

    Look at where the old log probabilities are computed: once, as the policy acts, and not again in each step.

    Yellow alone.
    """
    ratios = {each.step: each.ratio for each in run.samples if each.ratio is not None}
    if len(ratios) < FEW or not _are_used_again(run):
        raise NotApplicable(
            f"{FEW} captured micro-batches with an exponential that is clamped, a policy's ratio, of rows that are "
            "trained on in more steps than they were acted on"
        )
    if not any(ratios.values()):
        raise Unusual(
            f"in {len(ratios)} micro-batches of as many steps the ratio that is clamped, an exponential, is exactly 1 "
            "at every place, though rows come again in several steps: the policy is compared with itself as it is now"
        )


def check_twins(run: Run) -> None:
    """Of two things that a loss takes beside what the model returns, the second says something that the first does not.

    Asked where in several sampled micro-batches two tensors that no module is given, of more than two values, hold the
    same numbers, others each time. Not found where they differ in any: a reference is what it began as, a policy is
    not, and only before its first step do the two agree.

    Silent because what should hold a policy near its reference is always nothing.

    Look at what each of the two is computed by: a reference that is the trained model itself, not a copy of it.

    Yellow alone: one set of targets may be given for two heads.
    """
    of = [each.twins for each in run.samples]
    names = {name for twins in of for name in twins}
    if not names:
        raise NotApplicable("two tensors of the same numbers that the loss alone takes")
    for name in sorted(names):
        marks = {each.twins[name] for each in run.samples if name in each.twins}
        optimizers = {each.optimizer for each in run.samples if name in each.twins}
        beside = [each for each in run.samples if each.optimizer in optimizers]
        if len(marks) >= FEW and all(name in each.twins for each in beside):
            raise Unusual(
                f"in {len(beside)} micro-batches {name}, which the loss takes beside what the model returns, are the "
                f"same numbers, {len(marks)} different ones: what is made of their difference is always nothing"
            )


def _are_used_again(run: Run) -> bool:
    """Whether the policy is trained on rows in more steps than they were acted on: the most of any place counts."""
    policies = _policies(run)
    trained, acted = Counter[int](), Counter[int]()
    for passes in run.passes.values():
        if passes.trained and (not policies or policies & passes.modules.keys()):
            trained |= Counter(row for row, _ in set(passes.rows.by_step()))
        elif not passes.trained and not passes.with_gradients and passes.moments.share < EVERY:
            acted |= Counter(passes.rows.seen)
    known = [row for row in trained if acted[row]]
    again = sum(trained[row] for row in known)
    return bool(known) and len(known) >= NEARLY * len(trained) and again >= TIMES * sum(acted[row] for row in known)


def _policies(run: Run) -> set[int]:
    """The models, where they are known, of optimizers in whose micro-batches there are ratios."""
    asked = (run.optimizing.get(each.optimizer) for each in run.samples if each.ratio is not None)
    return {id(each.model) for each in asked if each is not None and each.model is not None}


STATEMENTS = (Statement("run.ratio", check_ratio), Statement("run.twins", check_twins))
