"""The gates file: strict, and every refusal names file, place and rule."""

from pathlib import Path

import pytest

from andon.gates.config import GateError, load_gates

pytestmark = pytest.mark.tier1

TIERS = '[[tiers]]\nname = "quick"\nsummary = "s"\n[[tiers]]\nname = "full"\nsummary = "s"\nincludes = "quick"\n'


def measure(name: str, tier: str, rest: str = "") -> str:
    """One measure in TOML."""
    return f'[[measures]]\nname = "{name}"\ntier = "{tier}"\ncommand = "true"\nnext = "n"\n{rest}\n'


def write(folder: Path, text: str) -> Path:
    """A gates file with that content."""
    path = folder / "gates.toml"
    path.write_text(text)
    return path


def test_a_tier_includes_another_whole(tmp_path: Path) -> None:
    """Behavior: an including tier runs and demands all of the tier below, less what it supersedes."""
    bound = '[[thresholds]]\nmetric = "a.x y"\noperator = ">="\nvalue = 1\ntier = "quick"\nwhy = "w"\n'
    text = TIERS + measure("a", "quick") + measure("b", "quick") + measure("c", "full", 'supersedes = ["b"]') + bound
    gates = load_gates(write(tmp_path, text))
    assert ["a", "b"] == [each.name for each in gates.measures_of("quick")]
    assert ["a", "c"] == [each.name for each in gates.measures_of("full")]
    assert ["a.x y"] == [each.metric for each in gates.thresholds_of("full")]


BOUND = (
    '[[thresholds]]\nmetric = "{metric}"\noperator = "{operator}"\nvalue = {value}\ntier = "{tier}"\nwhy = "{why}"\n'
)
REFUSED = {
    "not valid TOML": ("tiers = [", "not valid TOML"),
    "unknown key": (TIERS + "budget = 3\n", "tiers.1.budget"),
    "wrong type": (TIERS + 'budget_seconds = "3"\n', "tiers.1.budget_seconds"),
    "unknown tier": (TIERS + measure("a", "tier9"), "tier='tier9' is not a tier"),
    "includes upwards": ('[[tiers]]\nname = "a"\nsummary = "s"\nincludes = "a"\n', "includes 'a'"),
    "two of a name": (TIERS + measure("quick", "full"), "'quick' names two things"),
    "supersedes nothing": (TIERS + measure("a", "quick", 'supersedes = ["z"]'), "supersedes 'z'"),
    "a path as a name": (TIERS + measure("../a", "quick"), "measures.0.name"),
    "operator": (
        TIERS + BOUND.format(metric="a.b", operator="!=", value=1, tier="quick", why="w"),
        "thresholds.0.operator",
    ),
    "nan": (
        TIERS + BOUND.format(metric="a.b", operator=">=", value="nan", tier="quick", why="w"),
        "thresholds.0.value",
    ),
    "no reason": (TIERS + BOUND.format(metric="a.b", operator=">=", value=1, tier="quick", why=""), "thresholds.0.why"),
    "no metric": (
        TIERS + BOUND.format(metric="a", operator=">=", value=1, tier="quick", why="w"),
        "thresholds.0.metric",
    ),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_breaks_a_rule_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Behavior: the message names the file, where in it, and the rule."""
    path = write(tmp_path, text)
    with pytest.raises(GateError) as refusal:
        load_gates(path)
    assert str(path) in str(refusal.value)
    assert said in str(refusal.value)


def test_a_missing_file_and_an_unknown_tier_are_refused(tmp_path: Path) -> None:
    """Behavior: both refusals say what to name instead."""
    with pytest.raises(GateError, match="--config"):
        load_gates(tmp_path / "absent.toml")
    with pytest.raises(GateError, match="known are quick, full"):
        load_gates(write(tmp_path, TIERS)).measures_of("tier9")


def test_our_own_file_loads_and_its_tiers_nest() -> None:
    """Behavior: the shipped file obeys its own schema; each tier contains the one below; budgets are 5, 30, 300 s."""
    gates = load_gates()
    budgets = [gates.tier(name).budget_seconds for name in ("tier1", "tier2", "tier3")]
    assert [5, 30, 300] == budgets
    assert ["format", "lint", "types", "contracts", "unit"] == [each.name for each in gates.measures_of("tier1")]
    assert {"coverage.lines", "coverage.branches"} < {each.metric for each in gates.thresholds_of("tier3")}
    assert all(bound in gates.thresholds_of("tier3") for bound in gates.thresholds_of("tier2"))


def test_every_measure_of_this_project_has_a_budget_and_tier3_sums_to_270_seconds() -> None:
    """Behavior: a new measure says what it may take, and makes room where there is none."""
    gates = load_gates()
    assert [] == [measure.name for measure in gates.measures if measure.budget_seconds is None]
    budgets = {measure.name: measure.budget_seconds or 0 for measure in gates.measures_of("tier3")}
    assert sum(budgets.values()) <= 270, budgets


def test_a_project_s_own_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: andon.toml is read where there is one, else configs/gates.toml, and neither is an error that helps."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateError, match=r"andon\.toml.*andon init"):
        load_gates()
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs", TIERS)
    assert ["quick", "full"] == [tier.name for tier in load_gates().tiers]
    (tmp_path / "andon.toml").write_text('[[tiers]]\nname = "own"\nsummary = "s"\n')
    assert ["own"] == [tier.name for tier in load_gates().tiers]
