"""Judge evidence against thresholds. Reads files only: measuring is `run`'s business, and neither does the other's."""

import functools
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from operator import eq, ge, gt, le, lt
from pathlib import Path

from andon.gates.clock import Usage
from andon.gates.config import Gates, Measure, Threshold, Tier
from andon.gates.evidence import (
    EXIT_CODE,
    FOLDER,
    Evidence,
    EvidenceError,
    Metric,
    changed_sources,
    digest,
    read_evidence,
    run_record,
)
from andon.gates.verdict import Check, Verdict

OPERATORS = {"<": lt, "<=": le, "==": eq, ">=": ge, ">": gt}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")  # colors and what moves a cursor
LOG_LINES = 30
WORST = 5

Find = Callable[[str], tuple[Evidence | None, str]]  # evidence that still holds by name, or None and why there is none


def judge(tier: str, gates: Gates, folder: Path = FOLDER, shared_machine: bool | None = None) -> Verdict:
    """Judge a tier by the evidence in `folder`: each measure's exit code, each threshold, the tier's wall budget.

    Absent, stale or null evidence is red where the tier is strict, and "not measured" (exit 3) elsewhere: it never
    passes. A wall budget that others spoiled is "not measured": exit 3 where the tier is strict, and only reported
    where it is not or where the machine is shared (by default: where CI=true).

    Raises:
        GateError: no such tier.
    """
    if shared_machine is None:
        shared_machine = os.environ.get("CI") == "true"
    rules, measures = gates.tier(tier), gates.measures_of(tier)
    known = {measure.name: measure for measure in gates.measures}
    find = finder(folder)
    checks = [_judge_measure(measure, rules, find, folder) for measure in measures]
    checks += [_judge_threshold(threshold, known, rules, find, folder) for threshold in gates.thresholds_of(tier)]
    if rules.budget_seconds:
        late = _late(measures, find)
        checks.append(_judge_budget(rules, rules.budget_seconds, late, find, shared_machine=shared_machine))
    return Verdict(tier, tuple(checks))


def finder(folder: Path = FOLDER) -> Find:
    """Reads evidence by name, each once, and hashes each source once: for one look at a tree that stands still."""
    hashed = functools.cache(digest)

    @functools.cache
    def find(name: str) -> tuple[Evidence | None, str]:
        try:
            evidence = read_evidence(name, folder)
        except EvidenceError as error:
            return None, str(error)
        changed = changed_sources(evidence, hashed)
        if changed:
            return None, f"{folder / name}.json is stale: {', '.join(changed)} changed since it was measured"
        return evidence, ""

    return find


def reproduction(measure: Measure) -> str:
    """The command line that runs a measure alone, in a shell at the project's root."""
    return "".join(f"{key}={shlex.quote(value)} " for key, value in measure.environment.items()) + measure.command


def log_path(name: str, folder: Path = FOLDER) -> Path:
    """Where a measure's output lies, beside its evidence."""
    return folder / f"{name}.log"


def _judge_measure(measure: Measure, rules: Tier, find: Find, folder: Path) -> Check:
    evidence, missing = find(run_record(measure.name))
    check = Check(
        name=measure.name,
        command=reproduction(measure),
        seconds=evidence.seconds if evidence else None,
        value=_value(evidence, EXIT_CODE).value,
        unit="exit code",
        operator="==",
        threshold=0,
        why="a command that fails has found something",
        next_step=measure.next if evidence else _measure_again(rules),
        sources=tuple(evidence.sources) if evidence else (),
    )
    return _settle(check, rules, missing or _log_tail(log_path(measure.name, folder)))


