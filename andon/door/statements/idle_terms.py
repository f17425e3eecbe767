"""Terms of a loss that nothing learns from."""

from andon.door.records import Run
from andon.door.sampling import Sample
from andon.door.statements.statement import FEW, Statement
from andon.verify.errors import NotApplicable, Unusual


def check_idle_term(run: Run) -> None:
    """Each term of a loss that differs from batch to batch has a gradient.

    Asked where in several sampled micro-batches the loss is a sum of numbers, of which one has no gradient, is another
    each time, and never zero: no constant, and no weight of zero.

    Silent because the loss has other terms, and falls by them; this one is logged, and moves nothing.

    Look at what the term is computed from: a `detach` on the wrong side, or counts in the place of probabilities.

    Yellow alone: whoever adds a number for its figure alone does so.
    """
    groups: dict[int, list[Sample]] = {}
    for each in run.samples:
        groups.setdefault(each.optimizer, []).append(each)
    asked = False
    for samples in (each for each in groups.values() if len(each) >= FEW):
        for name in sorted(set.intersection(*(set(each.idle_terms) for each in samples))):
            asked, values = True, [each.idle_terms[name] for each in samples]
            if all(values) and len(set(values)) == len(values):
                raise Unusual(
                    f"in {len(values)} micro-batches the loss is a sum, and {name} has no gradient, though it is "
                    f"another number each time: {', '.join(f'{each:.4g}' for each in values[:FEW])}"
                )
    if not asked:
        raise NotApplicable(f"{FEW} captured micro-batches whose loss is a sum with a number that has no gradient")


STATEMENTS = (Statement("run.idle_term", check_idle_term),)
