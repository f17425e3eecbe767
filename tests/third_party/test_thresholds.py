"""What the nightly run and the check of third-party packages publish: each threshold goes green and red."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from andon.gates.config import load_gates
from andon.gates.judge import judge
from tests import variants
from tests.bench import tables
from tests.confidence import highest_share
from tests.third_party import __main__ as third_party

pytestmark = pytest.mark.tier2

ROOT = Path(__file__).parents[2]
Results = list[dict[str, Any]]


def run(subject: str, seed: int = 0, fault: str | None = None, finder: str = "") -> dict[str, Any]:
    """A job and its answer."""
    findings = [{"check": finder, "message": "m", "mistake": False}] if finder else []
    return {
        "subject": subject,
        "seed": seed,
        "fault": fault,
        "error": "",
        "findings": findings,
        "checked": 50,
        "seconds": 1.0,
    }


def quiet(subjects: int = 37, seeds: int = 3) -> Results:
    """Clean subjects, ours and others', each with some seeds."""
    names = ["llama", "litgpt", *(f"core {number}" for number in range(subjects - 2))]
    return [run(name, seed) for name in names for seed in range(seeds)]


def with_faults(found: int = 20, subjects: int = 3) -> Results:
    """Clean subjects, and faults of which some are found."""
    clean = [run(f"s{number}") for number in range(subjects)]
    return clean + [run("llama", fault=f"f{n}", finder="area.check" if n < found else "") for n in range(30)]


def red(tier: str, publish: Callable[..., Any], results: Results, folder: Path, monkeypatch: Any) -> list[str]:
    """The metrics of a tier that are red once these results are published."""
    gates = load_gates(ROOT / "configs" / "gates.toml")
    monkeypatch.chdir(folder)
    publish(results, 1.0, {})
    return [check.name for check in judge(tier, gates).checks if check.state != "pass"]


NIGHTLY = {
    "nightly.subjects": quiet(subjects=19, seeds=6),
    "nightly.fewest_seeds": [*quiet(), run("one more"), run("one more", 1)],
    "nightly.false_alarms": [
        *quiet(subjects=60),
        run("one more", finder="area.check"),
        *(run("one more", seed) for seed in (1, 2)),
    ],
    "nightly.highest_share": quiet(subjects=32),
}
THIRD_PARTY = {
    "third_party.false_alarms": [*with_faults(), run("s9", finder="area.check")],
    "third_party.different_found": [
        *with_faults(19),
        run("litgpt", fault="litgpt-f0", finder="area.check"),
        run("llama", fault="f99") | {"error": "it died"},
    ],
}


def test_what_is_as_it_should_be_is_green(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: silence on clean code, and 20 different faults found, pass every threshold."""
    assert [] == red("nightly", variants.publish, quiet(), tmp_path, monkeypatch)
    assert [] == red("third_party", third_party.publish, with_faults(), tmp_path, monkeypatch)


@pytest.mark.parametrize("metric", NIGHTLY)
def test_each_threshold_of_nightly_goes_red(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a bad result turns its own threshold red, and no other."""
    assert [metric] == red("nightly", variants.publish, NIGHTLY[metric], tmp_path, monkeypatch)


@pytest.mark.parametrize("metric", THIRD_PARTY)
def test_each_threshold_of_third_party_goes_red(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: an alarm, or 19 faults of which one is found twice and one job that died, turn their threshold red."""
    assert [metric] == red("third_party", third_party.publish, THIRD_PARTY[metric], tmp_path, monkeypatch)


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    """Reference: 1 - 0.05^(1/n) where nothing was found; published values for 1 of 10 and 2 of 20, one-sided."""
    assert pytest.approx(1 - 0.05 ** (1 / 111)) == highest_share(0, 111)
    assert pytest.approx(0.3942, abs=1e-4) == highest_share(1, 10)
    assert pytest.approx(0.2826, abs=1e-4) == highest_share(2, 20)


def test_tables_show_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: counts by whose code it is, alarms, and the faults that nothing found."""
    monkeypatch.chdir(tmp_path)
    shown = tables.nightly(variants.summary([*quiet(), run("manual", finder="area.check")]))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if "|" in line]
    assert ["all", "38", "112", "5600", "1"] == cells[-1]
    assert "4.2% of runs" in shown
    assert "Not found: `f20`, `f21`" in tables.third_party(third_party.publish(with_faults(), 1.0, {}))
