"""Judging: each threshold goes red at its edge, and what was not measured never passes."""

import math
from pathlib import Path
from typing import Any

import pytest

from andon.gates.config import Gates, load_gates
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.verdict import Check, Verdict
from tests.gates.small_project import COMMAND, OPERATORS, gates_with, leave_clock, leave_evidence

pytestmark = pytest.mark.tier1

EDGES = [
    (operator, value, side == 0) for operator, sides in OPERATORS.items() for side in (0, 1) for value in sides[side]
]


def check_of(verdict: Verdict, name: str) -> Check:
    """The verdict's check of that name."""
    return next(check for check in verdict.checks if check.name == name)


@pytest.mark.parametrize(("operator", "value", "passes"), EDGES)
def test_every_kind_of_threshold_at_its_edge(tmp_path: Path, operator: str, value: float, passes: bool) -> None:
    """Behavior: each operator passes and goes red on the right side of its value."""
    leave_evidence(tmp_path, lines=value)
    leave_clock(tmp_path)
    verdict = judge("strict", gates_with(operator), tmp_path)
    assert ("pass" if passes else "red") == check_of(verdict, "probe.lines").state
    assert (0 if passes else 1) == verdict.exit_code


def test_every_threshold_of_this_project_goes_red(tmp_path: Path) -> None:
    """Behavior: a value on the wrong side of each shipped threshold is red, and one on the right side passes."""
    gates = load_gates()
    for bound in gates.thresholds:
        name, _, metric = bound.metric.partition(".")
        above, below = math.nextafter(bound.value, math.inf), math.nextafter(bound.value, -math.inf)
        wrong = {"<": bound.value, "<=": above, "==": above, ">=": below, ">": bound.value}[bound.operator]
        right = {"<": below, ">": above}.get(bound.operator, bound.value)
        for value, state in ((wrong, "red"), (right, "pass")):
            write_evidence(Evidence(name, "injected", 1.0, {}, {metric: Metric(value)}), tmp_path)
            assert state == check_of(judge(bound.tier, gates, tmp_path), bound.metric).state, bound.metric


@pytest.mark.parametrize("code", [1, 2, -9, 124])
def test_a_command_that_fails_is_red_with_its_output(tmp_path: Path, code: int) -> None:
    """Behavior: any exit code but 0 is red, with the end of what it printed, the command and the next step."""
    leave_evidence(tmp_path, exit_code=code)
    leave_clock(tmp_path)
    (tmp_path / "probe.log").write_text("".join(f"line {number}\n" for number in range(100)) + "\x1b[31mboom\x1b[0m\n")
    check = check_of(judge("loose", gates_with(), tmp_path), "probe")
    assert ("red", COMMAND, "mend the probe") == (check.state, check.command, check.next_step)
    assert check.why == "a command that fails has found something"
    assert check.detail.endswith("line 99\nboom")
    assert "line 5\n" not in check.detail


def test_a_red_whole_names_its_worst_parts(tmp_path: Path) -> None:
    """Behavior: a threshold on a whole says which parts pull it down, worst first."""
    leave_evidence(tmp_path, lines=50.0, **{"a.py": 90.0, "b.py": 10.0, "c.py": 30.0})
    assert "b.py: 10\nc.py: 30\na.py: 90" == check_of(judge("strict", gates_with(), tmp_path), "probe.lines").detail


def test_a_part_has_a_threshold_of_its_own(tmp_path: Path) -> None:
    """Behavior: the evidence's name ends at the first dot: a metric may name a file."""
    leave_evidence(tmp_path, **{"a.py": 10.0})
    gates = gates_with()
    part = gates.thresholds[0].model_copy(update={"metric": "probe.lines a.py"})
    check = check_of(judge("strict", gates.model_copy(update={"thresholds": [part]}), tmp_path), "probe.lines a.py")
    assert ("red", 10.0) == (check.state, check.value)


def test_null_is_red_where_strict_and_never_passes(tmp_path: Path) -> None:
    """Behavior: null is red from the strict tier up; below it is "not measured", exit 3."""
    leave_evidence(tmp_path, lines=None)
    leave_clock(tmp_path)
    strict, loose = (judge(tier, gates_with(), tmp_path) for tier in ("strict", "loose"))
    assert ("red", 1) == (check_of(strict, "probe.lines").state, strict.exit_code)
    assert ("not measured", 3) == (check_of(loose, "probe.lines").state, loose.exit_code)