def _judge_threshold(threshold: Threshold, known: dict[str, Measure], rules: Tier, find: Find, folder: Path) -> Check:
    name, _, key = threshold.metric.partition(".")
    file = run_record(name) if key == EXIT_CODE else name
    evidence, missing = find(file)
    if evidence and key not in evidence.metrics:
        missing = f"{folder / file}.json has no metric {key!r}; it has {', '.join(evidence.metrics)}"
    metric = _value(evidence, key)
    check = Check(
        name=threshold.metric,
        command=reproduction(known[name]) if name in known else evidence.command if evidence else "",
        seconds=None,
        value=metric.value,
        unit=metric.unit,
        operator=threshold.operator,
        threshold=threshold.value,
        why=threshold.why,
        next_step=(known[name].next if name in known else "") if evidence else _measure_again(rules),
        sources=tuple(evidence.sources) if evidence else (),
    )
    return _settle(check, rules, missing or _parts(evidence, key, threshold.operator))


def _judge_budget(rules: Tier, budget: float, late: str, find: Find, *, shared_machine: bool) -> Check:
    evidence, missing = find(rules.name)
    wall, cpu, others = (_value(evidence, key).value for key in ("wall_seconds", "cpu_seconds", "others_share"))
    check = Check(
        name="budget",
        command=f"andon gate run {rules.name}",
        seconds=wall,
        value=wall,
        unit="s wall",
        operator="<=",
        threshold=budget,
        why="a gate that people wait for is a gate that people skip",
        next_step=late or "look at the slowest measure" if evidence else _measure_again(rules),
    )
    if wall is None or cpu is None or others is None:
        return _settle(replace(check, value=None), rules, missing or "the tier's clock holds null")
    clock = f"wall {wall:.1f} s, CPU {cpu:.1f} s, budget {budget:g} s; others took {others:.0%} of the cores"
    check = replace(_settle(check, rules, clock), detail=clock)
    if check.state == "red" and Usage(wall, cpu, others).is_excused:
        exit_code = 3 if rules.strict and not shared_machine else 0
        check = replace(check, state="not measured", exit_code=exit_code, next_step="run it again on a quiet machine")
    return check


def _late(measures: list[Measure], find: Find) -> str:
    """The measures that took longer than their own budgets, in one sentence; empty where none did."""
    late = []
    for measure in measures:
        evidence, _ = find(run_record(measure.name))
        if evidence and measure.budget_seconds and evidence.seconds > measure.budget_seconds:
            late.append(f"{measure.name} ({evidence.seconds:.1f} s of its {measure.budget_seconds:g})")
    return f"beyond their own budgets: {', '.join(late)}" if late else ""


def _settle(check: Check, rules: Tier, detail: str) -> Check:
    """Give a check its state by value, operator and threshold; the detail stays where it does not pass."""
    if check.value is None:
        if rules.strict:
            return replace(check, state="red", exit_code=1, detail="not measured: " + (detail or "null"))
        return replace(check, state="not measured", exit_code=3, detail=detail or "null")
    if OPERATORS[check.operator](check.value, check.threshold):
        return replace(check, state="pass", exit_code=0)
    return replace(check, state="red", exit_code=1, detail=detail)


def _value(evidence: Evidence | None, key: str) -> Metric:
    return evidence.metrics.get(key, Metric(None)) if evidence else Metric(None)


def _measure_again(rules: Tier) -> str:
    return f"measure it: `andon gate run {rules.name}`"


def _log_tail(path: Path) -> str:
    """The last lines of a measure's output: tools say there what failed and where."""
    if not path.exists():
        return f"{path} is missing, so what it printed is lost"
    text = ESCAPES.sub("", path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(text.rstrip().splitlines()[-LOG_LINES:]) or "it printed nothing"


def _parts(evidence: Evidence | None, key: str, operator: str) -> str:
    """Where a whole's value comes from: the parts furthest from the threshold (`lines` has `lines core/config.py`)."""
    metrics = evidence.metrics if evidence else {}
    parts = [(metric.value, name) for name, metric in metrics.items() if name.startswith(f"{key} ")]
    worst = sorted(((value, name) for value, name in parts if value is not None), reverse=operator.startswith("<"))
    return "\n".join(f"{name.removeprefix(key)[1:]}: {value:.4g}" for value, name in worst[:WORST])
