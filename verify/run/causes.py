"""One cause, one finding: which findings follow from another, and which of them comes first.

Nearly every check compares two passes of one model. Where a premise of all such comparisons is broken, each of them
finds something, and only the check that states the premise names the cause. Whether a check rests on passes is
measured, never listed: it is begun again and stopped at its first forward pass. What one statement takes from another
is a matter of what they say, and stands in CONTAINS.
"""

from collections.abc import Callable, Mapping, Sequence

from andon.verify.run.report import RED, Finding

# Checks whose statement is a premise of whatever compares two passes.
PREMISES = ("initialization.finite", "subject.finite", "subject.repeats", "determinism.eval")
PARITY = "reference"  # its checks say that something differs, and never what
# A statement, and those that it takes for granted: where one of them is broken, it is as well, and says no more.
CONTAINS = {
    "watch.zero_grad": ("watch.stale", "run.membership"),
    "run.membership": ("watch.stale",),
    "run.rates": ("run.schedule_steps",),
    "run.schedule_used": ("run.schedule_steps",),
    "run.padding_targets": ("run.ignored",),
    "run.padding": ("run.padding_targets", "run.ignored"),
    "structure.parameters": ("watch.gradients", "structure.blocks"),  # who is not called gets no gradient
    "attention.causality": ("run.own_target",),
    "data.targets": ("run.next_token", "run.own_target"),
    "data.padding": ("data.targets",),
    "packing.borders": ("data.targets",),
    "packing.padded": ("data.targets",),
    "packing.packed": ("attention.documents", "packing.borders"),
    "packing.conservation": ("packing.borders",),  # a border that is trained is a target too many
    "loss.definition": ("data.targets", "run.ignored", "run.own_target", "run.next_token"),
    "loss.ignored": ("run.ignored",),
    "loss.precision": ("run.loss_precision",),
    "loss.shapes": ("loss.definition",),
    "loss.gradient": ("loss.definition",),
    "generation.greedy": ("generation.decode",),
    "accumulation.clipped": ("accumulation.gradient", "clipping.bound"),
    "accumulation.many": ("accumulation.gradient",),
    "clipping.all_alike": ("accumulation.gradient",),
    "optimizer.decay": ("run.norms_decay",),
    "optimizer.membership": ("run.membership", "watch.stale"),
    "updates.gradient": ("accumulation.gradient", "clipping.bound"),  # a step's gradient, or that clipped
    "updates.fresh": ("updates.gradient",),
    "updates.movement": ("structure.parameters", "optimizer.membership"),
    "adapters.merged_weights": ("adapters.scale",),
    "adapters.file": ("adapters.frozen",),  # the file has the adapter alone
    "adapters.file_of_merged": ("adapters.file",),
    "adapters.two": ("adapters.frozen",),
    "adapters.learning": ("structure.parameters",),
    "evaluation.cut": ("evaluation.mean",),
    "resume.twice": ("resume.continuation",),
}
# Areas, and checks out of their area's place, from what a run is given to what comes of it: a finding can be the cause
# of those after its own, and the more a check looks at together the later it stands.
ORDER = (
    "subject",
    "watch",
    "run",
    "watch.zero_grad",
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
    "objective",
    "resizing",
    "quantization",
    "adapters.frozen",
    "adapters.scale",
    "adapters",
    "gradients",
    "dtypes",
    "autocast",
    "generation",
    "schedule",
    "accumulation.gradient",
    "clipping",
    "accumulation",
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
    causes: dict[str, Finding] = {}  # of each finding, by its check: itself, or what it follows from
    for each in ordered:
        before = {name: cause for name, cause in causes.items() if variant_of(cause) == variant_of(each)}
        cause = causes[each.check] = _cause(each, before, rests_on_passes) or each
        if cause is each:
            kept[each.check] = each
            continue
        beneath = kept[cause.check]
        kept[cause.check] = beneath._replace(follows=(*beneath.follows, each.check, *each.follows))
    return (*kept.values(), *(each for each in findings if each.mistake))


def place_of(name: str) -> tuple[int, int]:
    """A check's place from what a run is given to what comes of it, and how much it takes for granted."""
    if name in PREMISES:
        return PREMISES.index(name) - len(PREMISES), 0
    found = [ORDER.index(each) for each in (name, name.partition(".")[0]) if each in ORDER]
    return found[0] if found else len(ORDER), _depth(name)


def _depth(name: str) -> int:
    return 1 + max(map(_depth, CONTAINS[name])) if name in CONTAINS else 0


def _place(finding: Finding) -> tuple[bool, tuple[int, int]]:
    """Premises, red before yellow, and by place."""
    name = name_of(finding)
    return finding.light != RED and name not in PREMISES, place_of(name)


def _cause(
    finding: Finding, before: Mapping[str, Finding], rests_on_passes: Callable[[Finding], bool]
) -> Finding | None:
    """The finding among those before it that it follows from: a premise, in either light; else none that is weaker."""
    premise = next((each for each in before.values() if name_of(each) in PREMISES), None)
    if premise and rests_on_passes(finding):
        return premise
    name, strong = name_of(finding), {check: cause for check, cause in before.items() if _explains(cause, finding)}
    contained = [cause for check, cause in strong.items() if check.partition(" [")[0] in CONTAINS.get(name, ())]
    if not contained and name.startswith(f"{PARITY}."):
        contained = [cause for cause in strong.values() if cause.light == RED and rests_on_passes(cause)]
    return contained[0] if contained else None


def _explains(cause: Finding, finding: Finding) -> bool:
    """Whether a finding's light is no weaker than that of what it would explain."""
    return cause.light == RED or finding.light != RED
