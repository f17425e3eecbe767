"""One cause, one finding: which findings follow from another, and which of them comes first.

Nearly every check compares two passes of one model. Where a premise of all such comparisons is broken, each of them
finds something, and only the check that states the premise names the cause. Whether a check rests on passes is
measured, never listed: it is begun again and stopped at its first forward pass.
"""

from collections.abc import Callable, Sequence

from andon.verify.run.report import RED, Finding

# Checks whose statement is a premise of whatever compares two passes.
PREMISES = ("initialization.finite", "subject.finite", "subject.repeats", "determinism.eval")
PARITY = "reference"  # its checks say that something differs, and never what
# From what a run is given to what comes of it: a finding can be the cause of those in areas after its own.
AREAS = (
    "subject",
    "determinism",
    "text",
    "data",
    "configuration",
    "structure",
    "initialization",
    "norms",
    "positions",
    "attention",
    "packing",
    "loss",
    "quantization",
    "adapters",
    "gradients",
    "dtypes",
    "autocast",
    "generation",
    "schedule",
    "accumulation",
    "clipping",
    "optimizer",
    "updates",
    "memory",
    "evaluation",
    "resume",
    PARITY,
)


def name_of(finding: Finding) -> str:
    """The check's name, without its variant."""
    return finding.check.partition(" [")[0]


def variant_of(finding: Finding) -> str:
    """Which of the subject's variants it is of; empty for the subject itself."""
    return finding.check.partition(" [")[2]


def by_cause(findings: Sequence[Finding], rests_on_passes: Callable[[Finding], bool]) -> tuple[Finding, ...]:
    """Findings with the cause first, and beneath it what follows from it; mistakes come last, as they came.

    What rests on passes follows from a premise of theirs that is broken; a difference from a reference follows from any
    red finding that rests on passes, as the reference has not that fault.
    """
    ordered = sorted((each for each in findings if not each.mistake), key=_place)
    kept: dict[str, Finding] = {}
    for each in ordered:
        cause = _cause(each, list(kept.values()), rests_on_passes)
        if cause is None:
            kept[each.check] = each
        else:
            kept[cause.check] = cause._replace(follows=(*cause.follows, each.check))
    return (*kept.values(), *(each for each in findings if each.mistake))


def _place(finding: Finding) -> tuple[bool, int, int]:
    """Premises, then red before yellow, then from what is given to what comes of it."""
    name = name_of(finding)
    premise = PREMISES.index(name) if name in PREMISES else len(PREMISES)
    area = name.partition(".")[0]
    return finding.light != RED, premise, AREAS.index(area) if area in AREAS else len(AREAS)


def _cause(finding: Finding, before: Sequence[Finding], rests_on_passes: Callable[[Finding], bool]) -> Finding | None:
    """The finding among those before it that it follows from."""
    own = [each for each in before if each.light == RED and variant_of(each) == variant_of(finding)]
    premise = next((each for each in own if name_of(each) in PREMISES), None)
    if premise and rests_on_passes(finding):
        return premise
    if name_of(finding).startswith(f"{PARITY}."):
        return next((each for each in own if rests_on_passes(each)), None)
    return None