def test_a_metric_that_is_not_there_is_null(tmp_path: Path) -> None:
    """Behavior: a misspelled or vanished metric is red and the message lists what there is."""
    gates = gates_with()
    renamed = gates.thresholds[0].model_copy(update={"metric": "probe.line"})
    leave_evidence(tmp_path)
    leave_clock(tmp_path)
    check = check_of(judge("strict", gates.model_copy(update={"thresholds": [renamed]}), tmp_path), "probe.line")
    assert "red" == check.state
    assert "it has lines" in check.detail


def test_absent_evidence_is_red_and_says_how_to_measure(tmp_path: Path) -> None:
    """Behavior: with nothing measured each check of a strict tier is red, the budget too."""
    verdict = judge("strict", gates_with(), tmp_path)
    assert ["red"] * 3 == [check.state for check in verdict.checks]
    assert all("andon gate run strict" in check.next_step for check in verdict.checks)
    assert all("is missing" in check.detail for check in verdict.checks)


def test_stale_evidence_is_refused(tmp_path: Path) -> None:
    """Behavior: evidence of content that has changed since counts as none, and the message names the content."""
    source = tmp_path / "model.py"
    source.write_text("a = 1\n")
    leave_evidence(tmp_path, sources={str(source): "0" * 64})
    leave_clock(tmp_path)
    verdict = judge("strict", gates_with(), tmp_path)
    assert ["red", "red", "pass"] == [check.state for check in verdict.checks]
    assert all(f"stale: {source} changed" in check.detail for check in verdict.checks[:2])


BUDGETS = [  # wall, others, tier, shared machine -> state, exit code
    (30.0, 0.0, "strict", False, "pass", 0),
    (30.1, 0.0, "strict", False, "red", 1),
    (30.1, 0.0, "loose", True, "red", 1),
    (30.1, 0.10, "strict", False, "red", 1),
    (30.1, 0.11, "strict", False, "not measured", 3),
    (30.1, 0.11, "strict", True, "not measured", 0),
    (30.1, 0.11, "loose", False, "not measured", 0),
    (29.0, 0.90, "strict", False, "pass", 0),
]


@pytest.mark.parametrize(("wall", "others", "tier", "shared", "state", "code"), BUDGETS)
def test_the_budget_is_excused_by_others_only(
    tmp_path: Path, wall: float, others: float, tier: str, shared: bool, state: str, code: int
) -> None:
    """Behavior: beyond the budget is red unless others took over 10%; then exit 3, or a line on shared machines."""
    leave_evidence(tmp_path)
    leave_clock(tmp_path, wall, others)
    verdict = judge(tier, gates_with(), tmp_path, shared_machine=shared)
    budget = check_of(verdict, "budget")
    assert (state, code) == (budget.state, verdict.exit_code)
    assert all(part in budget.detail for part in (f"wall {wall:.1f} s", "CPU 25.0 s", "budget 30 s"))


def test_a_busy_machine_excuses_the_budget_alone(tmp_path: Path) -> None:
    """Behavior: with the budget excused everything else is judged as always, and red outweighs "not measured"."""
    leave_evidence(tmp_path, lines=10.0)
    leave_clock(tmp_path, wall=99.0, others=0.5)
    assert 1 == judge("strict", gates_with(), tmp_path, shared_machine=False).exit_code


@pytest.mark.parametrize(("value", "code"), [("true", 0), ("", 3)], ids=["CI", "person"])
def test_a_shared_machine_is_one_where_ci_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, code: int
) -> None:
    """Behavior: unless told, the environment's CI decides."""
    monkeypatch.setenv("CI", value)
    leave_evidence(tmp_path)
    leave_clock(tmp_path, wall=99.0, others=0.5)
    assert code == judge("strict", gates_with(), tmp_path).exit_code


def test_nothing_to_judge_is_not_a_pass(tmp_path: Path) -> None:
    """Behavior: a tier without a measure, a threshold or a budget could not measure: exit 3."""
    gates = Gates.model_validate({"tiers": [{"name": "bare", "summary": "s"}]})
    assert 3 == judge("bare", gates, tmp_path).exit_code


def with_measure(**keys: Any) -> Gates:
    """The probe's gates with other keys of its measure."""
    gates = gates_with()
    return gates.model_copy(update={"measures": [gates.measures[0].model_copy(update=keys)]})


