"""Advice: every check of this project has a recipe of its own kind, and nothing is explained that is not judged."""

from pathlib import Path

import pytest

from andon.gates.config import GateError, load_gates
from andon.gates.judge import judge
from andon.gates.report import advice
from tests.gates.small_project import gates_with, leave_clock, leave_evidence

pytestmark = pytest.mark.tier2


def test_every_check_of_this_project_has_a_recipe_of_its_own() -> None:
    """Behavior: no measure, threshold or budget of configs/gates.toml falls back on the general recipe."""
    names = advice.known_checks(load_gates())
    assert len(names) > 20
    assert [] == [name for name in names if advice.recipe_for(name) is advice.ANY]


def test_every_recipe_explains_some_name() -> None:
    """Behavior: no recipe stands behind another whose patterns take all of its names."""
    for each in advice.recipes():
        assert any(advice.recipe_for(pattern.replace("*", "x")).name == each.name for pattern in each.checks), each.name


def test_a_survivor_has_its_five_whys() -> None:
    """Behavior: the worked recipes that people look for are there, by the names of their checks."""
    survivor = advice.recipe_for("mutation.survivors core/training/loss.py")
    assert 4 <= " ".join(survivor.steps).lower().count("why")
    assert "hotspot" in advice.recipe_for("debt.project").name
    assert "critical path" in advice.recipe_for("coverage.lines core/model/llama.py").name
    assert "critical path" not in advice.recipe_for("coverage.lines").name


def test_a_check_is_explained_as_it_stands(tmp_path: Path) -> None:
    """Behavior: its value, its reason and its command, then the steps, in 100 columns; an unknown one is refused."""
    leave_evidence(tmp_path, lines=50.0)
    leave_clock(tmp_path)
    gates = gates_with()
    text = advice.explain("probe.lines", gates, judge("strict", gates, tmp_path).checks)
    assert all(part in text for part in ("red, 50 % (must be >= 90)", "lines matter", "make probe", "\n1. "))
    assert max(map(len, text.splitlines())) <= 100
    nothing = advice.explain("probe.lines", gates, judge("strict", gates, tmp_path / "absent").checks)
    assert "state  not measured (must be >= 90)" in nothing
    with pytest.raises(GateError, match=r"did you mean probe\.lines"):
        advice.explain("probe.line", gates, ())