@pytest.mark.parametrize(
    ("budgets", "step"),
    [
        ([1.5], "look at the slowest measure"),
        ([None], "look at the slowest measure"),
        ([1.0], "beyond their own budgets: probe (1.5 s of its 1)"),
        ([1.0, 0.25], "beyond their own budgets: probe (1.5 s of its 1), slow (0.5 s of its 0.25)"),
    ],
)
def test_a_late_tier_names_the_measures_beyond_their_budgets(
    tmp_path: Path, budgets: list[float | None], step: str
) -> None:
    """Behavior: with what they took and what they may take; else the slowest measure is the next step."""
    gates = gates_with()
    named = zip(("probe", "slow"), budgets, strict=False)
    measures = [gates.measures[0].model_copy(update={"name": n, "budget_seconds": b}) for n, b in named]
    leave_evidence(tmp_path)
    write_evidence(Evidence("slow.run", "sleep", 0.5, {}, {"exit_code": Metric(0.0)}), tmp_path)
    leave_clock(tmp_path, wall=31.0)
    verdict = judge("strict", gates.model_copy(update={"measures": measures}), tmp_path, shared_machine=False)
    assert step == check_of(verdict, "budget").next_step


def test_an_exit_code_is_the_runners(tmp_path: Path) -> None:
    """Behavior: a threshold on a measure's exit code reads what the runner wrote, whatever the measure wrote."""
    leave_evidence(tmp_path, exit_code=7.0)
    leave_clock(tmp_path)
    bound = gates_with().thresholds[0].model_copy(update={"metric": "probe.exit_code", "operator": "==", "value": 0.0})
    verdict = judge("strict", gates_with().model_copy(update={"thresholds": [bound]}), tmp_path)
    assert ("red", 7.0) == (check_of(verdict, "probe.exit_code").state, check_of(verdict, "probe.exit_code").value)


def test_a_missing_duration_does_not_keep_a_budget(tmp_path: Path) -> None:
    """Behavior: null says so."""
    leave_evidence(tmp_path)
    write_evidence(Evidence("strict", "run", 1.0, {}, {"wall_seconds": Metric(None)}), tmp_path)
    check = check_of(judge("strict", gates_with(), tmp_path), "budget")
    assert ("red", "not measured: the tier's clock holds null") == (check.state, check.detail)


def test_what_was_measured_stands_beside_what_came_of_it(tmp_path: Path) -> None:
    """Behavior: the command that reproduces it, its unit, and the files and folders that were measured."""
    (tmp_path / "a.py").write_text("a = 1\n")
    sources = digests([str(tmp_path / "a.py")])
    leave_evidence(tmp_path, sources=sources)
    leave_clock(tmp_path)
    verdict = judge("strict", with_measure(environment={"A": "1 2", "B": "x"}), tmp_path)
    measure, threshold = check_of(verdict, "probe"), check_of(verdict, "probe.lines")
    assert f"A='1 2' B=x {COMMAND}" == measure.command
    assert ("exit code", tuple(sources)) == (measure.unit, measure.sources)
    assert (measure.command, "%", tuple(sources)) == (threshold.command, threshold.unit, threshold.sources)


def test_a_failed_commands_last_thirty_lines_are_shown(tmp_path: Path) -> None:
    """Behavior: as they stand, without the empty ones at the end."""
    leave_evidence(tmp_path, exit_code=1)
    for printed, shown in [(range(100), range(70, 100)), (range(3), range(3))]:
        (tmp_path / "probe.log").write_text("".join(f"  line {number}\n" for number in printed) + "\n\n")
        expected = "\n".join(f"  line {number}" for number in shown)
        assert expected == check_of(judge("loose", gates_with(), tmp_path), "probe").detail


def test_five_parts_are_enough(tmp_path: Path) -> None:
    """Behavior: the worst of them; another metric whose name begins alike is not a part."""
    metrics = {f"lines {number}.py": Metric(float(number)) for number in range(9)}
    metrics |= {"lines": Metric(50.0), "linesman 0.py": Metric(0.0)}
    write_evidence(Evidence("probe", "make probe", 1.5, {}, metrics), tmp_path)
    expected = "\n".join(f"{number}.py: {number}" for number in range(5))
    assert expected == check_of(judge("strict", gates_with(), tmp_path), "probe.lines").detail


def test_a_loose_tier_says_why_nothing_was_measured(tmp_path: Path) -> None:
    """Behavior: the reason where there is one, else null; every source that changed is named."""
    assert "is missing" in check_of(judge("loose", gates_with(), tmp_path), "probe").detail
    leave_evidence(tmp_path, lines=None)
    assert "null" == check_of(judge("loose", gates_with(), tmp_path), "probe.lines").detail
    leave_evidence(tmp_path, sources={"a": "0", "b": "0"})
    assert "stale: a, b changed since" in check_of(judge("loose", gates_with(), tmp_path), "probe").detail
